"""Sources by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from mmi_plugin.errors import InputError, nearest
from mmi_plugin.sources.benchmark import Benchmark

SOURCES: dict[str, Callable[[str], Benchmark]] = {}


def source(load_split: Callable[[str], Benchmark]) -> Callable[[str], Benchmark]:
    """Register a function `split -> Benchmark` under its own name."""
    SOURCES[load_split.__name__] = load_split
    return load_split


@lru_cache(maxsize=32)
def load(name: str, split: str = "test") -> Benchmark:
    """Return the benchmark `name`, or raise an InputError with the nearest valid name."""
    if name not in SOURCES:
        raise InputError(f"unknown source {name!r}: {nearest(name, SOURCES)}")
    return SOURCES[name](split)
