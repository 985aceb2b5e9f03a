"""Trials of an ablation in; every setting's numbers with intervals, and each against the config's own, paired, out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mmi_plugin.results import Record
from mmi_plugin.results.estimates import Difference, Estimate, corrected, difference, estimate
from mmi_plugin.results.measures import Measure, over_seeds, per_item
from mmi_plugin.results.outcomes import Outcomes
from mmi_plugin.studies.demo import TASKS, VALIDATION, benchmark
from mmi_plugin.studies.plan import OWN, Setting


@dataclass(frozen=True)
class Trial:
    """One training and what its checkpoint answered, by task; `attack_strength` as it was last logged."""

    setting: Setting
    seed: int
    answers: Mapping[str, Mapping[str, Any]]
    attack_strength: float | None
    seconds: float

    def records(self, task: str) -> list[Record]:
        """The answers to one task, without the raw text."""
        own = self.answers[task]
        clusters = {item.id: item.cluster for item in benchmark(task, VALIDATION).items}
        return [
            Record(item, name, 0, gold, letter, letter or "", cluster=clusters.get(item))
            for name, letters in own["parsed"].items()
            for item, gold, letter in zip(own["items"], own["gold"], letters, strict=True)
        ]

    def outcomes(self, task: str) -> Outcomes:
        bench = benchmark(task)
        return Outcomes.of(task, bench.family, bench.conditions, self.records(task))


@dataclass(frozen=True)
class Endpoint:
    """One number that an ablation looks at. `label` stands in tables, `words` in sentences."""

    task: str
    measure: Measure
    label: str
    words: str


DIGITS, CAPITALS, VQA = (
    Endpoint(TASKS[0], Measure("worst_case"), "digits, worst case", "the worst case on digits"),
    Endpoint(TASKS[1], Measure("worst_case"), "capitals, worst case", "the worst case on capitals"),
    Endpoint(TASKS[2], Measure("reference_accuracy"), "VQA (sums)", "VQA"),
)
ENDPOINTS = (DIGITS, CAPITALS, VQA)


@dataclass(frozen=True)
class Analysis:
    """All numbers by (setting, endpoint); changes from the config as it is to every other setting that was trained."""

    numbers: Mapping[tuple[Setting, Endpoint], Estimate]
    changes: Mapping[tuple[Setting, Endpoint], Difference]

    def as_json(self) -> dict[str, Any]:
        """Return the numbers as `sweep.json` holds them."""
        numbers, changes = [], []
        for (setting, endpoint), number in self.numbers.items():
            values = asdict(number)
            more = {"seeds": values.pop("seeds")}
            numbers.append({"setting": setting.name, "outcome": endpoint.label, "estimate": values, **more})
        for (setting, endpoint), change in self.changes.items():
            values = asdict(change)
            more = {"differs": change.differs, "p": values.pop("p_holm"), "seeds": values.pop("seeds")}
            changes.append({"setting": setting.name, "outcome": endpoint.label, "difference": values, **more})
        return {"numbers": numbers, "changes": changes}


def analyse(trials: Sequence[Trial]) -> Analysis:
    """Return the numbers of trials that were all asked the same items.

    Intervals are over items, not seeds: they say how far the mean over these seeds would move with
    other items. The tests exchange the two settings within items; Holm's correction is over all of them.
    """
    by_setting: dict[Setting, list[Trial]] = {}
    for trial in trials:
        by_setting.setdefault(trial.setting, []).append(trial)
    values = {
        (setting, endpoint): over_seeds([per_item(one.outcomes(endpoint.task))[endpoint.measure] for one in own])
        for setting, own in by_setting.items()
        for endpoint in ENDPOINTS
    }
    numbers = {key: estimate([own]) for key, own in values.items()}
    changes = {
        (setting, endpoint): difference([values[OWN, endpoint]], [own])
        for (setting, endpoint), own in values.items()
        if setting.field and (OWN, endpoint) in values
    }
    return Analysis(numbers, corrected(changes))
