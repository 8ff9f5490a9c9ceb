"""The ways to run a guest kernel without its privilege; each is one readable file."""

from hypervisor.techniques.base import TECHNIQUES, Technique, technique
from hypervisor.techniques.trap import Trap

__all__ = ["TECHNIQUES", "Technique", "Trap", "technique"]
