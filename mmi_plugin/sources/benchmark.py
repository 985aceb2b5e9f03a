"""What a source gives: the items of one split, and the pools that their conditions draw from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from mmi_plugin.conditions import Pools, for_family, get
from mmi_plugin.items import Item, item_hash


@dataclass(frozen=True, eq=False)
class Benchmark:
    """Items of one family, checked, with ids that stay the same from run to run."""

    name: str
    family: str
    items: Sequence[Item]
    pools: Pools = field(default_factory=Pools.default)

    @property
    def conditions(self) -> tuple[str, ...]:
        """All conditions of the family, its reference first."""
        return for_family(self.family)

    def digest(self, conditions: Sequence[str], seed: int) -> str:
        """SHA-256 of every item, the pools, the conditions with their versions, and the seed."""
        versions = [f"{name}@{get(name).version}" for name in conditions]
        parts = [self.name, *map(item_hash, self.items), self.pools.digest(), *versions, str(seed)]
        return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()
