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
from statsmodels.stats.power import NormalIndPower

from mmi_plugin.errors import InputError
from mmi_plugin.results.estimates import Difference, check_comparable, difference, estimate, holm
from mmi_plugin.results.measures import Measure, PerItem, per_item
from mmi_plugin.results.permutation import saddlepoint_p, sign_flip_p
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


def _wilson(hits: int, n: int) -> tuple[float, float]:
    share = hits / n
    centre, half = share + Z**2 / (2 * n), Z * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return (centre - half) / (1 + Z**2 / n), (centre + half) / (1 + Z**2 / n)


def test_data_sets_weigh_the_same_and_their_distances_add_up() -> None:
    """MOVER (Zou and Donner, 2008) on the Wilson intervals of 5 of 20 and 270 of 300."""
    found = estimate([PerItem(_values(5, 20)), PerItem(_values(270, 300))])
    (low, high), (low2, high2) = _wilson(5, 20), _wilson(270, 300)
    middle = (0.25 + 0.9) / 2
    below, above = math.hypot(0.25 - low, 0.9 - low2) / 2, math.hypot(high - 0.25, high2 - 0.9) / 2
    assert (found.value, found.n) == (pytest.approx(middle), 320)
    assert (found.low, found.high) == pytest.approx((middle - below, middle + above))


def test_newcombes_published_intervals_are_mover_on_wilson() -> None:
    """56 of 70 less 48 of 80, method 10 of Newcombe (Statistics in Medicine 17, 1998): 0.0524 to 0.3339.
    A difference is twice the mean of one share and of the other one's complement, less one."""
    found = estimate([PerItem(_values(56, 70)), PerItem(_values(32, 80))])
    assert (2 * found.low - 1, 2 * found.high - 1) == pytest.approx((0.0524, 0.3339), abs=5e-5)


@pytest.mark.parametrize(("hits", "expected"), [(20, (0.886, 1.0)), (0, (0.0, 0.114))])
def test_shares_of_several_data_sets_have_a_width_at_0_and_1(hits: int, expected: tuple[float, float]) -> None:
    """Wilson's 0.8389 for 20 of 20 is in every table; twice, and halved, that is 1 - 0.1611 / sqrt(2)."""
    found = estimate([PerItem(_values(hits, 20)), PerItem(_values(hits, 20))])
    assert (found.low, found.high) == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize("shares", [(0.99, 0.97), (0.02, 0.5), (0.9, 1.0)])
def test_pooled_intervals_hold_what_they_promise(shares: tuple[float, float]) -> None:
    """Coverage by enumeration of all outcomes of 30 and 20 items."""
    sizes, covered = (30, 20), 0.0
    for hits in itertools.product(*(range(n + 1) for n in sizes)):
        found = estimate([PerItem(_values(*one)) for one in zip(hits, sizes, strict=True)])
        weights = [scipy.stats.binom.pmf(k, n, share) for k, n, share in zip(hits, sizes, shares, strict=True)]
        covered += math.prod(weights) * (found.low - 1e-12 <= statistics.fmean(shares) <= found.high + 1e-12)
    assert covered > 0.93


@pytest.mark.parametrize("value", [0.0, 1 / 3, 1.0])
@pytest.mark.parametrize("n", [1, 40])
def test_means_without_variance_have_the_width_of_no_hit(value: float, n: int) -> None:
    """What was not seen may be as frequent as Wilson's end for no hit, z^2 / (n + z^2), and anything in [0, 1]."""
    unseen = Z**2 / (n + Z**2)
    found = estimate([PerItem(np.full(n, value), binary=False)])
    assert (found.low, found.high) == pytest.approx((value * (1 - unseen), value + unseen * (1 - value)))


def test_one_item_that_differs_does_not_make_an_interval_narrower() -> None:
    same = estimate([PerItem(np.full(40, 1.0), binary=False)])
    one = estimate([PerItem(np.array([2 / 3] + [1.0] * 39), binary=False)])
    assert one.low < same.low and one.high == same.high == 1.0


def test_a_drop_of_none_has_a_width_on_both_sides() -> None:
    drop = PerItem(np.zeros(40), binary=False, lowest=-1.0)
    found = estimate([drop])
    assert (found.low, found.high) == pytest.approx((-(Z**2) / (40 + Z**2), Z**2 / (40 + Z**2)))


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


def test_tangos_interval_on_a_published_table() -> None:
    """Airway hyper-responsiveness before and after a transplantation (Bentur et al., 2009): 1, 1, 7 and 12 children;
    Tango's interval is -0.517 to -0.026 (Fagerland, Lydersen and Laake, Statistics in Medicine 33, 2014, table IV)."""
    found = _difference(*_discordant(7, 1, both=1, neither=12))
    assert (found.low, found.high) == pytest.approx((-0.517, -0.026), abs=5e-4)


