"""The items of a run, checked before anything long starts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from transformers import ProcessorMixin

from mmi_plugin.errors import BadRows, InputError
from mmi_plugin.items import FAMILIES, Item
from mmi_plugin.models.families import prompts_of
from mmi_plugin.sources import Benchmark, load
from mmi_plugin.sources.built import read_built
from mmi_plugin.sources.records import read_records
from mmi_plugin.trainers.config import MMIConfig
from mmi_plugin.trainers.groups import Groups
from mmi_plugin.trainers.lengths import LengthCheck


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
    return _distinct(benchmarks, bad)


def check_rows(
    args: MMIConfig, benchmarks: list[Benchmark], processor: ProcessorMixin, bad: BadRows | None = None
) -> list[Benchmark]:
    """Return the benchmarks without rows that cannot be made into tokens: an image placeholder in a
    text, or more tokens than `max_length`, as the conditions are drawn in the first round.

    Raises:
        InputError: the first such row, with its place and field; with `bad`, as that says.
    """
    bad = bad or BadRows()
    lengths, placeholder = LengthCheck(args, processor), prompts_of(processor).placeholder
    checked = []
    for bench in benchmarks:
        draw = partial(make_groups(args, [bench]).draw, pools=bench.pools, turn=0)
        kept = []
        for item in bench.items:
            with bad.watch():
                _check_placeholder(item, placeholder, bench.place(item))
                lengths.check(item, draw, bench.place(item))
                kept.append(item)
        checked.append(bench if len(kept) == len(bench.items) else replace(bench, items=tuple(kept)))
    return [bench for bench in checked if bench.items]


def make_groups(args: MMIConfig, benchmarks: Sequence[Benchmark]) -> Groups:
    """Return the groups of a run, whose draws depend on `data_seed`."""
    return Groups(benchmarks, {family: args.conditions_of(family) for family in FAMILIES}, args.data_seed)


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


def _check_placeholder(item: Item, placeholder: str, where: str) -> None:
    """Raise an InputError if a text holds what stands for an image in the prompt."""
    texts = {
        "question": [item.question],
        "answer": [item.answer],
        "options": item.options,
        "facts": item.facts.values(),
        "history": [text for turn in item.history for text in turn],
    }
    for name, parts in texts.items():
        if any(placeholder in part for part in parts):
            raise InputError(f"{where}: field '{name}' contains {placeholder!r}")
