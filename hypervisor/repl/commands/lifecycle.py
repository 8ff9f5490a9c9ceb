"""Commands about the machine as a whole: what it is, saving, moving, going back."""

from __future__ import annotations
