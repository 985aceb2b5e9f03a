"""Paired metrics over records: always joined by item id, never by position (method section 1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mmi_plugin.conditions import REFERENCE, get
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


@dataclass(frozen=True)
class Summary:
    """Numbers of one task; shares are in [0, 1]. Items that lack a condition, or on which the
    model failed, are incomplete: named, and left out of all numbers.

    `accuracy` is per condition; `flip_rate` is the share of items whose decision differs from the
    reference condition; `worst_case` counts items that are right under every condition, and
    `worst_case_seen` those right under every condition that the published training uses; `cut_off` is the
    part of `unparseable` where the model ran out of tokens within a thought.
    """

    items: int
    incomplete: tuple[str, ...]
    accuracy: dict[str, float]
    flip_rate: dict[str, float]
    worst_case: float
    worst_case_seen: float
    unparseable: float
    cut_off: float


def group_by_item(records: Iterable[Record]) -> dict[str, dict[str, Record]]:
    """Return item id -> condition -> record. Raises InputError when a pair occurs twice."""
    groups: dict[str, dict[str, Record]] = {}
    for record in records:
        group = groups.setdefault(record.item_id, {})
        if record.condition in group:
            raise InputError(f"item {record.item_id}: condition {record.condition!r} is recorded twice")
        group[record.condition] = record
    return groups


def summarise(records: Iterable[Record], family: str, conditions: Sequence[str]) -> Summary:
    """Return the paired metrics of one task whose items should each have all `conditions`."""
    groups = group_by_item(records)
    complete = {
        item: group
        for item, group in groups.items()
        if set(group) == set(conditions) and not any(record.failure for record in group.values())
    }
    incomplete = tuple(sorted(set(groups) - set(complete)))
    rows = list(complete.values())
    reference = REFERENCE[family]

    def share(hits: Iterable[bool]) -> float:
        hits = list(hits)
        return sum(hits) / len(hits) if hits else float("nan")

    def right_under(names: Iterable[str]) -> float:
        names = list(names)
        return share(all(row[name].right for name in names) for row in rows)

    return Summary(
        items=len(rows),
        incomplete=incomplete,
        accuracy={name: share(row[name].right for row in rows) for name in conditions},
        flip_rate={
            name: share(row[name].parsed != row[reference].parsed for row in rows)
            for name in conditions
            if name != reference and reference in conditions
        },
        worst_case=right_under(conditions),
        worst_case_seen=right_under(name for name in conditions if get(name).seen),
        unparseable=share(row[name].parsed is None for row in rows for name in conditions),
        cut_off=share(row[name].cut_off for row in rows for name in conditions),
    )
