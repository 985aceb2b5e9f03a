"""How often intervals over items, and over items and seeds, hold the truth: `python -m benchmarks.seeds`.

The logit of a right answer is 1, and normal parts of its item (1.5), its seed (the table's), and both (0.5).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from mmi_plugin.results.estimates import Estimate, estimate
from mmi_plugin.results.measures import PerItem, over_seeds

MEAN, OF_ITEMS, OF_BOTH = 1.0, 1.5, 0.5
ROUNDS = 1000


class Coverage(NamedTuple):
    """Shares of intervals that hold the truth, and how far they reach to either side on average."""

    items: float
    total: float
    items_reach: float
    total_reach: float


def truth(of_seeds: float) -> float:
    """Return the share of right answers of all items and seeds, by Gauss and Hermite."""
    places, weights = np.polynomial.hermite_e.hermegauss(60)
    spread = math.sqrt(OF_ITEMS**2 + OF_BOTH**2 + of_seeds**2)
    return float((weights / (1 + np.exp(-MEAN - spread * places))).sum() / weights.sum())


def drawn(rng: np.random.Generator, items: int, seeds: int, of_seeds: float) -> Estimate:
    """Return the estimate of one study."""
    logits = MEAN + rng.normal(0, OF_ITEMS, (items, 1)) + rng.normal(0, of_seeds, (1, seeds))
    logits = logits + rng.normal(0, OF_BOTH, (items, seeds))
    right = (rng.random((items, seeds)) < 1 / (1 + np.exp(-logits))).astype(float)
    return estimate([over_seeds([PerItem(own) for own in right.T])])


def coverage(items: int, seeds: int, of_seeds: float, rounds: int = ROUNDS) -> Coverage:
    """Return how often the intervals of `rounds` studies hold the truth."""
    rng, wanted = np.random.default_rng([items, seeds, round(1000 * of_seeds)]), truth(of_seeds)
    found = [drawn(rng, items, seeds, of_seeds) for _ in range(rounds)]
    ends = np.array([[one.items or (one.low, one.high), (one.low, one.high)] for one in found])
    held = ((ends[..., 0] <= wanted) & (wanted <= ends[..., 1])).mean(0)
    return Coverage(*held.tolist(), *((ends[..., 1] - ends[..., 0]).mean(0) / 2).tolist())


def main() -> None:
    print("                      holds the truth          reach in points")
    print("items  seeds  spread  items  items and seeds   items  items and seeds")
    for items in (50, 200, 1000):
        for seeds in (2, 3, 5):
            for of_seeds in (0.0, 0.1, 0.3, 1.0):
                held, both, reach, whole = (100 * one for one in coverage(items, seeds, of_seeds))
                print(f"{items:5} {seeds:6} {of_seeds:7.1f} {held:6.1f} {both:16.1f} {reach:7.1f} {whole:16.1f}")


if __name__ == "__main__":
    main()
