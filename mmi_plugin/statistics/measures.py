"""Every measure as one value per item, so that all intervals and tests are over items."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mmi_plugin.conditions import get
from mmi_plugin.statistics.divergence import jensen_shannon, total_variation
from mmi_plugin.statistics.outcomes import Outcomes


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
}
"""Names of measures as they are shown, in the order of tables."""


@dataclass(frozen=True)
class PerItem:
    """Values of shape (items,); NaN where an item does not count. `binary`: each is 0 or 1."""

    values: np.ndarray
    binary: bool = True


def per_item(outcomes: Outcomes) -> dict[Measure, PerItem]:
    """Return the values of every measure of method section 1 (Diagnose).

    By condition: `accuracy`, `unparseable`, and against the reference `drop` (reference minus
    condition), `flip_rate` with its three directions, which add up to it, `text_preference` (among
    changed answers to a text that names an option: is it that option?), and, of distributions over
    the options, `js` in bits and `tv`. Over all conditions: `reference_accuracy`, `worst_case`
    (right under each), `worst_case_seen` (under each that the published training uses), the mean
    `flip_rate` over the perturbations, and the mean of `unparseable`.
    """
    measured = {Measure(name, condition): values for name, condition, values in _by_condition(outcomes)}
    right, reference = outcomes.parsed == outcomes.gold, outcomes.reference
    seen = [get(name).seen for name in outcomes.conditions]
    measured[Measure("reference_accuracy")] = _binary(right[:, reference])
    measured[Measure("worst_case")] = _binary(right.all(1))
    measured[Measure("worst_case_seen")] = _binary(right[:, seen].all(1))
    measured[Measure("unparseable")] = PerItem((outcomes.parsed == "").mean(1), binary=False)
    flips = [values.values for measure, values in measured.items() if measure.name == "flip_rate"]
    if flips:
        measured[Measure("flip_rate")] = PerItem(np.mean(flips, 0), binary=False)
    return measured


def _by_condition(outcomes: Outcomes) -> Iterator[tuple[str, str, PerItem]]:
    right, reference = outcomes.parsed == outcomes.gold, outcomes.reference
    for column, name in enumerate(outcomes.conditions):
        yield "accuracy", name, _binary(right[:, column])
        yield "unparseable", name, _binary(outcomes.parsed[:, column] == "")
        if column != reference:
            for measure, values in _against_reference(outcomes, column).items():
                yield measure, name, values


def _against_reference(outcomes: Outcomes, column: int) -> dict[str, PerItem]:
    """Return the measures that pair column `column` with the reference."""
    reference = outcomes.reference
    before, after = outcomes.parsed[:, reference], outcomes.parsed[:, column]
    right_before, right_after = before == outcomes.gold[:, reference], after == outcomes.gold[:, column]
    changed, named = before != after, outcomes.named[:, column]
    found = {
        "drop": PerItem(right_before.astype(float) - right_after, binary=False),
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