@pytest.mark.parametrize(("lost", "gained", "n"), [(40, 20, 160), (3, 0, 25), (0, 9, 9), (5, 5, 10), (1, 30, 400)])
def test_tangos_interval_ends_where_the_score_test_rejects(lost: int, gained: int, n: int) -> None:
    """The share of losses under a difference is the one of greatest likelihood, found by trying all."""
    first, second = _discordant(lost, gained, both=n - lost - gained, neither=0)
    found = _difference(first, second)

    def score(delta: float) -> float:
        losses = np.linspace(max(0, -delta), (1 - delta) / 2, 200_001)[1:-1]
        gains, rest = losses + delta, 1 - 2 * losses - delta
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = sum(
                np.log(p) * k if k else 0 * p for p, k in ((losses, lost), (gains, gained), (rest, n - lost - gained))
            )
        best = losses[np.nanargmax(logs)]
        return (gained - lost - n * delta) / math.sqrt(n * (2 * best + delta * (1 - delta)))

    for end, expected in ((found.low, Z), (found.high, -Z)):
        if abs(end) < 1:
            assert score(end) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("sets", [1, 2])
def test_a_difference_without_discordant_pairs_has_a_width(sets: int) -> None:
    """z^2 / (n + z^2) to both sides in one data set of 40, and 1 / sqrt(2) of it in two."""
    same = [PerItem(_values(30, 40))] * sets
    found, width = difference(same, same), Z**2 / (40 + Z**2) / math.sqrt(sets)
    assert (found.value, found.p) == (0, 1) and (found.low, found.high) == pytest.approx((-width, width))


@pytest.mark.parametrize("shares", [(0.02, 0.02), (0.0, 0.05), (0.1, 0.3)])
def test_paired_intervals_hold_what_they_promise(shares: tuple[float, float]) -> None:
    """Coverage by enumeration of all tables of 30 pairs."""
    n, covered = 30, 0.0
    for lost, gained in itertools.product(range(n + 1), repeat=2):
        if lost + gained > n:
            continue
        weight = scipy.stats.multinomial.pmf([lost, gained, n - lost - gained], n, [*shares, 1 - sum(shares)])
        if weight > 1e-9:
            found = _difference(*_discordant(lost, gained, both=n - lost - gained, neither=0))
            covered += weight * (found.low <= shares[1] - shares[0] <= found.high)
    assert covered > 0.93


def test_a_difference_that_is_not_of_shares_is_tested_by_all_sign_flips() -> None:
    first = np.array([0.1, 0.4, 0.35, 0.8, 0.2, 0.0, 0.65, 0.3])
    second = np.array([0.3, 0.45, 0.3, 0.95, 0.6, 0.1, 0.7, 0.55])
    change = second - first
    flips = [abs(np.mean(change * signs)) for signs in itertools.product((1, -1), repeat=8)]
    expected = np.mean([flip >= abs(change.mean()) - 1e-12 for flip in flips])
    found = _difference(PerItem(first, binary=False), PerItem(second, binary=False))
    assert found.p == pytest.approx(expected) and found.test == "sign-flip permutation"


def test_sign_flips_of_differences_without_a_common_step() -> None:
    rng = np.random.default_rng(7)
    for n in (5, 12):
        change = rng.normal(0.4, 1, n)
        flips = [abs(np.dot(change, signs)) for signs in itertools.product((1, -1), repeat=n)]
        assert sign_flip_p(change) == pytest.approx(np.mean([flip >= abs(change.sum()) - 1e-9 for flip in flips]))


def test_the_difference_over_two_data_sets_by_all_exchanges() -> None:
    first = [np.array([1, 0, 0, 1.0]), np.array([0, 0, 1, 0, 0, 1.0])]
    second = [np.array([1, 1, 1, 1.0]), np.array([1, 0, 1, 1, 1, 0.0])]
    changes = [new - old for old, new in zip(first, second, strict=True)]

    def mean(signs: tuple[int, ...]) -> float:
        return (np.mean(changes[0] * signs[:4]) + np.mean(changes[1] * signs[4:])) / 2

    flips = [abs(mean(signs)) for signs in itertools.product((1, -1), repeat=10)]
    found = difference([PerItem(values) for values in first], [PerItem(values) for values in second])
    assert (found.value, found.n) == (pytest.approx((0.5 + 2 / 6) / 2), 10)
    assert found.p == pytest.approx(np.mean([flip >= mean((1,) * 10) - 1e-12 for flip in flips]))


