"""The forms of paging, by name."""

from __future__ import annotations

from typing import Final

from hypervisor.paging.base import Paging
from hypervisor.paging.lazy import LazyShadow
from hypervisor.paging.nested import NestedPaging
from hypervisor.paging.traced import TracedShadow

NESTED: Final = "nested"
FORMS: Final[dict[str, type[Paging]]] = {"traced": TracedShadow, "lazy": LazyShadow, NESTED: NestedPaging}
DEFAULT_FORM: Final = "traced"


def forms_for(nested: bool) -> tuple[str, ...]:
    """The names of those that go with a technique; ``nested`` as it says itself."""
    return tuple(name for name in FORMS if nested or name != NESTED)
