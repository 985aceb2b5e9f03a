"""A config in, the items and groups of its run out, checked before anything long starts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import ceil
from pathlib import Path

import numpy as np
from transformers import ProcessorMixin

from mmi_plugin.errors import BadRows, InputError
from mmi_plugin.files import versions
from mmi_plugin.item import FAMILIES, Item, first_turn, item_hash
from mmi_plugin.models.load import fingerprint
from mmi_plugin.sources import Benchmark, load
from mmi_plugin.sources.stored import StoredItems, ids_of
from mmi_plugin.trainers.checks import RowCheck
from mmi_plugin.trainers.config import MMIConfig
from mmi_plugin.trainers.groups import Groups, RatioBatchSampler
from mmi_plugin.trainers.kept import Facts, Kept, check_form, kept
from mmi_plugin.trainers.once import in_processes, once, processes_of
from mmi_plugin.trainers.reading import measured, progress, read_file, stored
from mmi_plugin.trainers.resume import code_hash

PART = 500  # rows that are checked at a time
SETTINGS = (  # beside conditions and seed, which are in the digest of what is checked
    *("max_length", "system_prompt", "chat_template_kwargs", "end_token", "mix", "max_steps", "num_train_epochs"),
    *("epoch", "per_device_train_batch_size", "gradient_accumulation_steps", "world_size"),
)


def load_benchmarks(args: MMIConfig, bad: BadRows | None = None) -> list[Benchmark]:
    """Return the train splits of `sources` and the items of `train_file`, by family.

    Raises:
        InputError: no data, an unknown source, one id in two places, a bad row; with `bad`, as that says.
    """
    bad = bad or BadRows()
    found, file, left = once(args, partial(_found, args, bad.anew()))
    bad.hear(*found)
    return _of(_benchmarks(args, file), left)


Heard = tuple[list[str], Counter[str]]
"""Lines about bad rows, and counts of odd ones."""


def _found(args: MMIConfig, bad: BadRows) -> tuple[Heard, Path | None, list[np.ndarray]]:
    """Return what is said about rows, the file that holds those of `train_file`, and which items are left."""
    file = read_file(args, bad) if args.train_file else None
    benchmarks = _benchmarks(args, file)
    if not benchmarks:
        raise InputError("fields 'sources' and 'train_file' are both empty: no data to train on")
    left = _distinct(benchmarks, bad)
    return (bad.lines, bad.counts), file, left


def _benchmarks(args: MMIConfig, file: Path | None) -> list[Benchmark]:
    benchmarks = [load(name, "train") for name in args.sources or ()]
    if args.vqa_turns == "first":  # those of a file are cut where they are read
        benchmarks = [replace(bench, items=tuple(map(first_turn, bench.items))) for bench in benchmarks]
    if file:
        items, name = stored(args, file), Path(str(args.train_file)).name
        parts = {family: items.family(family) for family in FAMILIES}
        benchmarks += [
            Benchmark(f"{name}:{family}", family, part, hashes=part.hashes) for family, part in parts.items() if part
        ]
    return [args.over(bench) for bench in benchmarks]


def _distinct(benchmarks: list[Benchmark], bad: BadRows) -> list[np.ndarray]:
    """Return which items of each benchmark have an id that no earlier one has; another one is a bad row."""
    seen: dict[str, str] = {}
    left = []
    for bench in benchmarks:
        kept, own = [], not isinstance(bench.items, StoredItems)  # ids of a file differ, and it is the last
        for number, name in enumerate(ids_of(bench.items)):
            with bad.watch():
                if name in seen:
                    raise InputError(f"{_place(bench, number)}: field 'id' {name!r} is already in {seen[name]}")
                if own:
                    seen[name] = bench.name
                kept.append(number)
        left.append(np.array(kept, np.int32))
    return left


def _of(benchmarks: Sequence[Benchmark], left: Sequence[np.ndarray]) -> list[Benchmark]:
    """Return what is left of the benchmarks that have anything left."""
    return [_only(bench, numbers) for bench, numbers in zip(benchmarks, left, strict=True) if len(numbers)]


def _only(bench: Benchmark, numbers: np.ndarray) -> Benchmark:
    """Return the benchmark with some of its items."""
    if len(numbers) == len(bench.items):
        return bench
    if isinstance(bench.items, StoredItems):
        items = bench.items.pick(numbers)
        return replace(bench, items=items, hashes=items.hashes)
    hashes = None if bench.hashes is None else [bench.hashes[number] for number in numbers]
    return replace(bench, items=tuple(bench.items[number] for number in numbers), hashes=hashes)


def _others(bench: Benchmark, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the other items of a benchmark."""
    return np.setdiff1d(np.arange(len(bench.items), dtype=np.int32), numbers)


