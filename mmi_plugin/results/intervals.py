"""Values per item in; 95% intervals of their mean out, none of which collapses where all values are the same.

By what the values are: shares of hits (Wilson, 1927), differences of hits (Tango, 1998), anything else (bootstrap).
Those of several data sets are combined by MOVER (Zou and Donner, 2008).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from statistics import NormalDist

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 2000
_Z2 = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) ** 2
_BATCH = 50_000  # numbers drawn at a time: they stay in the processor's cache
_REPEATS = 60  # how often values must occur, on average, for counting them to be faster than drawing each
_HALVINGS = 60
_SCARCE = 5  # items with another value than the most frequent one: with fewer, resampling says too little


def pooled_interval(samples: Sequence[np.ndarray], lowest: float) -> tuple[float, float]:
    """Return the interval of the mean of the samples' means, each of values from `lowest` (0 or -1) to 1.

    From each sample's own interval [l, u] around its mean m: the distances m - l, and u - m, add up like standard
    errors (MOVER; for two binomial samples it is Newcombe's method 10 of 1998).
    """
    means = np.array([sample.mean() for sample in samples])
    ends = np.array([interval(sample, lowest) for sample in samples])
    below, above = np.sqrt(((ends - means[:, None]) ** 2).sum(0)) / len(samples)
    return max(float(means.mean() - below), lowest), min(float(means.mean() + above), 1.0)


def interval(sample: np.ndarray, lowest: float) -> tuple[float, float]:
    """Return the interval of the mean of one sample (items,) of values from `lowest` (0 or -1) to 1."""
    sample = sample.round(12)
    if lowest == 0 and np.isin(sample, (0, 1)).all():
        return wilson(int(sample.sum()), len(sample))
    if lowest == -1 and np.isin(sample, (-1, 0, 1)).all():
        return tango(int((sample == 1).sum()), int((sample == -1).sum()), len(sample))
    low, high = map(float, np.quantile(bootstrap_means(sample), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]))
    if len(sample) - np.unique(sample, return_counts=True)[1].max() < _SCARCE:
        least = _unseen(float(sample.mean()), len(sample), lowest)
        low, high = min(low, least[0]), max(high, least[1])
    return low, high


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Return Wilson's score interval of a share of hits."""
    from statsmodels.stats.proportion import proportion_confint  # slow to import

    low, high = map(float, proportion_confint(hits, n, alpha=1 - CONFIDENCE, method="wilson"))
    return 0.0 if hits == 0 else low, 1.0 if hits == n else high  # and not what rounding leaves of them


def tango(gained: int, lost: int, n: int) -> tuple[float, float]:
    """Return Tango's score interval of the difference (gained - lost) / n of paired shares (Statistics in Medicine 17).

    With no discordant pair it reaches z^2 / (n + z^2) to both sides, as Wilson's does for no hit.
    """
    value = (gained - lost) / n

    def leaves_out(delta: float) -> bool:
        """Whether the score test rejects `delta`; the share of losses is then estimated under it."""
        a, b = 2 * n, (2 * n - gained + lost) * delta - gained - lost
        share = (math.sqrt(max(b * b + 4 * a * lost * delta * (1 - delta), 0.0)) - b) / (2 * a)
        variance = n * (2 * share + delta * (1 - delta))
        return (gained - lost - n * delta) ** 2 > _Z2 * variance

    return _end(leaves_out, value, -1.0), _end(leaves_out, value, 1.0)


def _end(leaves_out: Callable[[float], bool], inside: float, outside: float) -> float:
    """Return where between `inside` and `outside` an interval ends."""
    if not leaves_out(outside):
        return outside
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if leaves_out(middle) else (middle, outside)
    return inside


def _unseen(mean: float, n: int, lowest: float) -> tuple[float, float]:
    """Return how far the mean may be off where hardly any of `n` values differs from the others.

    Items of a kind that was not seen may be as many as Wilson's interval says of no hit, and anything in the range.
    """
    share = wilson(0, n)[1]
    return mean - share * (mean - lowest), mean + share * (1 - mean)


def bootstrap_means(sample: np.ndarray) -> np.ndarray:
    """Return the means of `RESAMPLES` samples drawn from `sample` (items,) with replacement, with a fixed seed."""
    rng, n = np.random.default_rng(0), len(sample)
    if n > _REPEATS:
        values, counts = np.unique(sample, return_counts=True)
        if len(values) * _REPEATS <= n:
            return rng.multinomial(n, counts / n, RESAMPLES) @ values / n
    kind = np.uint16 if n < 1 << 16 else np.int64
    return np.concatenate([sample.take(rng.integers(0, n, (size, n), kind)).mean(1) for size in _batches(n)])


def standard_error(sample: np.ndarray) -> float:
    """Return the standard error of the mean of one sample (items,): how far the means of resampled items scatter."""
    return float(bootstrap_means(sample).std(ddof=1))


def _batches(width: int) -> Iterator[int]:
    """Yield numbers of draws that add up to `RESAMPLES`, each of `width` numbers, so that a batch fits."""
    size = max(1, _BATCH // width)
    for start in range(0, RESAMPLES, size):
        yield min(size, RESAMPLES - start)
