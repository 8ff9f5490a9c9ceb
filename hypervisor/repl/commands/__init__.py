"""The prompt's commands, by what they are about. Importing this fills the registry."""

from importlib import import_module

MODULES = ("execution", "general", "lifecycle", "looking", "migration", "paging", "replication")

for _module in MODULES:
    import_module(f"{__name__}.{_module}")
