"""Several seeds: the interval over items and seeds against its formula, and how often it holds the truth."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import scipy.stats

from benchmarks.seeds import coverage
from mmi_plugin.results.estimates import difference, estimate
from mmi_plugin.results.measures import PerItem, over_seeds


def _trainings(shares: tuple[float, ...], n: int = 300) -> list[PerItem]:
    rng = np.random.default_rng(7)
    return [PerItem((rng.random(n) < share).astype(float)) for share in shares]


def _reach(seeds: list[float]) -> float:
    """Student's interval of the mean of seeds."""
    quantile = scipy.stats.t.ppf(0.975, len(seeds) - 1)
    return quantile * statistics.stdev(seeds) / math.sqrt(len(seeds))


def test_distances_over_items_and_over_seeds_add_up() -> None:
    trainings = _trainings((0.5, 0.62, 0.7))
    found, means = estimate([over_seeds(trainings)]), [one.values.mean() for one in trainings]
    alone = estimate([PerItem(np.mean([one.values for one in trainings], 0), binary=False)])
    assert found.items == (alone.low, alone.high) and alone.items is None
    assert found.seed_sd == pytest.approx(statistics.stdev(means))
    below, above = (math.hypot(found.value - end, _reach(means)) for end in found.items)
    assert (found.low, found.high) == pytest.approx((found.value - below, found.value + above))
    one = estimate([over_seeds(trainings[:1])])
    assert one.items is None and one.seed_sd is None and one.low == estimate(trainings[:1]).low
    two = estimate([over_seeds(_trainings((0.05, 0.95)))])
    assert (two.low, two.high) == (0, 1), "no share is beyond its range"


def test_a_difference_that_one_seed_makes_is_none() -> None:
    """Of three seeds one is far better: other items would find it again, another seed need not."""
    old, new = _trainings((0.5,)), _trainings((0.5, 0.52, 0.9))
    found = difference([over_seeds(old)], [over_seeds(new)])
    changes = [one.values.mean() - old[0].values.mean() for one in new]
    assert found.p < 0.001 and found.seeds == pytest.approx(changes)
    assert found.low < 0 < found.high and (found.high - found.low) / 2 >= _reach(changes)


@pytest.mark.parametrize(("items", "seeds", "spread"), [(60, 3, 0.3), (200, 3, 0.6), (60, 5, 0.0)])
def test_95_in_100_intervals_hold_the_truth_of_items_and_seeds(items: int, seeds: int, spread: float) -> None:
    found = coverage(items, seeds, spread, rounds=400)
    assert 0.93 <= found.total <= 1
    if spread > 0.5:
        assert found.items < 0.7, "the interval over items alone leaves the seeds out"
    assert found.items_reach < found.total_reach
    if not spread:
        assert found.total_reach < 1.5 * found.items_reach, "five seeds that do not differ widen it little"
