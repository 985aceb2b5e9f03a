"""Trials of an ablation in; every setting's numbers with intervals, and each against the config's own, paired, out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mmi_plugin.conditions import get
from mmi_plugin.results import Record
from mmi_plugin.results.estimates import Difference, Estimate, corrected, difference, estimate
from mmi_plugin.results.measures import HIGHER_IS_BETTER, LABELS, Measure, over_seeds, per_item
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

    def conditions(self, task: str) -> tuple[str, ...]:
        """The conditions under which a task was asked."""
        return tuple(self.answers[task]["parsed"])

    def outcomes(self, task: str) -> Outcomes:
        return Outcomes.of(task, benchmark(task).family, self.conditions(task), self.records(task))


@dataclass(frozen=True)
class Endpoint:
    """One number that an ablation looks at. `label` stands in tables, `words` in sentences."""

    task: str
    measure: Measure
    label: str
    words: str

    @property
    def more_is_better(self) -> bool:
        """Whether a higher number is the better one."""
        return self.measure.name in HIGHER_IS_BETTER


DIGITS, CAPITALS, VQA = (
    Endpoint(TASKS[0], Measure("worst_case"), "digits, worst case", "the worst case on digits"),
    Endpoint(TASKS[1], Measure("worst_case"), "capitals, worst case", "the worst case on capitals"),
    Endpoint(TASKS[2], Measure("reference_accuracy"), "VQA (sums)", "VQA"),
)
ENDPOINTS = (DIGITS, CAPITALS, VQA)


def endpoints(trials: Sequence[Trial]) -> tuple[Endpoint, ...]:
    """Return ENDPOINTS, and what shows of conditions asked beside those of the tasks whether a model still uses what
    helps: of those that name the right option, whether it is ignored, of others the accuracy."""
    found = list(ENDPOINTS)
    for task in TASKS:
        own = benchmark(task).conditions
        for name in trials[0].conditions(task) if trials else ():
            if name not in own:
                measure = "ignoring" if get(name).role == "matches" else "accuracy"
                words = f"{LABELS[measure]} under {name.replace('_', ' ')} on {task.removeprefix('mmi_demo_')}"
                found.append(Endpoint(task, Measure(measure, name), words, words))
    return tuple(found)


@dataclass(frozen=True)
class Analysis:
    """All numbers by (setting, endpoint); changes from the config as it is to every other setting that was trained."""

    numbers: Mapping[tuple[Setting, Endpoint], Estimate]
    changes: Mapping[tuple[Setting, Endpoint], Difference]
    endpoints: tuple[Endpoint, ...] = ENDPOINTS

    def as_json(self) -> dict[str, Any]:
        """Return the numbers as `sweep.json` holds them."""
        numbers, changes = [], []
        for (setting, endpoint), number in self.numbers.items():
            values = _known(asdict(number))
            more = {"seeds": values.pop("seeds"), "seed_sd": number.seed_sd}
            numbers.append({"setting": setting.name, "outcome": endpoint.label, "estimate": values, **more})
        for (setting, endpoint), change in self.changes.items():
            values = _known(asdict(change))
            more = {"differs": change.differs, "p": values.pop("p_holm"), "seeds": values.pop("seeds")}
            changes.append({"setting": setting.name, "outcome": endpoint.label, "difference": values, **more})
        return {"numbers": numbers, "changes": changes}


def _known(values: dict[str, Any]) -> dict[str, Any]:
    """Return values with None for each number that is none, which JSON does not have."""
    return {name: None if value != value else value for name, value in values.items()}


def analyse(trials: Sequence[Trial]) -> Analysis:
    """Return the numbers of trials that were all asked the same items.

    Intervals are over items and seeds. The tests, over items alone, exchange the two settings within items; Holm's
    correction is over all of them.
    """
    by_setting: dict[Setting, list[Trial]] = {}
    for trial in trials:
        by_setting.setdefault(trial.setting, []).append(trial)
    looked_at = endpoints(trials)
    values = {
        (setting, endpoint): over_seeds([per_item(one.outcomes(endpoint.task))[endpoint.measure] for one in own])
        for setting, own in by_setting.items()
        for endpoint in looked_at
    }
    numbers = {key: estimate([own]) for key, own in values.items()}
    changes = {
        (setting, endpoint): difference([values[OWN, endpoint]], [own])
        for (setting, endpoint), own in values.items()
        if setting.field and (OWN, endpoint) in values
    }
    return Analysis(numbers, corrected(changes), looked_at)
