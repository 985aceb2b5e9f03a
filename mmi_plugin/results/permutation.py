"""Differences per item in; the p-value of their sum when each sign is a fair coin's out: exact, or by its tail.

Nothing is sampled, so that p has no floor: a table of hundreds of tests can show what is there.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from scipy.special import ndtr

_CLOSE = 1e-9  # sums that differ by less, as a share of the greatest, are the same one
_LATTICE = 1 << 19  # steps of an exact distribution
_LISTED = 30  # differences whose signs are all gone through
_GREAT = 10  # the greatest of more, whose signs are gone through: one that is greater than all others has no tail
_ROUNDING = 1e-10  # a share of a distribution's mass that says nothing any more
_TILTS = np.concatenate([np.linspace(0.1, 8, 80), np.geomspace(8, 1e6, 60)[1:]])  # in units of 1 / deviation


def sign_flip_p(changes: np.ndarray) -> float:
    """Return the two-sided p-value of the sum of `changes` (items,) when each sign is a fair coin's.

    Exact where the differences are multiples of one step (shares of hits are), or are few; else, and below 1e-10, by
    `saddlepoint_p`, which is right to a few percent, and mostly to a thousandth, however small it is.
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


def _sums(sizes: np.ndarray) -> np.ndarray:
    """Return the sums of `sizes` (n,) with all signs, (2^n,)."""
    sums = np.zeros(1)
    for size in sizes:
        sums = np.concatenate([sums + size, sums - size])
    return sums


def _by_listing(sizes: np.ndarray, total: float) -> float:
    """Return how likely the sum of `sizes` with signs is at least `total`, or at most minus it."""
    # What the sums of one half need is looked up among those of the other.
    one, other = _sums(sizes[::2]), np.sort(_sums(sizes[1::2]))
    reached = len(other) - np.searchsorted(other, total - one - _CLOSE * sizes.sum())
    return 2 * float(reached.mean()) / len(other)


def saddlepoint_p(sizes: np.ndarray, total: float) -> float:
    """Return the two-sided p-value of `total`, the sum of more than `_GREAT` `sizes` with signs.

    The signs of the greatest are gone through; what the others add has the tail of the saddlepoint approximation
    (Robinson, 1982), in Barndorff-Nielsen's form of Lugannani and Rice (1980).
    """
    sizes = np.sort(sizes)
    rest, left = sizes[:-_GREAT], total - _sums(sizes[-_GREAT:])
    return 2 * float(ndtr(-np.sign(left) * _normal_score(rest, np.abs(left))).mean())


def _normal_score(sizes: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """Return where the normal distribution has the tails that the sum of `sizes` (n,) with signs has at `totals` (m,):
    between its values at `_TILTS`, between which it hardly bends; infinity beyond the greatest sum."""
    deviation = math.sqrt((sizes**2).sum())
    tilts = _TILTS[:, None] / deviation * sizes
    sums = np.tanh(tilts) @ sizes
    logs = (np.logaddexp(tilts, -tilts) - math.log(2)).sum(1)
    roots = np.sqrt(2 * np.maximum(_TILTS / deviation * sums - logs, 0))
    spreads = _TILTS / deviation * np.sqrt((1 - np.tanh(tilts) ** 2) @ sizes**2)
    known = (spreads > 1e-6) & np.append(np.diff(sums) > 0, False)
    scores = roots[known] + np.log(spreads[known] / roots[known]) / roots[known]
    found = np.interp(totals, np.append(0.0, sums[known]), np.append(0.0, scores))
    return np.where(totals > sizes.sum(), np.inf, found)
