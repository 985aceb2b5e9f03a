"""Groups: an item under all its conditions, drawn anew each time the item comes round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch.utils.data import Dataset

from mmi_plugin.conditions import Pools, get
from mmi_plugin.items import Item
from mmi_plugin.seeding import stream
from mmi_plugin.sources import Benchmark


@dataclass(frozen=True)
class Group:
    """Rows of one item, the origin first. `name` is unique to this draw of the item."""

    name: str
    family: str
    rows: tuple[Item, ...]


class Groups(Dataset):
    """Items of one or more benchmarks as groups, addressed by (index, round).

    `round` counts how often the item was seen before; the draws of the conditions are a pure
    function of (item id, condition, seed, round).
    """

    def __init__(self, benchmarks: Sequence[Benchmark], conditions: Mapping[str, Sequence[str]], seed: int) -> None:
        self._items = [(item, bench.pools) for bench in benchmarks for item in bench.items]
        self._conditions = conditions
        self._seed = seed
        self.families = [item.family for item, _ in self._items]
        self.ids = [item.id for item, _ in self._items]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, place: tuple[int, int]) -> Group:
        index, turn = place
        return self.draw(*self._items[index], turn)

    def draw(self, item: Item, pools: Pools, turn: int) -> Group:
        """Return the group of any item in round `turn`."""
        seed = stream("round", self._seed, turn).getrandbits(31)
        rows = tuple(get(name)(item, seed, pools) for name in self._conditions[item.family])
        return Group(f"{item.id}/{seed}", item.family, rows)
