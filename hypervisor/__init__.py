"""An x86 hypervisor for teaching.

Reading order: ``monitor`` (what happens on a trap), ``paging`` (shadow page tables), ``devices``,
``state`` and ``migration``; ``hardware`` tells what the computer underneath really is.
"""

from hypervisor import _source

__version__ = "0.1.0"

_source.install()
