"""A config in, the items and groups of its run out, checked before anything long starts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import ceil
from pathlib import Path

from tqdm import tqdm
from transformers import ProcessorMixin

from mmi_plugin.errors import BadRows, InputError
from mmi_plugin.items import FAMILIES, Item
from mmi_plugin.pictures import Picture
from mmi_plugin.sources import Benchmark, load
from mmi_plugin.sources.records import read_records
from mmi_plugin.sources.shards import read_built
from mmi_plugin.trainers.checks import BAR_AFTER, RowCheck
from mmi_plugin.trainers.config import MMIConfig
from mmi_plugin.trainers.groups import Groups, RatioBatchSampler


def load_benchmarks(args: MMIConfig, bad: BadRows | None = None) -> list[Benchmark]:
    """Return the train splits of `sources` and the items of `train_file`, by family.

    Raises:
        InputError: no data, an unknown source, one id in two places, a bad row; with `bad`, as that says.
    """
    bad = bad or BadRows()
    benchmarks = [load(name, "train") for name in args.sources or ()]
    if args.train_file:
        path = Path(args.train_file)
        rows = read_built(path) if path.is_dir() else read_records(path, args.image_folder, bad)
        for family in FAMILIES:
            part = {item.id: (where, item) for where, item in rows if item.family == family}
            if part:
                places = {key: where for key, (where, _) in part.items()}
                items = tuple(item for _, item in part.values())
                benchmarks.append(Benchmark(f"{path.name}:{family}", family, items, places=places))
    if not benchmarks:
        raise InputError("fields 'sources' and 'train_file' are both empty: no data to train on")
    benchmarks = [args.over(bench) for bench in benchmarks]
    if args.vqa_turns == "first":
        benchmarks = [replace(bench, items=tuple(map(_first_turn, bench.items))) for bench in benchmarks]
    return _distinct(benchmarks, bad)


def _first_turn(item: Item) -> Item:
    """Return a conversation cut after its first answer."""
    if not item.history:
        return item
    (question, answer), *_ = item.history
    return replace(item, image=item.picture, question=question, answer=answer, history=())


def check_rows(
    args: MMIConfig, benchmarks: list[Benchmark], processor: ProcessorMixin, bad: BadRows | None = None
) -> list[Benchmark]:
    """Return the benchmarks without rows at which training would stop, under any draw of a condition that it makes.

    Raises:
        InputError: the first such row, with its place and field; with `bad`, as that says.
    """
    bad, check = bad or BadRows(), RowCheck(args, processor)
    pictures = (item.picture for bench in benchmarks for item in bench.items)
    for bench in benchmarks:
        check.check_form(bench.pools.form)
    check.pictures.decode(picture for picture in pictures if isinstance(picture, Picture))
    rounds = dict.fromkeys(FAMILIES, 0)
    while True:
        todo = {name: range(rounds[name], needed) for name, needed in _rounds(args, benchmarks).items()}
        if not any(todo.values()):
            return benchmarks
        benchmarks = [_checked(args, bench, check, todo[bench.family], bad) for bench in benchmarks]
        benchmarks = [bench for bench in benchmarks if bench.items]
        # Where rows are left out, the others may come round more often.
        rounds = {name: max(rounds[name], turns.stop) for name, turns in todo.items()}


def _checked(args: MMIConfig, bench: Benchmark, check: RowCheck, rounds: range, bad: BadRows) -> Benchmark:
    """Return the benchmark without items that cannot be trained on in `rounds`."""
    groups = make_groups(args, [bench])
    kept = []
    bar = tqdm(bench.items, f"checking {bench.name}", delay=BAR_AFTER, disable=check.quiet, leave=False)
    for item in bar:
        with bad.watch():
            if rounds.start == 0:
                check.check_item(item, bench.place(item))
            check.check_draws(item, partial(groups.draw, pools=bench.pools), rounds, bench.place(item))
            kept.append(item)
    return bench if len(kept) == len(bench.items) else replace(bench, items=tuple(kept))


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


def _distinct(benchmarks: list[Benchmark], bad: BadRows) -> list[Benchmark]:
    """Return the benchmarks, where an id that an earlier one has is a bad row."""
    seen: dict[str, str] = {}
    for number, bench in enumerate(benchmarks):
        kept = []
        for item in bench.items:
            with bad.watch():
                if item.id in seen:
                    raise InputError(f"{bench.place(item)}: field 'id' {item.id!r} is already in {seen[item.id]}")
                seen[item.id] = bench.name
                kept.append(item)
        if len(kept) < len(bench.items):
            benchmarks[number] = replace(bench, items=tuple(kept))
    return [bench for bench in benchmarks if bench.items]
