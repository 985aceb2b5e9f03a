"""Two models on the same items: refusal, paired difference, test, correction for many tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmi_plugin.errors import InputError
from mmi_plugin.statistics.estimates import bootstrap_interval
from mmi_plugin.statistics.measures import PerItem
from mmi_plugin.statistics.outcomes import Outcomes
from mmi_plugin.statistics.resampling import sign_flip_p

MCNEMAR, PERMUTATION = "McNemar, exact", "sign-flip permutation"


@dataclass(frozen=True)
class Difference:
    """Second model minus first, with its 95% bootstrap interval over `n` pairs and the two-sided p."""

    value: float
    low: float
    high: float
    n: int
    p: float
    test: str


def check_comparable(first: Outcomes, second: Outcomes, names: tuple[str, str]) -> None:
    """Raise InputError with the reason when the two were not asked the very same things."""

    def refuse(reason: str) -> None:
        raise InputError(f"{names[0]} and {names[1]} cannot be compared on {first.task}: {reason}")

    if (first.task, first.family) != (second.task, second.family):
        refuse(f"the second is of {second.task}, {second.family}")
    if odd := sorted(set(first.conditions) ^ set(second.conditions)):
        refuse(f"condition {odd[0]!r} was asked of {names[odd[0] not in first.conditions]} only")
    if first.seed != second.seed:
        refuse(f"the conditions were drawn with seed {first.seed} and seed {second.seed}")
    for name, version in first.condition_versions.items():
        if (other := second.condition_versions.get(name, version)) != version:
            refuse(f"condition {name!r} has version {version} and version {other}")
    if odd := sorted(set(first.items) ^ set(second.items)):
        who = names[odd[0] not in first.items]
        refuse(f"{len(odd)} items differ; item {odd[0]} was asked of {who} only")
    if first.content_hash != second.content_hash:
        hashes = f"{first.content_hash[:12]} and {second.content_hash[:12]}"
        refuse(f"the items, their images or the conditions' versions differ (content hashes {hashes})")


def difference(first: Sequence[PerItem], second: Sequence[PerItem]) -> Difference:
    """Return second minus first: the mean over data sets of their mean differences over items.

    Takes one part per data set, the items of both models in the same order; items that do not count
    for one of them are left out. Binary values of one data set are tested with McNemar's exact test,
    everything else by exchanging the two models within items at random.
    """
    pairs = [_pair(old, new) for old, new in zip(first, second, strict=True)]
    n = sum(len(old) for old, _ in pairs)
    exact = len(pairs) == 1 and first[0].binary and second[0].binary
    test = MCNEMAR if exact else PERMUTATION
    if not all(len(old) for old, _ in pairs):
        return Difference(math.nan, math.nan, math.nan, n, math.nan, test)
    changes = [new - old for old, new in pairs]
    weighed = np.concatenate([change / len(change) for change in changes])  # every data set weighs the same
    p = _mcnemar(*pairs[0]) if exact else sign_flip_p(weighed)
    return Difference(float(np.mean([change.mean() for change in changes])), *bootstrap_interval(changes), n, p, test)


def _pair(old: PerItem, new: PerItem) -> tuple[np.ndarray, np.ndarray]:
    both = ~(np.isnan(old.values) | np.isnan(new.values))
    return old.values[both], new.values[both]


def _mcnemar(old: np.ndarray, new: np.ndarray) -> float:
    from statsmodels.stats.contingency_tables import mcnemar  # slow to import

    old, new = old.astype(bool), new.astype(bool)
    table = [[(old & new).sum(), (old & ~new).sum()], [(~old & new).sum(), (~old & ~new).sum()]]
    return float(mcnemar(table, exact=True).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values after Holm's correction (Holm, 1979), for all of them together."""
    from statsmodels.stats.multitest import multipletests  # slow to import

    return [float(p) for p in multipletests(p_values, method="holm")[1]] if p_values else []
