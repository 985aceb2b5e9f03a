"""Which conditions of a run are one condition at several strengths: a dose-response curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmi_plugin.conditions import get


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
