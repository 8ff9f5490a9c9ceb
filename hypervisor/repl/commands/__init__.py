"""The prompt's commands, by what they are about. Importing this fills the registry."""

from hypervisor.repl.commands import execution, general, lifecycle, looking, paging

__all__ = ["execution", "general", "lifecycle", "looking", "paging"]
