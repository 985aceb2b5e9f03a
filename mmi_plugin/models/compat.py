"""Names of transformers that differ from version to version or are private."""

from __future__ import annotations

import inspect
from typing import Any

CACHE_NAMES = ("cache", "past_key_values")  # the new name first; the old one is until transformers 5.23


def cache_argument(module: Any) -> str | None:
    """Return the name under which a model or decoder takes its cache of keys and values; None without one."""
    takes = inspect.signature(module.forward).parameters
    return next((name for name in CACHE_NAMES if name in takes), None)
