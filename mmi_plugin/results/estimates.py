"""Values per item in; estimates with 95% intervals, paired differences and tests out."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist, fmean, stdev
from typing import TypeVar

import numpy as np

from mmi_plugin.errors import InputError
from mmi_plugin.results.intervals import Clusters, pooled_interval, with_seeds
from mmi_plugin.results.measures import PerItem
from mmi_plugin.results.outcomes import Outcomes
from mmi_plugin.results.permutation import sign_flip_p

ALPHA = 0.05
_Z, _POWER = (NormalDist().inv_cdf(share) for share in (1 - ALPHA / 2, 0.8))


@dataclass(frozen=True)
class Estimate:
    """`value` with its interval from `low` to `high` over `n` items; NaN where items are too few.

    `seeds`: the value of each seed where trainings are averaged; of several, the interval is over items and seeds, and
    `items` the one over items alone.
    """

    value: float
    low: float
    high: float
    n: int
    seeds: tuple[float, ...] = ()
    items: tuple[float, float] | None = None

    @property
    def seed_sd(self) -> float | None:
        """The standard deviation between seeds; None with one."""
        return stdev(self.seeds) if len(self.seeds) > 1 else None


def estimate(parts: Sequence[PerItem]) -> Estimate:
    """Return the mean over data sets of their means over items, with the interval of `results.intervals`."""
    counted = [~np.isnan(part.values) for part in parts]
    samples = [part.values[kept] for part, kept in zip(parts, counted, strict=True)]
    n = sum(map(len, samples))
    if not all(map(len, samples)):
        return Estimate(math.nan, math.nan, math.nan, n)
    value = float(np.mean([sample.mean() for sample in samples]))
    seeds = tuple(map(fmean, zip(*(part.seeds for part in parts), strict=True)))
    bounds = parts[0].lowest, parts[0].highest
    items = pooled_interval(samples, bounds[0], _clusters(parts, counted), bounds[1])
    return Estimate(value, *with_seeds(value, items, seeds, *bounds), n, seeds, items if len(seeds) > 1 else None)


def _clusters(parts: Sequence[PerItem], counted: Sequence[np.ndarray]) -> list[Clusters | None]:
    """Return the clusters of each part's items that count."""
    return [
        Clusters.of(None if part.clusters is None else part.clusters[kept])
        for part, kept in zip(parts, counted, strict=True)
    ]


MCNEMAR, PERMUTATION = "McNemar, exact", "sign-flip permutation"


@dataclass(frozen=True)
class Difference:
    """Second model minus first, with its 95% interval over `n` pairs, and seeds where there are several, and the
    two-sided p, which is over items all the same.

    `p_holm`: p after Holm's correction, of all tests of a family together. `seeds`: the difference in each seed.
    """

    value: float
    low: float
    high: float
    n: int
    p: float
    test: str
    p_holm: float | None = None
    seeds: tuple[float, ...] = ()

    @property
    def differs(self) -> bool:
        """Whether the difference is beyond chance: its interval leaves out 0, and so does the corrected test."""
        return self.p_holm < ALPHA and (self.low > 0 or self.high < 0)

    @property
    def detectable(self) -> float:
        """The true difference that a test at 5% would find in four of five such studies: 2.80 standard errors, as the
        interval says them."""
        return (self.high - self.low) / 2 * (1 + _POWER / _Z)

    def not_worse_by(self, margin: float) -> bool:
        """Whether the second model is shown to be worse by no more than `margin` (non-inferiority, one-sided at 2.5%:
        the 95% interval lies above minus the margin). Of measures where more is better."""
        return self.low > -margin

    @property
    def in_every_seed(self) -> bool:
        return all(change * self.value > 0 for change in self.seeds)


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
    for words, one, other in (("gold", first.gold, second.gold), ("named", first.named, second.named)):
        if (odd := np.argwhere(one != other)).size:
            row, column = odd[0]
            under = f"item {first.items[row]}, condition {first.conditions[column]!r}"
            refuse(f"field {words!r} is {one[row, column]!r} and {other[row, column]!r} ({under})")


def difference(first: Sequence[PerItem], second: Sequence[PerItem]) -> Difference:
    """Return second minus first: the mean over data sets of their mean differences over items.

    Takes one part per data set, the items of both models in the same order; items that do not count
    for one of them are left out. Binary values of one data set are tested with McNemar's exact test,
    everything else by exchanging the two models within items, or within clusters of them, as at random.
    """
    counted = [~(np.isnan(old.values) | np.isnan(new.values)) for old, new in zip(first, second, strict=True)]
    pairs = [(o.values[kept], new.values[kept]) for o, new, kept in zip(first, second, counted, strict=True)]
    clusters = _clusters(first, counted)
    n = sum(len(old) for old, _ in pairs)
    exact = len(pairs) == 1 and first[0].binary and second[0].binary and clusters == [None]
    test = MCNEMAR if exact else PERMUTATION
    if not all(len(old) for old, _ in pairs):
        return Difference(math.nan, math.nan, math.nan, n, math.nan, test)
    changes = [new - old for old, new in pairs]
    exchanged = [group.sums(one) if group else one for one, group in zip(changes, clusters, strict=True)]
    # Every data set weighs the same.
    weighed = np.concatenate([one / len(change) for one, change in zip(exchanged, changes, strict=True)])
    p = _mcnemar(*pairs[0]) if exact else sign_flip_p(weighed)
    value = float(np.mean([change.mean() for change in changes]))
    seeds = tuple(map(fmean, zip(*map(_by_seed, first, second), strict=True)))
    ends = with_seeds(value, pooled_interval(changes, -1, clusters), seeds, -1, 1)
    return Difference(value, *ends, n, p, test, seeds=seeds)


def _by_seed(old: PerItem, new: PerItem) -> list[float]:
    """Return the difference in each seed that both have; a side with one seed stands beside each of the other's."""
    most = max(len(old.seeds), len(new.seeds))
    one, other = (side.seeds * most if len(side.seeds) == 1 else side.seeds for side in (old, new))
    return [after - before for before, after in zip(one, other, strict=False)]


def _mcnemar(old: np.ndarray, new: np.ndarray) -> float:
    from scipy.stats import binomtest  # slow to import

    gained, lost = int((new > old).sum()), int((new < old).sum())
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values after Holm's correction (Holm, 1979), for all of them together."""
    given = np.array(p_values, dtype=float)
    order = given.argsort()
    given[order] = np.minimum(np.maximum.accumulate(given[order] * np.arange(len(given), 0, -1)), 1)
    return given.tolist()


Key = TypeVar("Key", bound=Hashable)


def corrected(differences: Mapping[Key, Difference]) -> dict[Key, Difference]:
    """Return the differences with p after Holm's correction over all of them."""
    p_values = holm([one.p for one in differences.values()])
    return {key: replace(one, p_holm=p) for (key, one), p in zip(differences.items(), p_values, strict=True)}
