"""Records in, one model's answers on one data set as arrays out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmi_plugin.conditions import REFERENCE
from mmi_plugin.errors import InputError
from mmi_plugin.results import Record, group_by_item


@dataclass(frozen=True)
class Outcomes:
    """The answers of one model on one data set as arrays: one row per item, in the order of ids; one column per
    condition, the reference first.

    `parsed`, `gold` (what would be right) and `named` are texts of shape (items, conditions), "" for None, letters but
    for free-form answers; `scores` from 0 to 1, as `metric` (empty for choices) says; `follows` (the answer is the
    named one), `changed` against the reference and `cut_off` are bool;
    `probabilities` has shape (items, conditions, most options), 0 beyond an item's own options, and is None unless
    every record has them; `clusters` (items,) are labels, None where no two items share one, `groups` (items,) those of
    items that count together, None where there are none. `content_hash`, `condition_versions` and `seed` say what was
    asked.
    """

    task: str
    family: str
    conditions: tuple[str, ...]
    items: tuple[str, ...]
    parsed: np.ndarray
    gold: np.ndarray
    named: np.ndarray
    follows: np.ndarray
    scores: np.ndarray
    changed: np.ndarray
    cut_off: np.ndarray
    probabilities: np.ndarray | None
    clusters: np.ndarray | None = None
    groups: np.ndarray | None = None
    metric: str = ""
    seed: int = 0
    content_hash: str = ""
    condition_versions: Mapping[str, int] = field(default_factory=dict)

    @property
    def reference(self) -> int | None:
        """The column of the reference condition, if it was asked."""
        return 0 if REFERENCE[self.family] in self.conditions else None

    @property
    def biased(self) -> np.ndarray:
        """Which items name an answer by themselves, the one that a bias is known to draw: bool, (items,)."""
        return self.named[:, 0] != "" if self.reference == 0 else np.zeros(len(self.items), bool)

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
        try:
            groups = group_by_item(records, conditions)
        except InputError as error:
            raise InputError(f"{task}: {error}") from error
        for record in records:
            if record.failure:
                where = f"{task}: item {record.item_id}"
                raise InputError(f"{where}: the model failed under {record.condition!r}: {record.failure}")
        if not groups:
            raise InputError(f"{task}: there are no records")
        asked = {"seed": seed, "content_hash": content_hash, "condition_versions": dict(condition_versions or {})}
        return stack(task, family, conditions, groups, **asked)


def stack(
    task: str, family: str, conditions: Sequence[str], groups: Mapping[str, Mapping[str, Record]], **asked: Any
) -> Outcomes:
    """Return the outcomes of complete groups. asked: what else Outcomes holds of what was asked."""
    ordered = tuple(sorted(conditions, key=lambda name: name != REFERENCE[family]))
    items = tuple(sorted(groups))
    rows = [[groups[item][name] for name in ordered] for item in items]

    metrics = {record.metric for row in rows for record in row}
    if len(metrics) > 1:
        raise InputError(f"{task}: field 'metric' is {' and '.join(sorted(map(str, metrics)))}")

    def table(values: Callable[[Record], Any], kind: type) -> np.ndarray:
        # Free-form answers may be long, and numpy's own texts are all as long as the longest.
        dtype = object if kind is str and metrics != {None} else kind
        cells = [[values(record) or kind() for record in row] for row in rows]
        return np.array(cells, dtype=dtype).reshape(len(items), len(ordered))

    return Outcomes(
        task=task,
        family=family,
        conditions=ordered,
        items=items,
        parsed=table(lambda record: record.parsed, str),
        gold=table(lambda record: record.wanted, str),
        named=table(lambda record: record.named, str),
        follows=table(lambda record: record.follows, bool),
        scores=table(lambda record: record.score, float),
        changed=table(lambda record: record.flipped(groups[record.item_id][ordered[0]]), bool),
        cut_off=table(lambda record: record.cut_off, bool),
        probabilities=_probabilities(task, rows),
        clusters=clusters_of([row[0] for row in rows]),
        groups=_groups(rows),
        metric=next(iter(metrics), None) or "",
        **asked,
    )


def clusters_of(records: Sequence[Record]) -> np.ndarray | None:
    """Return the clusters' labels (items,) of items by a record of each; None where no two share one."""
    labels = [record.cluster or f"item {record.item_id}" for record in records]
    return np.array(labels) if len(set(labels)) < len(labels) else None


def _groups(rows: Sequence[Sequence[Record]]) -> np.ndarray | None:
    labels = [row[0].group or f"item {row[0].item_id}" for row in rows]
    return np.array(labels) if any(row[0].group for row in rows) else None


def _probabilities(task: str, rows: Sequence[Sequence[Record]]) -> np.ndarray | None:
    given = [record.probabilities for row in rows for record in row]
    if not given or any(values is None for values in given):
        return None
    for row in rows:
        if len({len(record.probabilities) for record in row}) > 1:
            raise InputError(f"{task}: item {row[0].item_id}: field 'probabilities' differs in length by condition")
    table = np.zeros((len(rows), len(rows[0]), max(map(len, given))))
    for i, row in enumerate(rows):
        for j, record in enumerate(row):
            table[i, j, : len(record.probabilities)] = record.probabilities
    return table / table.sum(-1, keepdims=True)
