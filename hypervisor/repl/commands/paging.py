"""The way of an address through the page tables: the guest's own, and the shadow of them."""

from __future__ import annotations
