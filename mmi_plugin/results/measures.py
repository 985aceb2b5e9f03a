"""Records in, one value per item and measure out (method section 1), so that all intervals and tests are over items."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mmi_plugin.conditions import FLOOR, REFERENCE, get, perturbing
from mmi_plugin.errors import InputError
from mmi_plugin.results import Record, group_by_item


@dataclass(frozen=True)
class Outcomes:
    """The answers of one model on one data set as arrays: one row per item, in the order of ids; one column per
    condition, the reference first.

    `parsed`, `gold` and `named` are letters of shape (items, conditions), "" for None; `cut_off` is bool;
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
    cut_off: np.ndarray
    probabilities: np.ndarray | None
    seed: int
    content_hash: str
    condition_versions: Mapping[str, int]

    @property
    def reference(self) -> int | None:
        """The column of the reference condition, if it was asked."""
        return 0 if REFERENCE[self.family] in self.conditions else None

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
        for item, group in groups.items():
            for name in conditions:
                if group[name].failure:
                    raise InputError(f"{task}: item {item}: the model failed under {name!r}: {group[name].failure}")
        if not groups:
            raise InputError(f"{task}: there are no records")
        return _stack(task, family, conditions, groups, seed, content_hash, dict(condition_versions or {}))


def _stack(
    task: str,
    family: str,
    conditions: Sequence[str],
    groups: Mapping[str, Mapping[str, Record]],
    seed: int,
    content_hash: str,
    condition_versions: Mapping[str, int],
) -> Outcomes:
    ordered = tuple(sorted(conditions, key=lambda name: name != REFERENCE[family]))
    items = tuple(sorted(groups))
    rows = [[groups[item][name] for name in ordered] for item in items]

    def table(field: str, kind: type) -> np.ndarray:
        cells = [[getattr(record, field) or kind() for record in row] for row in rows]
        return np.array(cells, dtype=kind).reshape(len(items), len(ordered))

    return Outcomes(
        task=task,
        family=family,
        conditions=ordered,
        items=items,
        parsed=table("parsed", str),
        gold=table("gold", str),
        named=table("named", str),
        cut_off=table("cut_off", bool),
        probabilities=_probabilities(task, rows),
        seed=seed,
        content_hash=content_hash,
        condition_versions=condition_versions,
    )


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


class Measure(NamedTuple):
    """What is measured, under which condition; None for a measure over several of them."""

    name: str
    condition: str | None = None


LABELS = {
    "accuracy": "accuracy",
    "reference_accuracy": "reference accuracy",
    "worst_case": "worst case",
    "worst_case_seen": "worst case, seen",
    "drop": "drop",
    "flip_rate": "flip rate",
    "right_to_wrong": "right to wrong",
    "wrong_to_right": "wrong to right",
    "wrong_to_wrong": "wrong to another wrong",
    "text_preference": "text preference",
    "js": "JS causal effect",
    "tv": "TV causal effect",
    "unparseable": "unparseable",
    "cut_off": "cut off in a thought",
}
"""Names of measures as they are shown, in the order of tables."""
LOWER_IS_BETTER = frozenset(LABELS) - {
    *("accuracy", "reference_accuracy", "worst_case", "worst_case_seen", "wrong_to_right"),
}


@dataclass(frozen=True)
class PerItem:
    """Values of shape (items,); NaN where an item does not count. `binary`: each is 0 or 1. `seeds`: the mean of each
    seed, where the values are themselves means over trainings with several; `lowest`: what no value is below."""

    values: np.ndarray
    binary: bool = True
    seeds: tuple[float, ...] = ()
    lowest: float = 0.0


def over_seeds(trainings: Sequence[PerItem]) -> PerItem:
    """Return each item's mean over trainings that differ in their seed alone."""
    values = trainings[0].values if len(trainings) == 1 else np.mean([one.values for one in trainings], 0)
    binary = len(trainings) == 1 and trainings[0].binary
    seeds = tuple(_mean(one.values[~np.isnan(one.values)]) for one in trainings)
    return PerItem(values, binary, seeds, trainings[0].lowest)


def per_item(outcomes: Outcomes) -> dict[Measure, PerItem]:
    """Return the values of every measure of method section 1 (Diagnose).

    By condition: `accuracy`, `unparseable`, and against the reference, if that was asked, `drop` (reference minus
    condition), `flip_rate` with its three directions, which add up to it, `text_preference` (among
    changed answers to a text that names an option: is it that option?), and, of distributions over
    the options, `js` in bits and `tv`. Over all conditions: `reference_accuracy`, `worst_case`
    (right under each), `worst_case_seen` (under each that the published training uses), the mean
    `flip_rate` over the perturbations, and the means of `unparseable` and of `cut_off`, which is a part of it; in none
    of these is the reference that was asked again.
    """
    measured = {Measure(name, condition): values for name, condition, values in _by_condition(outcomes)}
    right = outcomes.parsed == outcomes.gold
    asked = [name != FLOOR for name in outcomes.conditions]
    seen = [get(name).seen for name in outcomes.conditions]
    if outcomes.reference is not None:
        measured[Measure("reference_accuracy")] = _binary(right[:, outcomes.reference])
    measured[Measure("worst_case")] = _binary(right[:, asked].all(1))
    measured[Measure("worst_case_seen")] = _binary(right[:, seen].all(1))
    measured[Measure("unparseable")] = PerItem((outcomes.parsed == "")[:, asked].mean(1), binary=False)
    measured[Measure("cut_off")] = PerItem(outcomes.cut_off[:, asked].mean(1), binary=False)
    flips = [measured[one].values for one in map(_flips, perturbing(outcomes.conditions)) if one in measured]
    if flips:
        measured[Measure("flip_rate")] = PerItem(np.mean(flips, 0), binary=False)
    return measured


