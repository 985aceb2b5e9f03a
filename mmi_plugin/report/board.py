"""Models ranked by worst-case accuracy: every number with its interval, beside a baseline with its test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from tqdm import tqdm

from mmi_plugin.conditions import FLOOR, get, perturbing
from mmi_plugin.item import FAMILIES
from mmi_plugin.results.estimates import Difference, Estimate, corrected, difference, estimate
from mmi_plugin.results.measures import LABELS, Measure, PerItem, over_seeds, per_item
from mmi_plugin.results.outcomes import Outcomes
from mmi_plugin.results.reliance import Reliance, reliance
from mmi_plugin.results.runs import Run


@dataclass(frozen=True)
class Sweep:
    """`condition` with all but one strength fixed; `names` maps each value of that one, ascending,
    to the name of the condition that has it."""

    condition: str
    parameter: str
    names: Mapping[int | str, str]

    @property
    def title(self) -> str:
        return f"{self.condition}@{self.parameter}"


def sweeps(conditions: Sequence[str]) -> list[Sweep]:
    """Return the sweeps that `conditions` hold: two or more that differ in one strength only."""
    found: dict[tuple[str, str], dict[int | str, str]] = {}
    for condition in map(get, conditions):
        for name, parameter in condition.parameters.items():
            rest = condition.at(**{**condition.strength, name: parameter.default})
            found.setdefault((rest.name, name), {})[condition.values[name]] = condition.name
    return [
        Sweep(rest, name, {value: names[value] for value in sorted(names, key=get(rest).parameters[name].valid.index)})
        for (rest, name), names in found.items()
        if len(names) > 1
    ]


OVERALL = "all"
MARGIN = 2.0
RANKED_BY = Measure("worst_case")
_TESTED = ("accuracy", "flip_rate", "worst_case", "js", "tv")


class Scope(NamedTuple):
    """What a number is over: one data set, a family, or all that were perturbed; data sets weigh the same."""

    name: str
    kind: str
    tasks: tuple[str, ...]


class Key(NamedTuple):
    """Which number: of which model, over what, of which measure."""

    model: str
    scope: Scope
    measure: Measure


@dataclass(frozen=True)
class Leaderboard:
    """`runs` stand best first; `ranks` are equal where worst-case accuracies are; `numbers` of every model;
    `changes` from the baseline to the others, corrected by `corrected_by_family`; `margin`: by how many points VQA may
    get worse and still count as not harmed; `trainings`: all runs, of which `runs` has the first of each name."""

    runs: tuple[Run, ...]
    ranks: Mapping[str, int]
    scopes: tuple[Scope, ...]
    numbers: Mapping[Key, Estimate]
    changes: Mapping[Key, Difference]
    baseline: str | None
    margin: float
    trainings: tuple[Run, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(run.name for run in self.runs)

    @property
    def outcomes(self) -> Mapping[str, Outcomes]:
        """One model's outcomes by task: families, conditions and items are those of every model."""
        return self.runs[0].outcomes

    @cached_property
    def reliances(self) -> tuple[tuple[str, str, Reliance], ...]:
        """(model, task, which modality it follows) for each that was asked for it; of several seeds, the first's."""
        found = ((run.name, task, reliance(outcomes)) for run in self.runs for task, outcomes in run.outcomes.items())
        return tuple(one for one in found if one[2] is not None)

    def scopes_of(self, kind: str) -> tuple[Scope, ...]:
        return tuple(scope for scope in self.scopes if scope.kind == kind)

    def measures(self, scope: Scope) -> tuple[Measure, ...]:
        """The measures that every model has over `scope`, by name, those of no condition last."""
        found = [
            key.measure
            for key in self.numbers
            if (key.model, key.scope) == (self.names[0], scope)
            and all(Key(name, scope, key.measure) in self.numbers for name in self.names)
        ]
        order = list(LABELS)
        return tuple(sorted(found, key=lambda measure: (order.index(measure.name), measure.condition is None)))

    def summary(self, scope: Scope) -> list[Measure]:
        """Of a data set, accuracy by condition, then worst case and mean flip rate where there is a perturbation, and
        last how many answers flip when nothing is perturbed."""
        conditions = self.outcomes[scope.name].conditions
        found = [Measure("accuracy", name) for name in conditions if name != FLOOR]
        found += [Measure("worst_case"), Measure("flip_rate")] * (len(perturbing(conditions)) > 1)
        return found + [Measure("flip_rate", FLOOR)] * (FLOOR in conditions)


