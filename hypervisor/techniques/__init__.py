"""The ways to run a guest kernel without its privilege; each is one readable file."""

from hypervisor.techniques.auto import Auto
from hypervisor.techniques.base import TECHNIQUES, Technique, technique
from hypervisor.techniques.guest import Guest
from hypervisor.techniques.patch import Patch
from hypervisor.techniques.trap import Trap

__all__ = ["TECHNIQUES", "Auto", "Guest", "Patch", "Technique", "Trap", "technique"]
