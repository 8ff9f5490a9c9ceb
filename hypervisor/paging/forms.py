"""The forms of shadow paging, by name."""

from __future__ import annotations

from typing import Final

from hypervisor.paging.lazy import LazyShadow
from hypervisor.paging.shadow import ShadowPaging
from hypervisor.paging.traced import TracedShadow

FORMS: Final[dict[str, type[ShadowPaging]]] = {"traced": TracedShadow, "lazy": LazyShadow}
DEFAULT_FORM: Final = "traced"
