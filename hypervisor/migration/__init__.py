"""Moving a guest to another monitor. Reading order: ``protocol``, ``source``, ``precopy``, ``destination``, ``settle``."""

from hypervisor.migration.address import Address, parse_address
from hypervisor.migration.channel import PATIENCE, LinkError, Timeouts
from hypervisor.migration.credentials import Credentials
from hypervisor.migration.destination import Listener
from hypervisor.migration.protocol import Departure, Machine
from hypervisor.migration.report import Report
from hypervisor.migration.settle import Handover
from hypervisor.migration.source import OwingError, SendError, UnsettledError, send

__all__ = [
    "PATIENCE",
    "Address",
    "Credentials",
    "Departure",
    "Handover",
    "LinkError",
    "Listener",
    "Machine",
    "OwingError",
    "Report",
    "SendError",
    "Timeouts",
    "UnsettledError",
    "parse_address",
    "send",
]
