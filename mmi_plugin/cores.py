"""How many cores this process may use."""

from __future__ import annotations

import os


def cores() -> int:
    """Return the cores that this process is allowed to run on, which a scheduler can have made fewer than there are."""
    allowed = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(allowed(0)) if allowed else os.cpu_count() or 1
