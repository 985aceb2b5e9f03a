"""A data set as a table: where it is, what its columns must be, how its rows become items."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmi_plugin.errors import InputError, nearest
from mmi_plugin.items import Family, Item, check
from mmi_plugin.sources.benchmark import Benchmark
from mmi_plugin.sources.contract import Columns, check_columns
from mmi_plugin.sources.locate import from_hub, from_local, local_copy, published_file
from mmi_plugin.sources.published import read_published
from mmi_plugin.sources.rows import Row, read_rows

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)

Make = Callable[[Row], Item | None]
"""From a row to its item, or to None for a row that is no question of the benchmark."""


@dataclass(frozen=True)
class Table:
    """`splits`: our name of a split -> the hub's. `columns`: the contract, name -> kind."""

    name: str
    family: Family
    hub: str
    config: str | None
    splits: Mapping[str, str]
    columns: Columns

    def benchmark(
        self,
        split: str,
        maker: Callable[[Dataset], Make],
        path: str | None = None,
        from_split: str | None = None,
    ) -> Benchmark:
        """Return the items of `split`; `maker` gets the whole split and returns what makes an item.

        path: a local copy, in place of $MMI_DATA_ROOT/<name> and of the hub.
        from_split: the copy's own name of the split, where it is neither the hub's nor ours.

        Raises InputError that names split, file, row, column or field when something is wrong.
        """
        if split not in self.splits:
            raise InputError(f"{self.name}: unknown split {split!r}: {nearest(split, self.splits)}")
        names = [from_split] if from_split else list(dict.fromkeys([self.splits[split], split]))
        place = local_copy(self.name, path)
        file = place and published_file(place, names)
        if file:
            items = read_published(file, self.name, self.family)
        else:
            data, where, folder = self._open(place, names)
            check_columns(data.features, self.columns, where)
            items = list(_usable(read_rows(data, self.columns, where, folder), maker(data), where))
        if not items:
            raise InputError(f"{self.name}: {file or place or self.hub}: holds no item")
        return Benchmark(self.name, self.family, tuple(items))

    def _open(self, place: Path | None, names: list[str]) -> tuple[Dataset, str, Path | None]:
        """Return the rows, what errors about them begin with, and where image paths start."""
        if place:
            data, found = from_local(self.name, place, self.config, names)
            return data, f"{self.name}: {found}", found.parent if found.is_file() else found
        configured = f"{self.hub}/{self.config}" if self.config else self.hub
        return from_hub(self.name, self.hub, self.config, names[0]), f"{self.name}: {configured}, {names[0]}", None


def _usable(rows: Iterable[Row], make: Make, where: str) -> Iterator[Item]:
    """Yield the checked items of `rows`, but those whose options repeat.

    A few published items list an option twice, so that no single letter is right: they are
    counted, named and left out.
    """
    repeated = []
    for row in rows:
        item = make(row)
        if item is None:
            continue
        if len(set(item.options)) < len(item.options):
            repeated.append(row.number + 1)
            continue
        yield check(item, row.where)
    if repeated:
        named = ", ".join(map(str, repeated[:10])) + (", ..." if len(repeated) > 10 else "")
        log.warning("%s: %d items repeat an option and are left out: rows %s", where, len(repeated), named)
