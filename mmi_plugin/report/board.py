"""Models ranked by worst-case accuracy: every number with its interval, beside a baseline with its test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from tqdm import tqdm

from mmi_plugin.conditions import get
from mmi_plugin.items import FAMILIES
from mmi_plugin.results.estimates import Difference, Estimate, difference, estimate, holm
from mmi_plugin.results.measures import LABELS, Measure, Outcomes, PerItem, per_item
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
            value = condition.strength.get(name, parameter.default)
            found.setdefault((rest.name, name), {})[value] = condition.name
    return [
        Sweep(rest, name, {value: names[value] for value in sorted(names, key=get(rest).parameters[name].valid.index)})
        for (rest, name), names in found.items()
        if len(names) > 1
    ]


OVERALL = "all"
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
class Number:
    """An estimate; with a baseline also the difference to it, and p after Holm's correction."""

    estimate: Estimate
    change: Difference | None = None
    p_holm: float | None = None


@dataclass(frozen=True)
class Leaderboard:
    """`runs` stand best first; `ranks` are equal where worst-case accuracies are; `tests` were
    corrected together."""

    runs: tuple[Run, ...]
    ranks: Mapping[str, int]
    scopes: tuple[Scope, ...]
    numbers: Mapping[Key, Number]
    baseline: str | None
    tests: int

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(run.name for run in self.runs)

    @property
    def outcomes(self) -> Mapping[str, Outcomes]:
        """One model's outcomes by task: families, conditions and items are those of every model."""
        return self.runs[0].outcomes

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


def build(runs: Sequence[Run], baseline: str | None = None) -> Leaderboard:
    """Return the leaderboard of comparable `runs` (`leaderboard_runs.read_runs`)."""
    values = {run.name: {task: per_item(outcomes) for task, outcomes in run.outcomes.items()} for run in runs}
    scopes = _scopes(runs[0].outcomes)
    keys = [
        Key(name, scope, measure) for name in values for scope in scopes for measure in _common(values[name], scope)
    ]
    numbers = {}
    for key in tqdm(keys, desc="Statistics", delay=2):
        parts = _parts(values, key)
        tested = baseline not in (None, key.model) and _is_tested(key)
        change = difference(_parts(values, key._replace(model=baseline)), parts) if tested else None
        numbers[key] = Number(estimate(parts), change)
    tests = _correct(numbers)
    overall = scopes[-1]
    worst = {run.name: numbers[Key(run.name, overall, RANKED_BY)].estimate.value for run in runs}
    best = {run.name: numbers[Key(run.name, overall, Measure("reference_accuracy"))].estimate.value for run in runs}
    ordered = sorted(runs, key=lambda run: (-worst[run.name], -best[run.name], run.name))
    ranks = {name: 1 + sum(other > share for other in worst.values()) for name, share in worst.items()}
    return Leaderboard(tuple(ordered), ranks, scopes, numbers, baseline, tests)


def _scopes(outcomes: Mapping[str, Outcomes]) -> tuple[Scope, ...]:
    """Return data sets, families, and last the data sets that were perturbed (all, where none was).

    A sweep asks one condition again and again: beside other data sets it stands for itself only.
    """
    tasks = sorted(outcomes, key=lambda task: (FAMILIES.index(outcomes[task].family), task))
    ranked = [task for task in tasks if not sweeps(outcomes[task].conditions)] or tasks
    families = {family: tuple(task for task in ranked if outcomes[task].family == family) for family in FAMILIES}
    perturbed = tuple(task for task in ranked if len(outcomes[task].conditions) > 1) or tuple(ranked)
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


def _correct(numbers: dict[Key, Number]) -> int:
    """Put the corrected p-values into `numbers`; return how many tests there were."""
    tested = [key for key, number in numbers.items() if number.change is not None]
    corrected = holm([numbers[key].change.p for key in tested])
    for key, p in zip(tested, corrected, strict=True):
        numbers[key] = replace(numbers[key], p_holm=p)
    return len(tested)
