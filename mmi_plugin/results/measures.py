"""Records in, one value per item and measure out (method section 1), so that all intervals and tests are over items."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from mmi_plugin.answers.agreement import HALF
from mmi_plugin.conditions import get, perturbing
from mmi_plugin.item import LETTERS
from mmi_plugin.results import Record, group_by_item
from mmi_plugin.results.outcomes import Outcomes, stack


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
    "positive_consistency": "positive consistency",
    "negative_consistency": "negative consistency",
    "ignoring": "ignoring what is right",
    "text_preference": "text preference",
    "logit_gap": "logit gap in nats",
    "group_accuracy": "whole groups right",
    "bias_ratio": "answers that are the expected bias",
    "js": "JS causal effect",
    "tv": "TV causal effect",
    "unparseable": "unparseable",
    "cut_off": "cut off in a thought",
}
"""Names of measures as they are shown, in the order of tables."""
APART = ("group_accuracy", "bias_ratio")
"""Measures that only some data sets have: with items in groups, with an answer that is the expected bias."""
HIGHER_IS_BETTER = frozenset(
    (
        *("accuracy", "reference_accuracy", "worst_case", "worst_case_seen", "wrong_to_right", "group_accuracy"),
        "positive_consistency",
    )
)
LOWER_IS_BETTER = frozenset(LABELS) - HIGHER_IS_BETTER
_GAP = -float(np.log(np.finfo(np.float32).tiny))
"""The largest gap: of a probability that is as good as none in single precision."""


def times(measure: Measure) -> int:
    """Return what a value of a measure is multiplied with to be shown: shares are, in percent."""
    return 1 if measure.name == "logit_gap" else 100


@dataclass(frozen=True)
class PerItem:
    """Values of shape (items,); NaN where an item does not count. `binary`: each is 0 or 1. `seeds`: the mean of each
    seed, where the values are themselves means over trainings with several; `lowest`, `highest`: what no value is below
    or above; `clusters` of shape (items,): labels, equal where items share an image or a passage; None: no two do."""

    values: np.ndarray
    binary: bool = True
    seeds: tuple[float, ...] = ()
    lowest: float = 0.0
    highest: float = 1.0
    clusters: np.ndarray | None = None


def over_seeds(trainings: Sequence[PerItem]) -> PerItem:
    """Return each item's mean over trainings that differ in their seed alone."""
    values = trainings[0].values if len(trainings) == 1 else np.mean([one.values for one in trainings], 0)
    seeds = tuple(_mean(one.values) for one in trainings)
    return replace(trainings[0], values=values, binary=len(trainings) == 1 and trainings[0].binary, seeds=seeds)


def per_item(outcomes: Outcomes) -> dict[Measure, PerItem]:
    """Return the values of every measure of method section 1 (Diagnose).

    By condition: `accuracy` (of free-form answers the mean score), `unparseable`, and against the reference, if that
    was asked, `drop` (reference minus condition), `flip_rate` with its three directions, which add up to it,
    `text_preference` (among changed answers to a text that names an option: is it that option?), where it is a wrong
    one `logit_gap` (log of its probability minus log of the right one's: what of two modalities that contradict each
    other one names against what the other shows), of items in groups
    `group_accuracy` (is all of a group right?), of items that name an answer by themselves `bias_ratio` (is the
    answer that one?), `positive_consistency` (among items that are right under the reference: still right?) and
    `negative_consistency` (among those that are wrong: still wrong?; both after IR-VQA, doi 10.1109/tpami.2026.3655641,
    of which only the abstract could be read: names are its own, these definitions ours), where the right answer is
    named `ignoring` (the second of them), and, of distributions over the options, `js` in bits and `tv`. Over all
    conditions: `reference_accuracy`,
    `worst_case` (right under each; the least score), `worst_case_seen` (under each that the published training uses),
    the mean `flip_rate` over the perturbations, and the means of `unparseable` and of `cut_off`, which is a part of it;
    in none of these is a condition that does not interfere.
    """
    measured = {Measure(name, condition): values for name, condition, values in _by_condition(outcomes)}
    scores, asked = outcomes.scores, [get(name).role == "interferes" for name in outcomes.conditions]
    seen = [get(name).seen for name in outcomes.conditions]
    if outcomes.reference is not None:
        measured[Measure("reference_accuracy")] = _graded(scores[:, outcomes.reference])
    measured[Measure("worst_case")] = _graded(scores[:, asked].min(1, initial=1))
    measured[Measure("worst_case_seen")] = _graded(scores[:, seen].min(1, initial=1))
    measured[Measure("unparseable")] = PerItem((outcomes.parsed == "")[:, asked].mean(1), binary=False)
    measured[Measure("cut_off")] = PerItem(outcomes.cut_off[:, asked].mean(1), binary=False)
    perturbed = (Measure("flip_rate", name) for name in perturbing(outcomes.conditions))
    flips = [measured[one].values for one in perturbed if one in measured]
    if flips:
        measured[Measure("flip_rate")] = PerItem(np.mean(flips, 0), binary=False)
    return {measure: replace(values, clusters=outcomes.clusters) for measure, values in measured.items()}


