"""Differences per item in; the p-value of their sum when each sign is a fair coin's out: exact, or by its tail.

Nothing is sampled, so that p has no floor: a table of hundreds of tests can show what is there.
"""

from __future__ import annotations

import math
from fractions import Fraction
from statistics import NormalDist

import numpy as np

_CLOSE = 1e-9  # sums that differ by less, as a share of the greatest, are the same one
_LATTICE = 1 << 19  # steps of an exact distribution
_LISTED = 16  # differences whose signs are all gone through
_ROUNDING = 1e-10  # a share of a distribution's mass that says nothing any more
_HALVINGS = 80


def sign_flip_p(changes: np.ndarray) -> float:
    """Return the two-sided p-value of the sum of `changes` (items,) when each sign is a fair coin's.

    Exact where the differences are multiples of one step (shares of hits are), or are few; else, and below 1e-10, by
    the saddlepoint approximation of the tail (Robinson, 1982), which is right to a few percent however small it is.
    """
    sizes = np.sort(np.abs(changes[changes != 0]))
    if not len(sizes):
        return 1.0
    most, total = sizes.sum(), abs(changes.sum())
    least = 2.0 ** (1 - len(sizes))  # that of all signs alike
    if total >= most * (1 - _CLOSE):
        return min(least, 1.0)
    if (steps := _steps(sizes)) is not None:
        p = _by_lattice(steps, total / most)
    elif len(sizes) <= _LISTED:
        p = _by_listing(sizes, total)
    else:
        p = 0.0
    return float(np.clip(p if p > _ROUNDING else saddlepoint_p(sizes, total), least, 1))


def _steps(sizes: np.ndarray) -> np.ndarray | None:
    """Return the sizes as whole numbers of one step; None where there is none, or a distribution has too many."""
    step = 1
    fractions = [Fraction(size).limit_denominator(100_000) for size in np.unique((sizes / sizes[-1]).round(13))]
    for one in fractions:
        step = math.lcm(step, one.denominator)
        if step > _LATTICE:
            return None
    steps = sizes / sizes[-1] * step
    whole = steps.round()
    if whole.sum() > _LATTICE or np.abs(steps - whole).max() > 1e-7 * step / len(sizes):
        return None
    return whole.astype(np.int64)


def _by_lattice(steps: np.ndarray, share: float) -> float:
    """Return how likely the sum of `steps` with signs is at least `share` of the greatest, from the product of its
    characteristic functions, a cosine each."""
    most = int(steps.sum())
    length = 2 * most + 2
    turns = 2 * np.pi * np.arange(length // 2 + 1) / length
    product = np.ones(len(turns))
    for step, count in zip(*np.unique(steps, return_counts=True), strict=True):
        product *= np.cos(turns * step) ** count
    masses = np.fft.irfft(product, length)
    first = math.ceil(share * most * (1 - _CLOSE))
    upper = masses[first : most + 1].sum()
    return 1.0 if first == 0 else 2 * upper


def _by_listing(sizes: np.ndarray, total: float) -> float:
    sums = np.zeros(1)
    for size in sizes:
        sums = np.concatenate([sums + size, sums - size])
    return float(np.mean(np.abs(sums) >= total - _CLOSE * sizes.sum()))


def saddlepoint_p(sizes: np.ndarray, total: float) -> float:
    """Return the two-sided p-value of `total`, the sum of `sizes` with signs, by the saddlepoint approximation
    (Robinson, 1982; the tail in Barndorff-Nielsen's form of Lugannani and Rice, 1980)."""
    sizes, total = sizes / sizes.max(), total / sizes.max()
    if total / math.sqrt((sizes**2).sum()) < 0.05:  # the normal one, which the other becomes
        return 2 * NormalDist().cdf(-total / math.sqrt((sizes**2).sum()))
    low, high = 0.0, 1.0
    while (sizes * np.tanh(high * sizes)).sum() < total and high < 1e6:
        high *= 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if (sizes * np.tanh(middle * sizes)).sum() < total else (low, middle)
    logs = (np.logaddexp(low * sizes, -low * sizes) - math.log(2)).sum()
    root = math.sqrt(max(2 * (low * total - logs), 0.0))
    spread = low * math.sqrt((sizes**2 * (1 - np.tanh(low * sizes) ** 2)).sum())
    return 2 * NormalDist().cdf(-(root + math.log(spread / root) / root)) if spread > 0 else 0.0
