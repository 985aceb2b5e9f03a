"""The numbers of a sweep: every setting with intervals, and each against the config's own, paired by item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmi_plugin.results.estimates import Difference, Estimate, difference, estimate, holm
from mmi_plugin.results.measures import Measure, PerItem, per_item
from mmi_plugin.studies.demo import TASKS
from mmi_plugin.studies.plan import OWN, Setting
from mmi_plugin.studies.runs import Run

ALPHA = 0.05


@dataclass(frozen=True)
class Outcome:
    """One number that a sweep looks at. `label` stands in tables, `words` in sentences."""

    task: str
    measure: Measure
    label: str
    words: str


DIGITS, CAPITALS, VQA = (
    Outcome(TASKS[0], Measure("worst_case"), "digits, worst case", "the worst case on digits"),
    Outcome(TASKS[1], Measure("worst_case"), "capitals, worst case", "the worst case on capitals"),
    Outcome(TASKS[2], Measure("reference_accuracy"), "VQA (sums)", "VQA"),
)
OUTCOMES = (DIGITS, CAPITALS, VQA)


@dataclass(frozen=True)
class Number:
    """A share with its 95% interval over items, each item's value being its mean over seeds; and each seed's share."""

    estimate: Estimate
    seeds: tuple[float, ...]


@dataclass(frozen=True)
class Change:
    """A setting minus the config as it is. `p`: after Holm's correction. `seeds`: the difference in each."""

    difference: Difference
    p: float
    seeds: tuple[float, ...]

    @property
    def differs(self) -> bool:
        """Whether the difference is beyond chance: its interval leaves out 0, and so does the corrected test."""
        return self.p < ALPHA and (self.difference.low > 0 or self.difference.high < 0)

    @property
    def in_every_seed(self) -> bool:
        return all(change * self.difference.value > 0 for change in self.seeds)


@dataclass(frozen=True)
class Analysis:
    """All numbers by (setting, outcome); changes of all settings but the config as it is and the base."""

    numbers: Mapping[tuple[Setting, Outcome], Number]
    changes: Mapping[tuple[Setting, Outcome], Change]


def analyse(runs: Sequence[Run]) -> Analysis:
    """Return the numbers of runs that were all asked the same items.

    Intervals resample items, not seeds: they say how far the mean over these seeds would move with
    other items. The tests exchange the two settings within items; Holm's correction is over all of them.
    """
    values = {
        (setting, outcome): _by_seed(runs, setting, outcome)
        for setting in dict.fromkeys(run.setting for run in runs)
        for outcome in OUTCOMES
    }
    numbers = {key: Number(estimate([_mean(own)]), _shares(own)) for key, own in values.items()}
    compared = {key: own for key, own in values.items() if key[0].field and (OWN, key[1]) in values}
    found = {key: difference([_mean(values[OWN, key[1]])], [_mean(own)]) for key, own in compared.items()}
    corrected = holm([one.p for one in found.values()])
    changes = {
        key: Change(one, p, _changes(values[OWN, key[1]], compared[key]))
        for (key, one), p in zip(found.items(), corrected, strict=True)
    }
    return Analysis(numbers, changes)


def _by_seed(runs: Sequence[Run], setting: Setting, outcome: Outcome) -> dict[int, np.ndarray]:
    """Return seed -> (items,) values of a setting."""
    return {
        run.seed: per_item(run.outcomes(outcome.task))[outcome.measure].values for run in runs if run.setting == setting
    }


def _mean(by_seed: Mapping[int, np.ndarray]) -> PerItem:
    return PerItem(np.mean(list(by_seed.values()), 0), binary=len(by_seed) == 1)


def _shares(by_seed: Mapping[int, np.ndarray]) -> tuple[float, ...]:
    return tuple(float(values.mean()) for values in by_seed.values())


def _changes(own: Mapping[int, np.ndarray], other: Mapping[int, np.ndarray]) -> tuple[float, ...]:
    return tuple(float((other[seed] - own[seed]).mean()) for seed in own)
