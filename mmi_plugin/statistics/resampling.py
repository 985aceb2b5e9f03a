"""Bootstrap and permutation of means over items, with fixed seeds.

Most values here are shares of a few options, so a sample of thousands has a handful of distinct
values. A resample then is a draw of how often each occurs, which follows the same distribution as
drawing item by item (`scipy.stats.bootstrap`) at a hundredth of the cost.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

RESAMPLES = 2000
PERMUTATIONS = 9999
_BATCH = 4_000_000  # numbers held at a time


def bootstrap_means(sample: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the means of `RESAMPLES` samples drawn from `sample` (items,) with replacement."""
    values, counts = np.unique(sample, return_counts=True)
    n = len(sample)
    drawn = [rng.multinomial(n, counts / n, size) @ values for size in _batches(RESAMPLES, len(values))]
    return np.concatenate(drawn) / n


def sign_flip_p(changes: np.ndarray) -> float:
    """Return the two-sided p-value of the sum of `changes` (items,) when each sign is a fair coin's."""
    sizes, counts = np.unique(np.abs(changes[changes != 0]).round(15), return_counts=True)
    if not len(sizes):
        return 1.0
    rng, total = np.random.default_rng(0), abs(changes.sum())
    extreme = 0
    for size in _batches(PERMUTATIONS, len(sizes)):
        heads = rng.binomial(counts, 0.5, (size, len(sizes)))
        extreme += int((np.abs((2 * heads - counts) @ sizes) >= total * (1 - 1e-9)).sum())
    return (extreme + 1) / (PERMUTATIONS + 1)


def _batches(draws: int, width: int) -> Iterator[int]:
    """Yield numbers of draws that add up to `draws`, each of `width` numbers, so that a batch fits."""
    size = max(1, _BATCH // width)
    for start in range(0, draws, size):
        yield min(size, draws - start)
