"""The names of conditions, the same in tasks, configs, reports and on the command line."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from mmi_plugin.conditions.pools import Pools
from mmi_plugin.errors import InputError, nearest
from mmi_plugin.items import Family, Item
from mmi_plugin.seeding import stream

Change = Callable[[Item, random.Random, Pools], Item]

REFERENCE: dict[str, str] = {"image_heavy": "clean", "text_heavy": "random_pixels", "vqa": "clean"}
"""Per family the origin that every other condition is compared with."""


@dataclass(frozen=True)
class Condition:
    """A named intervention. `seen` says whether the published training uses it; `version` is
    raised with any change of what it produces, so that results of two versions never mix."""

    name: str
    families: tuple[str, ...]
    seen: bool
    version: int
    change: Change

    def __call__(self, item: Item, seed: int = 0, pools: Pools | None = None) -> Item:
        """Return `item` under this condition: a pure function of (item, condition, seed)."""
        if item.family not in self.families:
            raise InputError(
                f"condition {self.name!r} is for {'/'.join(self.families)}, item {item.id} is {item.family}"
            )
        return self.change(item, stream(item.id, self.name, seed), pools or Pools.default())


CONDITIONS: dict[str, Condition] = {}


def condition(*families: Family, seen: bool = True, version: int = 1) -> Callable[[Change], Change]:
    """Register a function `(item, rng, pools) -> item` as a condition under its own name."""

    def register(change: Change) -> Change:
        name = change.__name__
        CONDITIONS[name] = Condition(name, families, seen, version, change)
        return change

    return register


def get(name: str) -> Condition:
    """Return the condition `name`, or raise an InputError with the nearest valid name."""
    if name not in CONDITIONS:
        raise InputError(f"unknown condition {name!r}: {nearest(name, CONDITIONS)}")
    return CONDITIONS[name]


def for_family(family: str, seen_only: bool = False) -> tuple[str, ...]:
    """Return the family's conditions, its reference first."""
    names = [c.name for c in CONDITIONS.values() if family in c.families and (c.seen or not seen_only)]
    return tuple(sorted(names, key=lambda name: name != REFERENCE[family]))