def _place(bench: Benchmark, number: int) -> str:
    """Return what an error about an item begins with."""
    items = bench.items
    return items.place(number) if isinstance(items, StoredItems) else bench.place(items[number])


def _places_hash(benchmarks: Sequence[Benchmark]) -> str:
    """SHA-256 of what errors about items begin with."""
    state = hashlib.sha256()
    for bench in benchmarks:
        items = bench.items
        places = items.column("place") if isinstance(items, StoredItems) else map(str, bench.places.items())
        for place in places:
            state.update(f"{place}\n".encode())
    return state.hexdigest()


def check_rows(
    args: MMIConfig, benchmarks: list[Benchmark], processor: ProcessorMixin, bad: BadRows | None = None
) -> list[Benchmark]:
    """Return the benchmarks without rows at which training would stop, under any draw of a condition that it makes.

    Raises:
        InputError: the first such row, with its place and field; with `bad`, as that says.
    """
    bad = bad or BadRows()
    lines, left, sizes, hashes = once(args, partial(_checks, args, benchmarks, processor, bad.anew()))
    bad.hear(lines)
    return _of(_known(benchmarks, sizes, hashes), left)


Checks = tuple[list[str], list[np.ndarray], Path | None, list[list[str] | None]]


def _checks(args: MMIConfig, benchmarks: list[Benchmark], processor: ProcessorMixin, bad: BadRows) -> Checks:
    """Return the lines about bad rows, which items of each benchmark are left, the file of the sizes of images, and
    the hashes of items that are not stored."""
    check = RowCheck(args, processor)
    for bench in benchmarks:
        check.check_form(bench.pools.form)
    in_file = next((bench.items for bench in benchmarks if isinstance(bench.items, StoredItems)), None)
    sizes, size_hash = measured(args, in_file) if in_file else (None, "")
    hashes = list(_hashes(args, benchmarks))
    known = _known(benchmarks, sizes, hashes)
    depends = {
        "data": data_hash(args, known),
        "places": _places_hash(known),
        "sizes": size_hash,
        "processor": fingerprint(processor),
        "settings": {name: getattr(args, name) for name in SETTINGS},
        "code": code_hash(),
        "versions": versions(),
    }
    found = kept(depends, partial(_check, args, known, check, bad), partial(_fits, known))
    left = [_others(bench, gone) for bench, gone in zip(known, found.facts["gone"], strict=True)]
    return found.facts["lines"], left, sizes, hashes


def _known(benchmarks: Sequence[Benchmark], sizes: Path | None, hashes: Sequence[list[str] | None]) -> list[Benchmark]:
    """Return the benchmarks, whose images are not looked at again for their sizes and hashes."""
    return [
        replace(bench, items=bench.items.measured(sizes))
        if isinstance(bench.items, StoredItems)
        else replace(bench, hashes=own)
        for bench, own in zip(benchmarks, hashes, strict=True)
    ]


def _fits(benchmarks: Sequence[Benchmark], found: Kept) -> bool:
    """True, as what it depends on holds the hashes of these items. Raises ValueError for facts of another form."""
    check_form(all(isinstance(line, str) for line in found.facts["lines"]))
    for bench, gone in zip(benchmarks, found.facts["gone"], strict=True):
        check_form(all(isinstance(number, int) and 0 <= number < len(bench.items) for number in gone))
    return True


def _hashes(args: MMIConfig, benchmarks: Sequence[Benchmark]) -> Iterator[list[str] | None]:
    """Yield the hashes of the items of each benchmark; None for stored items, which have theirs."""
    for bench in benchmarks:
        if isinstance(bench.items, StoredItems):
            yield None
            continue
        size = len(bench.items)
        parts = [bench.items[start : start + PART] for start in range(0, size, PART)]
        found = in_processes(lambda part: list(map(_hash, part)), parts, processes_of(args, size))
        yield [one for part in found for one in part]


def _hash(item: Item) -> str:
    try:
        return item_hash(item)
    except ValueError as error:  # an image that does not decode, half a character: said when they are looked at
        seen = (item.id, item.question, item.answer, item.options, item.place, item.facts, item.history, str(error))
        return hashlib.sha256(ascii(seen).encode()).hexdigest()


