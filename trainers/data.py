"""The items of a run, checked before anything long starts."""

from __future__ import annotations

import hashlib

from mmi_plugin.errors import InputError
from mmi_plugin.items import FAMILIES
from mmi_plugin.sources import Benchmark, load
from mmi_plugin.sources.records import read_records
from mmi_plugin.trainers.config import MMIConfig
from mmi_plugin.trainers.groups import Groups


def load_benchmarks(args: MMIConfig) -> list[Benchmark]:
    """Return the train splits of `sources` and the items of `train_file`, by family.

    Raises:
        InputError: no data, a bad row, an unknown source, or one id in two places.
    """
    benchmarks = [load(name, "train") for name in args.sources or ()]
    if args.train_file:
        items = read_records(args.train_file)
        for family in FAMILIES:
            part = tuple(item for item in items if item.family == family)
            if part:
                benchmarks.append(Benchmark(f"{args.train_file}:{family}", family, part))
    if not benchmarks:
        raise InputError("fields 'sources' and 'train_file' are both empty: no data to train on")
    _check_ids(benchmarks)
    return benchmarks


def check_placeholders(benchmarks: list[Benchmark], placeholder: str) -> None:
    """Raise an InputError if a text holds what stands for an image in the prompt."""
    for bench in benchmarks:
        for item in bench.items:
            for name in ("question", "answer", "options"):
                if placeholder in "\n".join([getattr(item, name)] if name != "options" else item.options):
                    raise InputError(f"{bench.name}, item {item.id}: field '{name}' contains {placeholder!r}")


def make_groups(args: MMIConfig, benchmarks: list[Benchmark]) -> Groups:
    """Return the groups of a run, whose draws depend on `data_seed`."""
    return Groups(benchmarks, {family: args.conditions_of(family) for family in FAMILIES}, args.data_seed)


def data_hash(args: MMIConfig, benchmarks: list[Benchmark]) -> str:
    """SHA-256 of every item, pool and condition that the run can see, and its seed."""
    digests = [bench.digest(args.conditions_of(bench.family), args.data_seed) for bench in benchmarks]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _check_ids(benchmarks: list[Benchmark]) -> None:
    seen: dict[str, str] = {}
    for bench in benchmarks:
        for item in bench.items:
            if item.id in seen:
                raise InputError(f"{bench.name}: field 'id' {item.id!r} is already in {seen[item.id]}")
            seen[item.id] = bench.name
