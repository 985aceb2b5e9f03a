"""What a source gives: the items of one split, and the pools that their conditions draw from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mmi_plugin.conditions import Pools, for_family, get
from mmi_plugin.items import Item, item_hash


@dataclass(frozen=True, eq=False)
class Benchmark:
    """Items of one family, checked, with ids that stay the same from run to run.

    places: item id -> where it was read, for items that a user wrote.
    """

    name: str
    family: str
    items: Sequence[Item]
    pools: Pools = field(default_factory=Pools.default)
    places: Mapping[str, str] = field(default_factory=dict)

    @property
    def conditions(self) -> tuple[str, ...]:
        """All conditions of the family, its reference first."""
        return for_family(self.family)

    def place(self, item: Item) -> str:
        """Return what an error about `item` begins with."""
        return self.places.get(item.id, f"{self.name}, item {item.id}")

    def digest(self, conditions: Sequence[str], seed: int) -> str:
        """SHA-256 of every item, the pools, the conditions with their versions, and the seed."""
        versions = [f"{name}@{get(name).version}" for name in conditions]
        parts = [self.name, *map(item_hash, self.items), self.pools.digest(), *versions, str(seed)]
        return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()