def _by_condition(outcomes: Outcomes) -> Iterator[tuple[str, str, PerItem]]:
    for column, name in enumerate(outcomes.conditions):
        yield "accuracy", name, _graded(outcomes.scores[:, column])
        yield "unparseable", name, _binary(outcomes.parsed[:, column] == "")
        if outcomes.groups is not None:
            yield "group_accuracy", name, _whole_groups(outcomes.scores[:, column], outcomes.groups)
        if (biased := outcomes.biased).any():
            yield "bias_ratio", name, PerItem(np.where(biased, outcomes.follows[:, column], np.nan))
        if outcomes.reference not in (None, column):
            found = _against_reference(outcomes, outcomes.reference, column)
            yield from ((measure, name, values) for measure, values in found.items())
            right = outcomes.scores >= HALF
            before, wrong = right[:, outcomes.reference], ~right[:, column]
            if get(name).role == "matches":
                yield "ignoring", name, PerItem(np.where(before, np.nan, wrong))
            else:
                yield "positive_consistency", name, PerItem(np.where(before, ~wrong, np.nan))
                yield "negative_consistency", name, PerItem(np.where(before, np.nan, wrong))


def _against_reference(outcomes: Outcomes, reference: int, column: int) -> dict[str, PerItem]:
    """Return the measures that pair column `column` with the reference."""
    before, after = outcomes.scores[:, reference], outcomes.scores[:, column]
    right_before, right_after = before >= HALF, after >= HALF
    changed, named = outcomes.changed[:, column], outcomes.named[:, column]
    found = {
        "drop": PerItem(before - after, binary=False, lowest=-1.0),
        "flip_rate": _binary(changed),
        "right_to_wrong": _binary(right_before & ~right_after),
        "wrong_to_right": _binary(~right_before & right_after),
        "wrong_to_wrong": _binary(changed & ~right_before & ~right_after),
    }
    if (named != "").any():
        follows = np.where(changed & (named != ""), outcomes.follows[:, column], np.nan)
        found["text_preference"] = PerItem(follows.astype(float))
    if outcomes.probabilities is not None:
        gap = logit_gap(outcomes, column)
        found |= {} if np.isnan(gap.values).all() else {"logit_gap": gap}
        pair = outcomes.probabilities[:, reference], outcomes.probabilities[:, column]
        found["js"] = PerItem(jensen_shannon(*pair), binary=False)
        found["tv"] = PerItem(total_variation(*pair), binary=False)
    return found


def logit_gap(outcomes: Outcomes, column: int) -> PerItem:
    """Return log p(named) - log p(right) under a condition, (items,); NaN where none, or the right one, is named."""
    gold, named, found = outcomes.gold[:, column], outcomes.named[:, column], np.full(len(outcomes.items), np.nan)
    at = np.flatnonzero((named != "") & (named != gold))
    logs = np.log(outcomes.probabilities[at, column].clip(np.exp(-_GAP)))
    rows = np.arange(len(at))
    ahead, right = ([LETTERS.index(letter) for letter in letters[at]] for letters in (named, gold))
    found[at] = logs[rows, ahead] - logs[rows, right] if len(at) else []
    return PerItem(found, False, lowest=-_GAP, highest=_GAP)


def _whole_groups(scores: np.ndarray, groups: np.ndarray) -> PerItem:
    """Return whether all items of a group are right, at the first of them: (items,) twice -> (items,)."""
    found = np.full(len(scores), np.nan)
    labels, first, codes = np.unique(groups, return_index=True, return_inverse=True)
    found[first] = np.bincount(codes, scores < HALF, len(labels)) == 0
    return PerItem(found)


def _binary(hits: np.ndarray) -> PerItem:
    return PerItem(hits.astype(float))


def _graded(scores: np.ndarray) -> PerItem:
    return PerItem(scores, binary=bool(np.isin(scores, (0, 1)).all()))


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
    means: accuracy/CONDITION, flip_rate/CONDITION (not of the reference), of some data group_accuracy/CONDITION and
    bias_ratio/CONDITION, worst_case, worst_case_seen, unparseable, cut_off."""
    whole = {item: group for item, group in group_by_item(records).items() if _is_whole(group, conditions)}
    measured = per_item(stack("", family, conditions, whole))
    shown = [
        *(Measure(name, condition) for name in ("accuracy", "flip_rate", *APART) for condition in conditions),
        *map(Measure, ("worst_case", "worst_case_seen", "unparseable", "cut_off")),
    ]
    return {"/".join(filter(None, one)): measured[one] for one in shown if one in measured}


def task_numbers(records: Sequence[Record], family: str, conditions: Sequence[str]) -> dict[str, float]:
    """Return the numbers of one task, `numbers_of` its `task_values`."""
    return numbers_of(task_values(records, family, conditions), records, conditions)


def numbers_of(values: Mapping[str, PerItem], records: Sequence[Record], conditions: Sequence[str]) -> dict[str, float]:
    """Return the means of `task_values`, shares in [0, 1] that are NaN where there is no complete item; and the counts
    `items` and `incomplete`, the second of which are in no share."""
    counts = {"items": len(values["worst_case"].values), "incomplete": len(incomplete(records, conditions))}
    return {name: _mean(one.values) for name, one in values.items()} | counts


def _mean(values: np.ndarray) -> float:
    counted = values[~np.isnan(values)]
    return float(counted.mean()) if len(counted) else float("nan")


def higher_is_better(name: str) -> bool | None:
    """Return the direction of one of `task_numbers`; None for a plain count."""
    return None if name == "items" else name.partition("/")[0] in HIGHER_IS_BETTER