def build(runs: Sequence[Run], baseline: str | None = None, margin: float = MARGIN) -> Leaderboard:
    """Return the leaderboard of comparable `runs` (`results.runs.read_runs`).

    Runs of one name are trainings that differ in their seed alone: an item's value is its mean over them.
    """
    values = {name: _values([run for run in runs if run.name == name]) for name in dict.fromkeys(r.name for r in runs)}
    scopes = _scopes(runs[0].outcomes)
    keys = [
        Key(name, scope, measure) for name in values for scope in scopes for measure in _common(values[name], scope)
    ]
    numbers, changes = {}, {}
    for key in tqdm(keys, desc="Statistics", delay=2):
        parts = _parts(values, key)
        numbers[key] = estimate(parts)
        if baseline not in (None, key.model) and _is_tested(key):
            changes[key] = difference(_parts(values, key._replace(model=baseline)), parts)
    overall = scopes[-1]
    worst = {name: numbers[Key(name, overall, RANKED_BY)].value for name in values}
    best = {name: numbers[Key(name, overall, Measure("reference_accuracy"))].value for name in values}
    first = {run.name: run for run in reversed(runs)}
    ordered = sorted(first.values(), key=lambda run: (-worst[run.name], -best[run.name], run.name))
    ranks = {name: 1 + sum(other > share for other in worst.values()) for name, share in worst.items()}
    return Leaderboard(
        tuple(ordered), ranks, scopes, numbers, corrected_by_family(changes), baseline, margin, tuple(runs)
    )


def corrected_by_family(changes: Mapping[Key, Difference]) -> dict[Key, Difference]:
    """Return the changes with Holm's correction over the primary tests, those of the worst case, and apart from them
    over all others: what is looked at beside the question does not make its answer weaker."""
    primary = {key: change for key, change in changes.items() if is_primary(key)}
    found = corrected(primary) | corrected({key: change for key, change in changes.items() if key not in primary})
    return {key: found[key] for key in changes}


def is_primary(key: Key) -> bool:
    """Whether a test is one of the primary family: of what models are ranked by."""
    return key.measure.name == RANKED_BY.name


def _values(trainings: Sequence[Run]) -> dict[str, dict[Measure, PerItem]]:
    """Return task -> measure -> values of one model, of several trainings their mean."""
    found = {}
    for task in trainings[0].outcomes:
        measured = [per_item(run.outcomes[task]) for run in trainings]
        common = [measure for measure in measured[0] if all(measure in other for other in measured)]
        found[task] = {measure: over_seeds([one[measure] for one in measured]) for measure in common}
    return found


def _scopes(outcomes: Mapping[str, Outcomes]) -> tuple[Scope, ...]:
    """Return data sets, families, and last the data sets that were perturbed (all, where none was).

    A sweep asks one condition again and again: beside other data sets it stands for itself only.
    """
    tasks = sorted(outcomes, key=lambda task: (FAMILIES.index(outcomes[task].family), task))
    ranked = [task for task in tasks if not sweeps(outcomes[task].conditions)] or tasks
    families = {family: tuple(task for task in ranked if outcomes[task].family == family) for family in FAMILIES}
    perturbed = tuple(task for task in ranked if len(perturbing(outcomes[task].conditions)) > 1) or tuple(ranked)
    return (
        *(Scope(task, "task", (task,)) for task in tasks),
        *(Scope(family, "family", members) for family, members in families.items() if members),
        Scope(OVERALL, "all", perturbed),
    )


_Values = Mapping[str, Mapping[Measure, PerItem]]


def _common(values: _Values, scope: Scope) -> list[Measure]:
    """Return the measures that each data set of `scope` has; over families only those of no condition."""
    first, *others = (values[task] for task in scope.tasks)
    return [
        measure
        for measure in first
        if all(measure in other for other in others) and (scope.kind != "all" or measure.condition is None)
    ]


def _parts(values: Mapping[str, _Values], key: Key) -> list[PerItem]:
    return [values[key.model][task][key.measure] for task in key.scope.tasks]


def _is_tested(key: Key) -> bool:
    """A family with one data set would repeat that data set's tests, and so count them twice."""
    name, condition = key.measure
    if key.scope.kind == "task":
        return name in _TESTED and (condition is not None or name == "worst_case")
    return len(key.scope.tasks) > 1 and name in ("worst_case", "flip_rate") and condition is None


def curve_numbers(runs: Sequence[Run]) -> dict[Key, Estimate]:
    """Return what a dose-response curve needs: of data sets with a sweep, every number under one condition."""
    found = {}
    for run in runs:
        for task, outcomes in run.outcomes.items():
            if sweeps(outcomes.conditions):
                measured = {measure: values for measure, values in per_item(outcomes).items() if measure.condition}
                scope = Scope(task, "task", (task,))
                found |= {Key(run.name, scope, measure): estimate([values]) for measure, values in measured.items()}
    return found
