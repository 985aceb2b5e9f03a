"""A number with its 95% interval and its n."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmi_plugin.statistics.measures import PerItem
from mmi_plugin.statistics.resampling import bootstrap_means

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """`value` with its interval from `low` to `high` over `n` items; NaN where items are too few."""

    value: float
    low: float
    high: float
    n: int


def estimate(parts: Sequence[PerItem]) -> Estimate:
    """Return the mean over data sets of their means over items.

    One data set of binary values: the Wilson interval, which stays honest near 0 and 1. Everything
    else: the percentile bootstrap over items, stratified by data set, with a fixed seed.
    """
    samples = [part.values[~np.isnan(part.values)] for part in parts]
    n = sum(map(len, samples))
    if not all(map(len, samples)):
        return Estimate(math.nan, math.nan, math.nan, n)
    value = float(np.mean([sample.mean() for sample in samples]))
    if len(parts) == 1 and parts[0].binary:
        return Estimate(value, *_wilson(samples[0]), n)
    return Estimate(value, *bootstrap_interval(samples), n)


def _wilson(sample: np.ndarray) -> tuple[float, float]:
    from statsmodels.stats.proportion import proportion_confint  # slow to import

    low, high = proportion_confint(round(sample.sum()), len(sample), alpha=1 - CONFIDENCE, method="wilson")
    return max(float(low), 0.0), min(float(high), 1.0)


def bootstrap_interval(samples: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return the percentile interval of the mean of the samples' means, each resampled on its own.

    NaN twice when a sample has a single value.
    """
    if min(map(len, samples)) < 2:
        return math.nan, math.nan
    rng = np.random.default_rng(0)
    means = np.mean([bootstrap_means(sample, rng) for sample in samples], axis=0)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