def _flips(condition: str) -> Measure:
    return Measure("flip_rate", condition)


def _by_condition(outcomes: Outcomes) -> Iterator[tuple[str, str, PerItem]]:
    for column, name in enumerate(outcomes.conditions):
        yield "accuracy", name, _binary(outcomes.parsed[:, column] == outcomes.gold[:, column])
        yield "unparseable", name, _binary(outcomes.parsed[:, column] == "")
        if outcomes.reference not in (None, column):
            for measure, values in _against_reference(outcomes, outcomes.reference, column).items():
                yield measure, name, values


def _against_reference(outcomes: Outcomes, reference: int, column: int) -> dict[str, PerItem]:
    """Return the measures that pair column `column` with the reference."""
    before, after = outcomes.parsed[:, reference], outcomes.parsed[:, column]
    right_before, right_after = before == outcomes.gold[:, reference], after == outcomes.gold[:, column]
    changed, named = before != after, outcomes.named[:, column]
    found = {
        "drop": PerItem(right_before.astype(float) - right_after, binary=False, lowest=-1.0),
        "flip_rate": _binary(changed),
        "right_to_wrong": _binary(right_before & ~right_after),
        "wrong_to_right": _binary(~right_before & right_after),
        "wrong_to_wrong": _binary(changed & ~right_before & ~right_after),
    }
    if (named != "").any():
        follows = np.where(changed & (named != ""), after == named, np.nan)
        found["text_preference"] = PerItem(follows.astype(float))
    if outcomes.probabilities is not None:
        pair = outcomes.probabilities[:, reference], outcomes.probabilities[:, column]
        found["js"] = PerItem(jensen_shannon(*pair), binary=False)
        found["tv"] = PerItem(total_variation(*pair), binary=False)
    return found


def _binary(hits: np.ndarray) -> PerItem:
    return PerItem(hits.astype(float))


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence in bits, in [0, 1]: (..., options) twice -> (...) (Lin, 1991)."""
    from scipy.special import rel_entr  # slow to import, and evaluations start with this module

    middle = (p + q) / 2
    nats = (rel_entr(p, middle) + rel_entr(q, middle)).sum(-1) / 2
    return np.clip(nats / np.log(2), 0, 1)


def total_variation(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Half the L1 distance, in [0, 1]: (..., options) twice -> (...)."""
    return np.abs(p - q).sum(-1) / 2


def incomplete(records: Sequence[Record], conditions: Sequence[str]) -> tuple[str, ...]:
    """Return the ids of items that lack a condition, or on which the model failed."""
    return tuple(sorted(item for item, group in group_by_item(records).items() if not _is_whole(group, conditions)))


def _is_whole(group: Mapping[str, Record], conditions: Sequence[str]) -> bool:
    return set(group) == set(conditions) and not any(record.failure for record in group.values())


def task_values(records: Sequence[Record], family: str, conditions: Sequence[str]) -> dict[str, PerItem]:
    """Return the values of the complete items of one task by the names under which lmms-eval's results hold their
    means: accuracy/CONDITION, flip_rate/CONDITION (not of the reference), worst_case, worst_case_seen, unparseable,
    cut_off."""
    whole = {item: group for item, group in group_by_item(records).items() if _is_whole(group, conditions)}
    measured = per_item(_stack("", family, conditions, whole, 0, "", {}))
    shown = [
        *(Measure(name, condition) for name in ("accuracy", "flip_rate") for condition in conditions),
        *map(Measure, ("worst_case", "worst_case_seen", "unparseable", "cut_off")),
    ]
    return {"/".join(filter(None, one)): measured[one] for one in shown if one in measured}


def task_numbers(records: Sequence[Record], family: str, conditions: Sequence[str]) -> dict[str, float]:
    """Return the numbers of one task: the means of `task_values`, shares in [0, 1] that are NaN where there is no
    complete item; and the counts `items` and `incomplete`, the second of which are in no share."""
    values = task_values(records, family, conditions)
    lacking = len(incomplete(records, conditions))
    counts = {"items": len(group_by_item(records)) - lacking, "incomplete": lacking}
    return {name: _mean(one.values) for name, one in values.items()} | counts


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def higher_is_better(name: str) -> bool | None:
    """Return the direction of one of `task_numbers`; None for a plain count."""
    if name.startswith("accuracy/") or name in ("worst_case", "worst_case_seen"):
        return True
    return None if name == "items" else False
