"""Intervals, tests and corrections against formulas written out, enumeration, and textbook tables."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from mmi_plugin.errors import InputError
from mmi_plugin.results.estimates import Difference, check_comparable, difference, estimate, holm
from mmi_plugin.results.measures import Measure, PerItem, per_item
from tests.statistics_records import outcomes, records

Z = statistics.NormalDist().inv_cdf(0.975)


def _values(hits: int, n: int) -> np.ndarray:
    return np.array([1.0] * hits + [0.0] * (n - hits))


@pytest.mark.parametrize(("hits", "n"), [(0, 40), (1, 10), (17, 40), (400, 400)])
def test_wilson(hits: int, n: int) -> None:
    share = hits / n
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    found = estimate([PerItem(_values(hits, n))])
    assert (found.value, found.n) == (share, n)
    assert (found.low, found.high) == pytest.approx((max(centre - half, 0), min(centre + half, 1)), abs=1e-9)


def test_the_bootstrap_of_a_drop_equals_resampling_by_hand() -> None:
    drop = per_item(outcomes(records(200)))[Measure("drop", "misleading_text")]
    found, rng = estimate([drop]), random.Random(5)
    means = sorted(statistics.fmean(rng.choices(drop.values.tolist(), k=200)) for _ in range(4000))
    assert found.value == pytest.approx(statistics.fmean(drop.values))
    assert (found.low, found.high) == pytest.approx((means[100], means[3899]), abs=0.015)


@pytest.mark.parametrize("distinct", [3, 500])
def test_the_bootstrap_equals_that_of_scipy(distinct: int) -> None:
    rng = np.random.default_rng(3)
    samples = [rng.choice(rng.random(distinct) ** 2, size) for size in (60, 300)]
    expected = scipy.stats.bootstrap(
        samples,
        lambda x, y, axis: (x.mean(axis) + y.mean(axis)) / 2,
        n_resamples=5000,
        method="percentile",
        rng=1,
    ).confidence_interval
    found = estimate([PerItem(sample, binary=False) for sample in samples])
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.1 * (expected.high - expected.low))


def test_data_sets_weigh_the_same_and_are_resampled_apart() -> None:
    small, large = _values(5, 20), _values(270, 300)
    found, rng = estimate([PerItem(small), PerItem(large)]), random.Random(5)
    means = sorted(
        (statistics.fmean(rng.choices(small.tolist(), k=20)) + statistics.fmean(rng.choices(large.tolist(), k=300))) / 2
        for _ in range(4000)
    )
    assert (found.value, found.n) == (pytest.approx((0.25 + 0.9) / 2), 320)
    assert (found.low, found.high) == pytest.approx((means[100], means[3899]), abs=0.02)


def test_one_value_has_no_bootstrap_interval() -> None:
    found = estimate([PerItem(np.array([0.5]), binary=False)])
    assert (found.value, found.n) == (0.5, 1) and math.isnan(found.low) and math.isnan(found.high)


def _difference(first: PerItem, second: PerItem) -> Difference:
    return difference([first], [second])


def _discordant(only_first: int, only_second: int, both: int = 7, neither: int = 4) -> tuple[PerItem, PerItem]:
    rows = [(1, 1)] * both + [(1, 0)] * only_first + [(0, 1)] * only_second + [(0, 0)] * neither
    random.Random(0).shuffle(rows)
    first, second = np.array(rows, dtype=float).T
    return PerItem(first), PerItem(second)


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (1, 8), (6, 16), (121, 59), (30, 30)])
def test_mcnemar_is_the_binomial_test_on_discordant_pairs(only_first: int, only_second: int) -> None:
    n = only_first + only_second
    tail = sum(math.comb(n, k) for k in range(min(only_first, only_second) + 1)) / 2**n
    found = _difference(*_discordant(only_first, only_second))
    assert found.p == pytest.approx(min(1.0, 2 * tail))
    assert found.value == pytest.approx((only_second - only_first) / (n + 11))
    assert found.test == "McNemar, exact"


def test_mcnemar_on_agrestis_table() -> None:
    """Approval of a prime minister, twice asked of 1600 (Agresti, Categorical Data Analysis, table 10.1):
    944 kept to their answer, 150 and 86 changed it; z = -4.17 (p = 3e-5), difference -0.04 +- 0.0188."""
    found = _difference(*_discordant(150, 86, both=794, neither=570))
    assert found.value == pytest.approx(-64 / 1600)
    assert (found.low, found.high) == pytest.approx((-0.0588, -0.0212), abs=0.002)
    assert found.p == pytest.approx(3.05e-5, rel=0.3), "the exact test beside the normal one"


def test_a_difference_that_is_not_of_shares_is_tested_by_all_sign_flips() -> None:
    first = np.array([0.1, 0.4, 0.35, 0.8, 0.2, 0.0, 0.65, 0.3])
    second = np.array([0.3, 0.45, 0.3, 0.95, 0.6, 0.1, 0.7, 0.55])
    change = second - first
    flips = [abs(np.mean(change * signs)) for signs in itertools.product((1, -1), repeat=8)]
    expected = np.mean([flip >= abs(change.mean()) - 1e-12 for flip in flips])
    found = _difference(PerItem(first, binary=False), PerItem(second, binary=False))
    assert found.p == pytest.approx(expected, abs=0.01) and found.test == "sign-flip permutation"


def test_the_difference_over_two_data_sets_by_all_exchanges() -> None:
    first = [np.array([1, 0, 0, 1.0]), np.array([0, 0, 1, 0, 0, 1.0])]
    second = [np.array([1, 1, 1, 1.0]), np.array([1, 0, 1, 1, 1, 0.0])]
    changes = [new - old for old, new in zip(first, second, strict=True)]

    def mean(signs: tuple[int, ...]) -> float:
        return (np.mean(changes[0] * signs[:4]) + np.mean(changes[1] * signs[4:])) / 2

    flips = [abs(mean(signs)) for signs in itertools.product((1, -1), repeat=10)]
    found = difference([PerItem(values) for values in first], [PerItem(values) for values in second])
    assert (found.value, found.n) == (pytest.approx((0.5 + 2 / 6) / 2), 10)
    assert found.p == pytest.approx(np.mean([flip >= mean((1,) * 10) - 1e-12 for flip in flips]), abs=0.01)


def test_a_model_against_itself() -> None:
    values = per_item(outcomes(records()))
    for measure in (Measure("worst_case"), Measure("flip_rate")):
        found = _difference(values[measure], values[measure])
        assert (found.value, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_items_that_do_not_count_for_one_model_are_left_out_of_the_pairs() -> None:
    found = _difference(PerItem(np.array([1, 0, np.nan, 1.0])), PerItem(np.array([1, 1, 1, np.nan])))
    assert (found.value, found.n) == (0.5, 2)
    assert _difference(PerItem(np.array([np.nan])), PerItem(np.array([1.0]))).n == 0


def test_holm_on_a_table_computed_by_hand() -> None:
    """Sorted .005 .01 .03 .04 times 4 3 2 1 is .02 .03 .06 .04; made monotone .02 .03 .06 .06."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seed": 1}, "drawn with seed 0 and seed 1"),
        ({"condition_versions": {"ocr_text": 2}}, "condition 'ocr_text' has version 1 and version 2"),
        ({"content_hash": "b" * 64}, r"content hashes aaaaaaaaaaaa and bbbbbbbbbbbb"),
        ({"conditions": ("clean", "ocr_text")}, "condition 'misleading_text' was asked of old only"),
        ({"task": "other"}, "the second is of other, image_heavy"),
    ],
)
def test_different_questions_are_refused_with_the_reason(change: dict, reason: str) -> None:
    first = outcomes(records(), content_hash="a" * 64, condition_versions={"ocr_text": 1})
    check_comparable(first, replace(first), ("old", "new"))
    with pytest.raises(InputError, match=f"old and new cannot be compared on task: .*{reason}"):
        check_comparable(first, replace(first, **change), ("old", "new"))


def test_different_items_are_refused_and_named() -> None:
    long, short = outcomes(records(60)), outcomes(records(58))
    with pytest.raises(InputError, match="2 items differ; item item-058 was asked of new only"):
        check_comparable(short, long, ("old", "new"))
    with pytest.raises(InputError, match="2 items differ; item item-058 was asked of old only"):
        check_comparable(long, short, ("old", "new"))