def _check(args: MMIConfig, benchmarks: list[Benchmark], check: RowCheck, bad: BadRows, folder: Path) -> Facts:
    """Return {"lines": those about bad rows, "gone": the bad ones of each benchmark}."""
    left = [np.arange(len(bench.items)) for bench in benchmarks]
    rounds = dict.fromkeys(FAMILIES, 0)
    while True:
        needed = _rounds(args, _of(benchmarks, left))
        todo = {name: range(rounds[name], needed[name]) for name in FAMILIES}
        if not any(todo.values()):
            gone = [_others(bench, own).tolist() for bench, own in zip(benchmarks, left, strict=True)]
            return {"lines": bad.lines, "gone": gone}
        _check_rounds(args, benchmarks, check, todo, bad, left)
        # Where rows are left out, the others may come round more often.
        rounds = {name: max(rounds[name], turns.stop) for name, turns in todo.items()}


def _check_rounds(
    args: MMIConfig,
    benchmarks: Sequence[Benchmark],
    check: RowCheck,
    rounds: Mapping[str, range],
    bad: BadRows,
    left: list[np.ndarray],
) -> None:
    """Take out of what is left of each benchmark what cannot be trained on in the rounds of its family."""
    parts = [(at, own[start : start + PART]) for at, own in enumerate(left) for start in range(0, len(own), PART)]
    gone: list[list[int]] = [[] for _ in benchmarks]
    work = partial(_wrong, benchmarks, check, make_groups(args, benchmarks), rounds)
    rows = sum(map(len, left))
    with progress(args, "checking rows", rows) as bar:
        for (at, numbers), wrong in zip(parts, in_processes(work, parts, processes_of(args, rows)), strict=True):
            bad.hear(line for _, line in wrong)
            gone[at] += [number for number, _ in wrong]
            bar.update(len(numbers))
    left[:] = [np.setdiff1d(own, out) for own, out in zip(left, gone, strict=True)]


def _wrong(
    benchmarks: Sequence[Benchmark],
    check: RowCheck,
    groups: Groups,
    rounds: Mapping[str, range],
    part: tuple[int, np.ndarray],
) -> list[tuple[int, str]]:
    """Return number and error of those items of a part that cannot be trained on."""
    bench, found = benchmarks[part[0]], []
    turns, draw = rounds[bench.family], partial(groups.draw, pools=bench.pools)
    for number in part[1].tolist():
        item, where = bench.items[number], _place(bench, number)
        try:
            if turns.start == 0:
                check.check_item(item, where)
            check.check_draws(item, draw, turns, where)
        except InputError as error:
            found.append((number, str(error)))
    return found


def _rounds(args: MMIConfig, benchmarks: Sequence[Benchmark]) -> dict[str, int]:
    """Return how often, by family, the run goes through its items, the last time perhaps in part; at least once."""
    groups = make_groups(args, benchmarks)
    if any(share and name not in groups.families for name, share in zip(FAMILIES, args.mix, strict=True)):
        return dict.fromkeys(FAMILIES, 1)  # the sampler refuses it
    sampler = sampler_of(args, groups)
    steps = args.max_steps if args.max_steps > 0 else ceil(args.num_train_epochs * sampler.steps)
    return {name: max(1, sampler.rounds(name, steps)) for name in FAMILIES}


def make_groups(args: MMIConfig, benchmarks: Sequence[Benchmark]) -> Groups:
    """Return the groups of a run, whose draws depend on `data_seed`."""
    return Groups(benchmarks, {family: args.conditions_of(family) for family in FAMILIES}, args.data_seed)


def sampler_of(args: MMIConfig, groups: Groups) -> RatioBatchSampler:
    """Return the sampler of a run, or raise an InputError if the mix does not fit batch or data."""
    per_step = args.gradient_accumulation_steps * args.world_size
    size, seed = args.per_device_train_batch_size, args.data_seed
    return RatioBatchSampler(groups.families, args.mix, size, per_step, seed, args.epoch)


def data_hash(args: MMIConfig, benchmarks: list[Benchmark]) -> str:
    """SHA-256 of every item, pool and condition that the run can see, and its seed."""
    digests = [bench.digest(args.conditions_of(bench.family), args.data_seed) for bench in benchmarks]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()
