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
    there is no answer where the model failed; `cut_off`: it ran out of tokens within a thought."""

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

    @property
    def right(self) -> bool:
        return self.parsed == self.gold

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Record:
        return cls(**{name: values[name] for name in cls.__dataclass_fields__ if name in values})

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def group_by_item(records: Iterable[Record]) -> dict[str, dict[str, Record]]:
    """Return item id -> condition -> record: joined by id, never by position.

    Raises InputError when a pair occurs twice.
    """
    groups: dict[str, dict[str, Record]] = {}
    for record in records:
        group = groups.setdefault(record.item_id, {})
        if record.condition in group:
            raise InputError(f"item {record.item_id}: condition {record.condition!r} is recorded twice")
        group[record.condition] = record
    return groups
