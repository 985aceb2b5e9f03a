"""Records of answers under attack in; what the attacks took, and why they may be weaker than they look, out.

What of a record an adversary left, `Record.attack`: `seconds` and `passes` through the model that the item took,
`radius` of its ball, `loss` of the first run (the best so far, at equal distances of steps), and what makes it weaker
than it looks, FLAGS.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from mmi_plugin.conditions import Condition, get
from mmi_plugin.errors import InputError
from mmi_plugin.results import Record
from mmi_plugin.results.estimates import Estimate, estimate
from mmi_plugin.results.fields import field
from mmi_plugin.results.measures import PerItem
from mmi_plugin.results.outcomes import clusters_of

BEATEN = 0.002
"""What an attack without gradients may find more than one with them before these are doubted (AutoAttack's checks)."""
NEARLY_NONE = 0.05
"""Accuracy that may be left at the largest eps of an attack with gradients."""
WITHOUT_GRADIENTS = ("square", "noise")
FLAGS = {
    "random": "the same input twice gave other outputs",
    "still": "the gradient was zero or no number",
    "apart": "the option ahead at the first token is not the one answered",
}
"""What makes an attack weaker than it looks, in words."""
_NUMBERS = ("seconds", "passes", "radius")


def check_attack(row: Mapping[str, Any], where: str) -> None:
    """Raise InputError for a field 'attack' of a logged record that holds anything else than it does."""
    told = field(row, "attack", (dict, type(None)), where, needed=False)
    if told is None:
        return
    for name in _NUMBERS:
        if isinstance(value := field(told, name, (int, float), where), bool) or not 0 <= value < 1e9:
            raise InputError(f"{where}: field {name!r} of 'attack' is no number from 0 on")
    for name in FLAGS:
        field(told, name, bool, where)
    losses = field(told, "loss", list, where)
    if len(losses) > 1000 or not all(type(value) in (int, float) and abs(value) < 1e9 for value in losses):
        raise InputError(f"{where}: field 'loss' of 'attack' is no list of numbers")


@dataclass(frozen=True)
class Attacked:
    """What one attack did: `accuracy` under it, means over items of `seconds`, `passes` and `radius`, and of `loss`
    step by step, where a row that was broken stays as it was."""

    condition: str
    accuracy: Estimate
    seconds: float
    passes: float
    radius: float
    loss: tuple[float, ...]


def attacks(records: Sequence[Record], conditions: Sequence[str]) -> list[Attacked]:
    """Return what each attack among `conditions` did, in their order."""
    found = []
    for name, own in _under(records, conditions):
        told = [record.attack for record in own if record.attack]
        if told:
            right = np.array([record.right for record in own], dtype=float)
            means = {key: fmean(one[key] for one in told) for key in _NUMBERS}
            share, loss = estimate([PerItem(right, clusters=clusters_of(own))]), [one["loss"] for one in told]
            found.append(Attacked(name, share, loss=_mean_curve(loss), **means))
    return found


def _mean_curve(curves: Sequence[Sequence[float]]) -> tuple[float, ...]:
    whole = [curve for curve in curves if curve]
    longest = max(map(len, whole), default=0)
    return tuple(fmean(curve[min(step, len(curve) - 1)] for curve in whole) for step in range(longest))


def _under(records: Sequence[Record], conditions: Sequence[str]) -> Iterator[tuple[str, list[Record]]]:
    for name in conditions:
        if get(name).attack:
            yield name, [record for record in records if record.condition == name]


def warnings(records: Sequence[Record], conditions: Sequence[str]) -> list[str]:
    """Return, in a line each, the reasons to doubt attacks that did not break much (the checks of AutoAttack)."""
    under = {name: own for name, own in _under(records, conditions) if own}
    shares = {name: fmean(record.right for record in own) for name, own in under.items()}
    found = []
    for name, own in under.items():
        for flag, words in FLAGS.items():
            if count := sum(bool(record.attack and record.attack[flag]) for record in own):
                found.append(f"{name}: {words} for {count} of {len(own)} items: its number is too good to be true")
    return [*found, *_beaten(shares), *_left(shares)]


def _beaten(shares: Mapping[str, float]) -> Iterator[str]:
    """Yield each attack with gradients that one without them, or noise, of the same size beats."""
    for name, share in shares.items():
        for other, lower in shares.items():
            with_gradients = get(name).attack[0] not in WITHOUT_GRADIENTS and get(other).attack[0] in WITHOUT_GRADIENTS
            if with_gradients and _size(get(name)) == _size(get(other)) and lower < share - BEATEN:
                yield (
                    f"{name}: {100 * share:.1f}% are right, and {100 * lower:.1f}% under {other}, which uses no "
                    "gradients: its gradients mislead"
                )


def _size(condition: Condition) -> tuple[Any, ...]:
    """Return what decides how much a condition's adversary may move."""
    values = condition.values
    return condition.attack[1], *(values.get(name) for name in ("eps", "text", "length")), values.get("norm", "linf")


def _left(shares: Mapping[str, float]) -> Iterator[str]:
    """Yield the attacks with gradients under which much is right at the largest eps that was asked."""
    largest: dict[tuple[Any, ...], tuple[float, str]] = {}
    for name in shares:
        condition = get(name)
        if condition.attack[0] == "apgd":
            eps = condition.values["eps"]
            rest = (condition.kind, *sorted((k, v) for k, v in condition.strength.items() if k != "eps"))
            largest[rest] = max(largest.get(rest, (eps, name)), (eps, name))
    for eps, name in largest.values():
        if shares[name] > NEARLY_NONE:
            yield (
                f"{name}: {100 * shares[name]:.1f}% are right at eps {eps:g}, the largest asked: ask with more "
                "steps or at larger eps until about none is, or doubt the attack"
            )
