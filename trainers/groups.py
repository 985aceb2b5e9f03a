"""Items in, groups out (an item under all its conditions), and which of them make up each optimizer step."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from torch.utils.data import Dataset, Sampler

from mmi_plugin.conditions import Pools, get
from mmi_plugin.errors import InputError
from mmi_plugin.item import FAMILIES, Item, stream
from mmi_plugin.sources import Benchmark
from mmi_plugin.sources.stored import ids_of


@dataclass(frozen=True)
class Group:
    """Rows of one item, the origin first. `name` is unique to this draw of the item."""

    name: str
    rows: tuple[Item, ...]


class Groups(Dataset):
    """Items of one or more benchmarks as groups, addressed by (index, round).

    `round` counts how often the item was seen before; the draws of the conditions are a pure
    function of (item id, condition, seed, round).
    """

    def __init__(self, benchmarks: Sequence[Benchmark], conditions: Mapping[str, Sequence[str]], seed: int) -> None:
        self._benchmarks = benchmarks
        self._ends = list(accumulate(len(bench.items) for bench in benchmarks))
        self._conditions = conditions
        self._seed = seed
        self.families = [bench.family for bench in benchmarks for _ in range(len(bench.items))]

    def __len__(self) -> int:
        return len(self.families)

    def __getitem__(self, place: tuple[int, int]) -> Group:
        index, turn = place
        number = bisect_right(self._ends, index)
        bench = self._benchmarks[number]
        return self.draw(bench.items[index - self._ends[number]], bench.pools, turn)  # counted from its end

    @property
    def ids(self) -> list[str]:
        return [name for bench in self._benchmarks for name in ids_of(bench.items)]

    def draw(self, item: Item, pools: Pools, turn: int) -> Group:
        """Return the group of any item in round `turn`."""
        seed = stream("round", self._seed, turn).getrandbits(31)
        rows = tuple(get(name)(item, seed, pools) for name in self._conditions[item.family])
        return Group(f"{item.id}/{seed}", rows)


class RatioBatchSampler(Sampler[list[tuple[int, int]]]):
    """Yields micro-batches of (index, round), of which `batches_per_step` make one optimizer step.

    Every step holds the families in the ratio `mix`. A family is gone through in a new order each
    round; the shorter ones come round more often. An epoch ends when every item was seen once or
    more or, "shortest", before a family would have to come round again; then what is left of all
    families is dropped, and the next epoch is a new round of each. What a step holds depends on
    `seed` and the step's number alone, not on how the step is cut into micro-batches and processes;
    skipping batches is exact.

    Raises:
        InputError: the mix does not divide the step, or asks for a family without items, or of which no step can be
            made without repeating one where an epoch ends with the shortest.
    """

    def __init__(
        self,
        families: Sequence[str],
        mix: Sequence[int],
        batch_size: int,
        batches_per_step: int,
        seed: int,
        epoch: str = "all",
    ) -> None:
        step = batch_size * batches_per_step
        check_mix(mix, step)
        self.batch_size = batch_size
        self.drop_last = True  # every batch is full: accelerate must not pad the last one
        self._batches_per_step = batches_per_step
        self._seed = seed
        self._epoch = 0
        self._indices = {name: [i for i, family in enumerate(families) if family == name] for name in FAMILIES}
        self._counts = {name: n * step // sum(mix) for name, n in zip(FAMILIES, mix, strict=True)}
        for name, count in self._counts.items():
            if count and not self._indices[name]:
                raise InputError(f"field 'mix' asks for {name} items, and the data has none")
        whole = {name: divmod(len(self._indices[name]), count) for name, count in self._counts.items() if count}
        shortest = min(whole, key=lambda name: whole[name][0])
        self.steps = max(steps + bool(rest) for steps, rest in whole.values())
        self._drops_rest = epoch == "shortest"
        if self._drops_rest:
            self.steps = whole[shortest][0]
        if not self.steps:
            asked, there = self._counts[shortest], len(self._indices[shortest])
            raise InputError(
                f"field 'epoch' is 'shortest', and a step has {asked} {shortest} items, of which the data has {there}"
            )
        self._order = lru_cache(maxsize=2 * len(FAMILIES))(self._shuffled)

    def set_epoch(self, epoch: int) -> None:
        """Go to the first batch of `epoch`."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self.steps * self._batches_per_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        first = self._epoch * self.steps
        for number in range(first, first + self.steps):
            places = self.step(number)
            for start in range(0, len(places), self.batch_size):
                yield places[start : start + self.batch_size]

    def step(self, number: int) -> list[tuple[int, int]]:
        """Return the (index, round) of every item of optimizer step `number`, families spread evenly."""
        spread = []
        for family, count in self._counts.items():
            for i in range(count):
                spread.append(((i + 0.5) / count, self._place(family, number, i)))
        return [place for _, place in sorted(spread, key=lambda entry: entry[0])]

    def rounds(self, family: str, steps: int) -> int:
        """Return how many rounds of a family's items the first `steps` optimizer steps begin."""
        if self._drops_rest:
            return -(-steps // self.steps)
        return -(-steps * self._counts[family] // max(1, len(self._indices[family])))

    def _place(self, family: str, number: int, i: int) -> tuple[int, int]:
        """The i-th item of a family in step `number`."""
        count = self._counts[family]
        if self._drops_rest:
            turn, step = divmod(number, self.steps)
            position = step * count + i
        else:
            turn, position = divmod(number * count + i, len(self._indices[family]))
        return self._order(family, turn)[position], turn

    def _shuffled(self, family: str, turn: int) -> list[int]:
        order = list(self._indices[family])
        stream("order", self._seed, family, turn).shuffle(order)
        return order


def check_mix(mix: Sequence[int], step: int) -> None:
    """Raise an InputError that names the nearest mixes if `mix` does not divide `step` items."""
    whole = sum(mix)
    if step % whole == 0:
        return
    fits = [fit for size in range(1, step + 1) if step % size == 0 and (fit := _scaled(mix, size))]
    fits.sort(key=lambda fit: sum(abs(a / sum(fit) - b / whole) for a, b in zip(fit, mix, strict=True)))
    named = [":".join(map(str, fit)) for fit in fits[:2]]
    sizes = sorted({max(1, step // whole) * whole, (step // whole + 1) * whole})
    raise InputError(
        f"field 'mix' {':'.join(map(str, mix))} ({whole} items) does not divide the {step} items of an optimizer "
        f"step; nearest mixes that do: {' and '.join(named) or 'none'}; nearest step sizes: "
        f"{' and '.join(map(str, sizes))}"
    )


def _scaled(mix: Sequence[int], size: int) -> tuple[int, ...] | None:
    """Return `mix` scaled to `size` items by largest remainders; None if a family vanishes."""
    exact = [n * size / sum(mix) for n in mix]
    counts = [int(x) for x in exact]
    for i in sorted(range(len(mix)), key=lambda i: counts[i] - exact[i])[: size - sum(counts)]:
        counts[i] += 1
    return None if any(n and not count for n, count in zip(mix, counts, strict=True)) else tuple(counts)
