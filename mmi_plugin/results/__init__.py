"""Results: records of answers in; values per item, estimates with intervals, comparisons out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mmi_plugin.errors import InputError


@dataclass(frozen=True)
class Record:
    """One answer: an item under one condition. `parsed` and `named` are letters or None;
    `probabilities` of the options, in their order, where the model gave them; `failure` says why
    there is no answer where the model failed; `cut_off`: it ran out of tokens within a thought;
    `options`: the texts that the letters stand for, which old results do not hold; `attack`: of an answer under an
    adversary what that took and saw, see `results.attacks`."""

    item_id: str
    condition: str
    seed: int
    gold: str
    parsed: str | None
    raw: str
    named: str | None = None
    probabilities: Sequence[float] | None = None
    failure: str | None = None
    cut_off: bool = False
    options: Sequence[str] | None = None
    attack: Mapping[str, Any] | None = None

    @property
    def right(self) -> bool:
        return self.parsed == self.gold

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Record:
        found = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in found.items()})

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class TaskResult:
    """One task of a run. `options` are the task's `dataset_kwargs`; `numbers` are the harness's own,
    by the names of `measures.task_numbers`; `content_hash` identifies items, conditions and seed, of which
    `condition_versions` (empty in old results) names a part; `setup` holds what is known of `SETUP`;
    `records` and their `prompts` are in the order written; `read_anew`: how many of their letters, read anew from
    the answers, are others than logged."""

    task: str
    family: str
    options: dict[str, Any]
    split: str
    conditions: tuple[str, ...]
    seed: int
    content_hash: str
    condition_versions: dict[str, int]
    numbers: dict[str, float]
    setup: dict[str, Any]
    records: tuple[Record, ...]
    prompts: tuple[str, ...]
    read_anew: int = 0


def group_by_item(records: Iterable[Record], conditions: Sequence[str] = ()) -> dict[str, dict[str, Record]]:
    """Return item id -> condition -> record: joined by id, never by position.

    Raises InputError when a pair occurs twice, or an item lacks one of `conditions`.
    """
    groups: dict[str, dict[str, Record]] = {}
    for record in records:
        group = groups.setdefault(record.item_id, {})
        if record.condition in group:
            raise InputError(f"item {record.item_id}: condition {record.condition!r} is recorded twice")
        group[record.condition] = record
    for item, group in groups.items():
        for name in conditions:
            if name not in group:
                raise InputError(f"item {item}: condition {name!r} has no record; run it to its end")
    return groups
