"""The answers of one model on one data set as arrays, joined by item id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmi_plugin.conditions import REFERENCE
from mmi_plugin.errors import InputError
from mmi_plugin.metrics import Record, group_by_item


@dataclass(frozen=True)
class Outcomes:
    """One row per item, in the order of ids; one column per condition, the reference first.

    `parsed`, `gold` and `named` are letters of shape (items, conditions), "" for None;
    `probabilities` has shape (items, conditions, most options), 0 beyond an item's own options, and
    is None unless every record has them. `content_hash`, `condition_versions` and `seed` say what
    was asked.
    """

    task: str
    family: str
    conditions: tuple[str, ...]
    items: tuple[str, ...]
    parsed: np.ndarray
    gold: np.ndarray
    named: np.ndarray
    probabilities: np.ndarray | None
    seed: int
    content_hash: str
    condition_versions: Mapping[str, int]

    @property
    def reference(self) -> int:
        """The column of the reference condition."""
        return self.conditions.index(REFERENCE[self.family])

    @classmethod
    def of(
        cls,
        task: str,
        family: str,
        conditions: Sequence[str],
        records: Sequence[Record],
        seed: int = 0,
        content_hash: str = "",
        condition_versions: Mapping[str, int] | None = None,
    ) -> Outcomes:
        """Return the outcomes of complete records in any order.

        Raises InputError that names the task and item where a record is missing, failed, occurs twice or
        has probabilities of another number of options than the item's other records; and where the
        family's reference condition was not asked.
        """
        if REFERENCE[family] not in conditions:
            raise InputError(f"{task}: the reference condition {REFERENCE[family]!r} was not asked")
        groups = group_by_item(records)
        for item, group in groups.items():
            for name in conditions:
                if name not in group:
                    raise InputError(f"{task}: item {item}: condition {name!r} has no record; run it to its end")
                if group[name].failure:
                    raise InputError(f"{task}: item {item}: the model failed under {name!r}: {group[name].failure}")
        if not groups:
            raise InputError(f"{task}: there are no records")
        ordered = tuple(sorted(conditions, key=lambda name: name != REFERENCE[family]))
        items = tuple(sorted(groups))
        rows = [[groups[item][name] for name in ordered] for item in items]
        return cls(
            task=task,
            family=family,
            conditions=ordered,
            items=items,
            parsed=np.array([[record.parsed or "" for record in row] for row in rows]),
            gold=np.array([[record.gold for record in row] for row in rows]),
            named=np.array([[record.named or "" for record in row] for row in rows]),
            probabilities=_probabilities(task, rows),
            seed=seed,
            content_hash=content_hash,
            condition_versions=dict(condition_versions or {}),
        )


def _probabilities(task: str, rows: Sequence[Sequence[Record]]) -> np.ndarray | None:
    given = [record.probabilities for row in rows for record in row]
    if any(values is None for values in given):
        return None
    for row in rows:
        if len({len(record.probabilities) for record in row}) > 1:
            raise InputError(f"{task}: item {row[0].item_id}: field 'probabilities' differs in length by condition")
    table = np.zeros((len(rows), len(rows[0]), max(map(len, given))))
    for i, row in enumerate(rows):
        for j, record in enumerate(row):
            table[i, j, : len(record.probabilities)] = record.probabilities
    return table / table.sum(-1, keepdims=True)
