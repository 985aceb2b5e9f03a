"""Values per item in; 95% intervals of their mean out, none of which collapses where all values are the same.

By what the values are: shares of hits (Wilson, 1927), differences of hits (Tango, 1998), anything else (bootstrap).
Those of several data sets are combined by MOVER (Zou and Donner, 2008). Items that share an image or a passage form a
cluster: then the variance is that of clusters, with the correction for their finite number (Miller, arXiv 2411.00640,
section 2.2), shares count as many items as would have that variance (Korn and Graubard, 1998), and the bootstrap draws
clusters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist, stdev

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 2000
_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
_BATCH = 50_000  # numbers drawn at a time: they stay in the processor's cache
_REPEATS = 60  # how often values must occur, on average, for counting them to be faster than drawing each
_HALVINGS = 60
_SCARCE = 5  # items with another value than the most frequent one: with fewer, resampling says too little


@dataclass(frozen=True)
class Clusters:
    """Which of the items of a sample belong together: `codes` (items,), whole numbers from 0 to `count` - 1."""

    codes: np.ndarray
    count: int

    @classmethod
    def of(cls, labels: np.ndarray | None) -> Clusters | None:
        """Return the clusters that labels (items,) make; None where every item is one by itself."""
        if labels is None:
            return None
        names, codes = np.unique(labels, return_inverse=True)
        return cls(codes, len(names)) if len(names) < len(codes) else None

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Return the sum of each cluster: (items,) -> (clusters,)."""
        return np.bincount(self.codes, values, self.count)

    def variance(self, sample: np.ndarray) -> float:
        """Return the variance of the mean of a sample (items,): of sums of deviations, G / (G - 1) times for G of them
        (Miller, equation 4, with the finite correction)."""
        spread = (self.sums(sample - sample.mean()) ** 2).sum() / len(sample) ** 2
        return float(spread * self.count / (self.count - 1))

    def effective_size(self, sample: np.ndarray) -> float:
        """Return how many independent items would have a mean as uncertain; as many as there are clusters where no
        value differs from another, and so nothing tells."""
        variance = self.variance(sample)
        if variance <= 0:
            return float(self.count)
        return float(np.clip(sample.var() / variance, 1, len(sample)))

    @property
    def quantile(self) -> float:
        """The quantile of Student's distribution that stands for the normal one's."""
        return student(self.count)


def student(count: int) -> float:
    """Return the quantile of Student's distribution for a mean of `count` independent values."""
    from scipy.special import stdtrit  # as scipy.stats' own, which is slow to import

    return float(stdtrit(count - 1, (1 + CONFIDENCE) / 2))


def pooled_interval(
    samples: Sequence[np.ndarray],
    lowest: float,
    clusters: Sequence[Clusters | None] | None = None,
    highest: float = 1.0,
) -> tuple[float, float]:
    """Return the interval of the mean of the samples' means, each of values from `lowest` to `highest`.

    From each sample's own interval [l, u] around its mean m: the distances m - l, and u - m, add up like standard
    errors (MOVER; for two binomial samples it is Newcombe's method 10 of 1998).
    """
    means = np.array([sample.mean() for sample in samples])
    grouped = clusters or [None] * len(samples)
    ends = np.array([interval(sample, lowest, group, highest) for sample, group in zip(samples, grouped, strict=True)])
    below, above = np.sqrt(((ends - means[:, None]) ** 2).sum(0)) / len(samples)
    return max(float(means.mean() - below), lowest), min(float(means.mean() + above), highest)


def interval(
    sample: np.ndarray, lowest: float, clusters: Clusters | None = None, highest: float = 1.0
) -> tuple[float, float]:
    """Return the interval of the mean of one sample (items,) of values from `lowest` to `highest`."""
    if clusters and clusters.count < 2:
        return lowest, highest  # one cluster says nothing of others
    sample = sample.round(12)
    n, z = (clusters.effective_size(sample), clusters.quantile) if clusters else (len(sample), _Z)
    if lowest == 0 and np.isin(sample, (0, 1)).all():
        return wilson(sample.mean() * n, n, z)
    if lowest == -1 and np.isin(sample, (-1, 0, 1)).all():
        return tango((sample == 1).mean() * n, (sample == -1).mean() * n, n, z)
    low, high = _resampled(sample, clusters)
    if n / len(sample) * (len(sample) - np.unique(sample, return_counts=True)[1].max()) < _SCARCE:
        least = _unseen(float(sample.mean()), n, lowest, highest)
        low, high = min(low, least[0]), max(high, least[1])
    return low, high


def _resampled(sample: np.ndarray, clusters: Clusters | None) -> tuple[float, float]:
    """Return the bootstrap's interval, widened by what resampling few of them leaves out: sqrt(G / (G - 1)) for G items
    or clusters, and Student's quantile for the normal one (Hesterberg, 2015, section 4)."""
    count = clusters.count if clusters else len(sample)
    if count < 2:
        return float(sample[0]), float(sample[0])
    means = clustered_means(sample, clusters) if clusters else bootstrap_means(sample)
    ends = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    middle = sample.mean()
    low, high = middle + (ends - middle) * math.sqrt(count / (count - 1)) * student(count) / _Z
    return float(low), float(high)


