"""The name of a source in, what it gives out: a Benchmark of items."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from pathlib import Path

from PIL import Image

from mmi_plugin.conditions import Pools, fitting, for_family, get
from mmi_plugin.conditions.pools import folder_photos
from mmi_plugin.errors import InputError, nearest
from mmi_plugin.item import Item, item_hash
from mmi_plugin.pictures import Picture
from mmi_plugin.plugins import load_plugins


@dataclass(frozen=True, eq=False)
class Benchmark:
    """Items of one family, checked, with ids that stay the same from run to run.

    places: item id -> where it was read, for items that a user wrote. hashes: the item_hash of each, where known.
    metric: of `answers.agreement`, by which the answers to its free-form questions are compared.
    also: conditions that the paper's benchmark lacks and this one is asked under all the same.
    """

    name: str
    family: str
    items: Sequence[Item]
    pools: Pools = field(default_factory=Pools.default)
    places: Mapping[str, str] = field(default_factory=dict)
    hashes: Sequence[str] | None = None
    metric: str = ""
    also: tuple[str, ...] = ()

    @property
    def conditions(self) -> tuple[str, ...]:
        """All published conditions of the family that fit its questions, its reference first, and those of `also`."""
        return (*fitting(for_family(self.family), self.metric), *self.also)

    def place(self, item: Item) -> str:
        """Return what an error about `item` begins with."""
        return self.places.get(item.id, f"{self.name}, item {item.id}")

    def digest(self, conditions: Sequence[str], seed: int) -> str:
        """SHA-256 of every item, the pools, the conditions with their versions, and the seed."""
        versions = [f"{name}@{get(name).version}" for name in conditions]
        hashes = map(item_hash, self.items) if self.hashes is None else self.hashes
        state = hashlib.sha256(self.name.encode())
        metric = [f"metric={self.metric}"] if self.metric else []
        for part in chain(hashes, [self.pools.digest(), *versions, str(seed), *metric]):
            state.update(f"\x1f{part}".encode())
        return state.hexdigest()


Source = Callable[..., Benchmark]
SOURCES: dict[str, Source] = {}
LICENCES: dict[str, str] = {}
"""Source -> where its data are and under which licence, as a page says it; of other people's interference sets."""


def source(load_split: Source) -> Source:
    """Register a function `(split, *, options of its own) -> Benchmark` under its own name."""
    if (other := SOURCES.get(load_split.__name__)) is not None and other.__module__ != load_split.__module__:
        raise InputError(
            f"source {load_split.__name__!r} is registered by {other.__module__}, too: give it another name"
        )
    SOURCES[load_split.__name__] = load_split
    return load_split


def is_known(name: str) -> bool:
    """Whether there is a source of that name, here or among the entry points of installed packages."""
    if name not in SOURCES:
        load_plugins("mmi_plugin.sources")
    return name in SOURCES


def options_of(name: str) -> tuple[str, ...]:
    """Return the names of a source's own options. Raises InputError with the nearest source."""
    if not is_known(name):
        raise InputError(f"unknown source {name!r}: {nearest(name, SOURCES)}")
    parameters = inspect.signature(SOURCES[name]).parameters.values()
    return tuple(parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY)


@lru_cache(maxsize=32)
def load(name: str, split: str = "test", **options: str | int | None) -> Benchmark:
    """Return the benchmark `name`, or raise an InputError with the nearest valid name.

    Loaded once per process: after a change of files or of MMI_DATA_ROOT, `load.cache_clear()`.
    """
    known = options_of(name)
    for key in options:
        if key not in known:
            raise InputError(f"source {name!r} takes no option {key!r}: {nearest(key, known)}")
    return SOURCES[name](split, **options)


def pool_images(where: str) -> Sequence[Image.Image | Picture]:
    """Return irrelevant photographs: those in the folder `where`, or those of the source `where`.

    Raises InputError when it is neither, or holds no image.
    """
    if Path(where).is_dir():
        return folder_photos(where)
    if not is_known(where):
        raise InputError(f"pool {where!r} is neither a folder nor a source: {nearest(where, SOURCES)}")
    images = tuple(item.picture for item in load(where).items if item.picture is not None)
    if not images:
        raise InputError(f"pool {where!r}: the source has no images")
    return images
