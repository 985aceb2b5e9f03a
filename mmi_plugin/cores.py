"""How many cores this process may use."""

from __future__ import annotations

import os


def cores() -> int:
    """Return the cores that this process is allowed to run on, which a scheduler can have made fewer than there are."""
    allowed = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def own_cores() -> int:
    """Return this process's part of them, where a launcher has started several here."""
    return cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