def with_seeds(
    value: float, over_items: tuple[float, float], seeds: Sequence[float], lowest: float, highest: float
) -> tuple[float, float]:
    """Return the interval of a mean over items and seeds, given that over items and the mean in each seed.

    Variances of items and of seeds add up, var(items) / n + var(seeds) / S; each distance is the reach of its own
    interval (MOVER), that of S seeds Student's. What is of an item in a seed alone is in both, so that it is wide where
    seeds hardly differ (benchmarks/seeds.py). One seed says nothing of others: the interval stays that over items.
    """
    if len(seeds) < 2:
        return over_items
    reach = student(len(seeds)) * stdev(seeds) / math.sqrt(len(seeds))
    below, above = (math.hypot(value - end, reach) for end in over_items)
    return max(value - below, lowest), min(value + above, highest)


def wilson(hits: float, n: float, z: float = _Z) -> tuple[float, float]:
    """Return Wilson's score interval of a share of hits; `z`: the quantile."""
    share, weight = hits / n, z * z / n
    middle = (share + weight / 2) / (1 + weight)
    reach = math.sqrt(weight * (share * (1 - share) + weight / 4)) / (1 + weight)
    # The ends of none and of all, and not what rounding leaves of them.
    return 0.0 if share == 0 else middle - reach, 1.0 if share == 1 else middle + reach


def tango(gained: float, lost: float, n: float, z: float = _Z) -> tuple[float, float]:
    """Return Tango's score interval of the difference (gained - lost) / n of paired shares (Statistics in Medicine 17).

    With no discordant pair it reaches z^2 / (n + z^2) to both sides, as Wilson's does for no hit.
    """
    value = (gained - lost) / n

    def leaves_out(delta: float) -> bool:
        """Whether the score test rejects `delta`; the share of losses is then estimated under it."""
        a, b = 2 * n, (2 * n - gained + lost) * delta - gained - lost
        share = (math.sqrt(max(b * b + 4 * a * lost * delta * (1 - delta), 0.0)) - b) / (2 * a)
        variance = n * (2 * share + delta * (1 - delta))
        return (gained - lost - n * delta) ** 2 > z * z * variance

    return _end(leaves_out, value, -1.0), _end(leaves_out, value, 1.0)


def _end(leaves_out: Callable[[float], bool], inside: float, outside: float) -> float:
    """Return where between `inside` and `outside` an interval ends."""
    if not leaves_out(outside):
        return outside
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if leaves_out(middle) else (middle, outside)
    return inside


def _unseen(mean: float, n: float, lowest: float, highest: float) -> tuple[float, float]:
    """Return how far the mean may be off where hardly any of `n` values differs from the others.

    Items of a kind that was not seen may be as many as Wilson's interval says of no hit, and anything in the range.
    """
    share = wilson(0, n)[1]
    return mean - share * (mean - lowest), mean + share * (highest - mean)


def bootstrap_means(sample: np.ndarray) -> np.ndarray:
    """Return the means of `RESAMPLES` samples drawn from `sample` (items,) with replacement, with a fixed seed."""
    rng, n = np.random.default_rng(0), len(sample)
    if n > _REPEATS:
        values, counts = np.unique(sample, return_counts=True)
        if len(values) * _REPEATS <= n:
            return rng.multinomial(n, counts / n, RESAMPLES) @ values / n
    kind = np.uint16 if n < 1 << 16 else np.int64
    return np.concatenate([sample.take(rng.integers(0, n, (size, n), kind)).mean(1) for size in _batches(n)])


def clustered_means(sample: np.ndarray, clusters: Clusters) -> np.ndarray:
    """Return the means of `RESAMPLES` samples of as many clusters, drawn with replacement, with a fixed seed."""
    sums, sizes = clusters.sums(sample), clusters.sums(np.ones(len(sample)))
    rng, count = np.random.default_rng(0), clusters.count
    drawn = [rng.integers(0, count, (size, count)) for size in _batches(count)]
    return np.concatenate([sums[rows].sum(1) / sizes[rows].sum(1) for rows in drawn])


def standard_error(sample: np.ndarray, labels: np.ndarray | None = None) -> float:
    """Return the standard error of the mean of one sample (items,): how far the means of resampled items scatter, or of
    clusters where labels (items,) make some."""
    clusters = Clusters.of(labels)
    means = clustered_means(sample, clusters) if clusters else bootstrap_means(sample)
    return float(means.std(ddof=1))


def _batches(width: int) -> Iterator[int]:
    """Yield numbers of draws that add up to `RESAMPLES`, each of `width` numbers, so that a batch fits."""
    size = max(1, _BATCH // width)
    for start in range(0, RESAMPLES, size):
        yield min(size, RESAMPLES - start)