@pytest.mark.parametrize(("up", "down"), [(60, 20), (150, 50), (30, 29)])
def test_sign_flips_of_one_size_are_the_binomial_test(up: int, down: int) -> None:
    expected = scipy.stats.binomtest(up, up + down).pvalue
    assert sign_flip_p(np.array([0.25] * up + [-0.25] * down)) == pytest.approx(expected, rel=1e-6)


def test_sign_flips_of_many_sizes_by_counting_whole_numbers() -> None:
    """How many of 2^40 sums of 1 to 40 with signs are as far from 0, by adding one number after the other."""
    sizes, ways = range(1, 41), {0: 1}
    for size in sizes:
        ways = {s: ways.get(s - size, 0) + ways.get(s + size, 0) for s in range(-820, 821)}
    changes = np.array([-size if size in (3, 8, 11, 14, 20) else size for size in sizes]) / 40
    total = round(40 * changes.sum())
    expected = sum(count for s, count in ways.items() if abs(s) >= total) / 2**40
    assert expected < 1e-6
    assert sign_flip_p(changes) == pytest.approx(expected, rel=1e-6)
    assert saddlepoint_p(np.abs(changes), changes.sum()) == pytest.approx(expected, rel=0.1), "the tail alone"


@pytest.mark.parametrize("kind", ["normal", "uniform", "few are great"])
@pytest.mark.parametrize("deviations", [0.5, 1.0, 2.0, 3.0])
def test_sign_flips_of_any_sizes_by_all_sums_of_two_halves(kind: str, deviations: float) -> None:
    """Probabilities mostly change by little, and a few by much: then no sum is normal."""
    rng = np.random.default_rng(4)
    sizes = {"normal": np.abs(rng.normal(size=34)), "uniform": rng.random(34), "few are great": rng.pareto(1.2, 34)}[
        kind
    ]
    halves = [np.zeros(1), np.zeros(1)]
    for place, size in enumerate(sizes):
        halves[place % 2] = np.concatenate([halves[place % 2] + size, halves[place % 2] - size])
    total = min(deviations * math.sqrt((sizes**2).sum()), 0.95 * sizes.sum())
    reached = 2**17 - np.searchsorted(np.sort(halves[0]), total - halves[1])
    expected = min(2 * reached.mean() / 2**17, 1)
    assert saddlepoint_p(sizes, total) == pytest.approx(expected, rel=0.03)


def test_effects_on_probabilities_can_be_significant_among_632_tests() -> None:
    """Sign flips of 400 normal changes are close to the normal tail: p is far below 0.05 / 632 and 1e-4."""
    change = np.random.default_rng(2).normal(0.3, 1, 400) / 10
    z = change.sum() / math.sqrt((change**2).sum())
    found = _difference(PerItem(np.full(400, 0.5), binary=False), PerItem(0.5 + change, binary=False))
    assert found.p == pytest.approx(math.erfc(z / math.sqrt(2)), rel=0.5) and found.p < 1e-6
    assert holm([found.p] + [0.5] * 631)[0] < 1e-3
    assert sign_flip_p(np.full(1000, 0.1)) < 1e-100, "and there is no other floor"


def test_a_model_against_itself() -> None:
    values = per_item(outcomes(records()))
    for measure in (Measure("worst_case"), Measure("flip_rate")):
        found = _difference(values[measure], values[measure])
        assert (found.value, found.p) == (0, 1) and found.low < 0 < found.high


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


def test_the_detectable_difference_is_that_of_a_power_of_80_percent() -> None:
    """statsmodels' normal power of one mean of paired differences."""
    rng = np.random.default_rng(7)
    first, second = (rng.integers(0, 2, 900).astype(float) for _ in range(2))
    found = _difference(PerItem(first), PerItem(second))
    power = NormalIndPower(ddof=0).solve_power(nobs1=900, alpha=0.05, power=0.8, ratio=0)
    assert found.detectable == pytest.approx(power * (second - first).std(), rel=0.01)


@pytest.mark.parametrize(("lost", "shown"), [(0, True), (4, True), (30, False)])
def test_not_worse_is_shown_by_the_interval_and_not_by_a_lack_of_evidence(lost: int, shown: bool) -> None:
    """Of 400 items, none, 4 or 30 lost and as many gained: the difference is 0 in each, the interval is not."""
    first, second = _discordant(lost, lost, both=400 - 2 * lost, neither=0)
    found = _difference(first, second)
    assert found.value == 0 and found.not_worse_by(0.02) == shown
