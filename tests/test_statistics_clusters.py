"""Items that share an image or a passage: intervals and tests over clusters, held to statsmodels and simulation."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from statsmodels.api import OLS

from mmi_plugin.documents import documents
from mmi_plugin.item import Item
from mmi_plugin.results import Record
from mmi_plugin.results.estimates import MCNEMAR, PERMUTATION, difference, estimate
from mmi_plugin.results.intervals import Clusters, interval
from mmi_plugin.results.measures import Measure, PerItem, per_item
from mmi_plugin.results.outcomes import Outcomes
from mmi_plugin.sources import Benchmark, load


def drawn(rng: np.random.Generator, n: int, size: int, share: float, alike: float) -> np.ndarray:
    """Hits (n,) in clusters of `size` with beta-distributed shares, so that two of one correlate by `alike`."""
    spread = (1 - alike) / alike if alike else 1e9
    shares = rng.beta(share * spread, (1 - share) * spread, n // size)
    return (rng.random((n // size, size)) < shares[:, None]).astype(float).ravel()


@pytest.mark.parametrize("sizes", [(3, 5, 2, 7), (1, 1, 4, 1, 2)])
def test_the_variance_is_that_of_cluster_robust_regression(sizes: tuple[int, ...]) -> None:
    """A regression on nothing but a constant, clustered, with statsmodels' correction for few clusters."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    values = np.random.default_rng(4).random(len(labels))
    expected = OLS(values, np.ones(len(values))).fit(cov_type="cluster", cov_kwds={"groups": labels}).bse[0]
    assert Clusters.of(labels).variance(values) == pytest.approx(expected**2)


def test_items_by_themselves_are_no_clusters() -> None:
    values, labels = np.array([1.0, 0, 1, 1, 0]), np.array(list("abcde"))
    assert Clusters.of(labels) is None and Clusters.of(None) is None
    assert estimate([PerItem(values, clusters=labels)]) == estimate([PerItem(values)])


def test_copies_of_each_item_add_no_certainty() -> None:
    """Forty items, each four times: as uncertain as forty, not as 160."""
    values = (np.arange(40) % 3 > 0).astype(float)
    copied, labels = np.repeat(values, 4), np.repeat(np.arange(40), 4)
    once, four = estimate([PerItem(values)]), estimate([PerItem(copied, clusters=labels)])
    assert four.n == 160 and four.value == pytest.approx(once.value)
    assert four.high - four.low == pytest.approx(once.high - once.low, rel=0.06)
    assert estimate([PerItem(copied)]).low - once.low > 0.05, "which the plain interval overlooks"


def test_one_cluster_says_nothing_of_others() -> None:
    one = PerItem(np.array([1.0, 1, 0]), clusters=np.array(["a"] * 3))
    assert (estimate([one]).low, estimate([one]).high) == (0, 1)


def test_the_models_are_exchanged_within_clusters() -> None:
    """p by going through all signs of the clusters' sums."""
    rng = np.random.default_rng(2)
    labels = np.repeat(np.arange(7), 3)
    old, new = (rng.integers(0, 2, 21).astype(float) for _ in range(2))
    new = np.maximum(new, labels > 2)
    sums = [(new - old)[labels == label].sum() for label in range(7)]
    totals = [abs(np.dot(signs, sums)) for signs in itertools.product((1, -1), repeat=7)]
    found = difference([PerItem(old, clusters=labels)], [PerItem(new, clusters=labels)])
    assert found.test == PERMUTATION
    assert found.p == pytest.approx(np.mean(np.array(totals) >= abs(sum(sums)) - 1e-9))
    assert difference([PerItem(old)], [PerItem(new)]).test == MCNEMAR


def test_items_with_the_same_image_or_a_named_cluster_belong_together() -> None:
    red, blue = (Image.new("RGB", (6, 6), colour) for colour in ("red", "blue"))
    shown = [
        ("a", red, None),
        ("b", red.copy(), None),
        ("c", blue, None),
        ("d", blue, "passage"),
        ("e", red, "passage"),
    ]
    items = [
        Item(key, "vqa", "What?", "cat", ("cat", "dog"), image=image, cluster=cluster) for key, image, cluster in shown
    ]
    rows = documents(Benchmark("t", "vqa", tuple(items)), ("clean",)).rows
    labels = dict(zip(rows["item_id"], rows["cluster"], strict=True))
    assert labels["a"] == labels["b"] != labels["c"] and labels["d"] == labels["e"] == "passage"
    records = [
        Record(key, "clean", 0, "A", letter, letter, cluster=labels[key])
        for key, letter in zip("abcde", "AABAA", strict=True)
    ]
    measured = per_item(Outcomes.of("t", "vqa", ("clean",), records))[Measure("accuracy", "clean")]
    assert Clusters.of(measured.clusters).count == 3
    apart = [replace(record, cluster=None) for record in records]
    assert per_item(Outcomes.of("t", "vqa", ("clean",), apart))[Measure("accuracy", "clean")].clusters is None


def test_the_demo_asks_each_country_several_times_and_knows_it() -> None:
    bench = load("demo_capitals", "test")
    countries = {item.id.split("-")[1] for item in bench.items}
    assert {item.cluster.lower() for item in bench.items} == countries and len(countries) == len(bench.items) / 6


@pytest.mark.parametrize("kind", ["share", "difference", "mean"])
@pytest.mark.parametrize(("n", "size", "alike"), [(20, 1, 0), (100, 1, 0), (1000, 1, 0), (100, 4, 0.3), (1000, 4, 0.3)])
def test_95_in_100_intervals_hold_the_truth(kind: str, n: int, size: int, alike: float) -> None:
    assert 0.93 <= covered(kind, n, size, alike) <= 0.97


@pytest.mark.parametrize("kind", ["share", "difference"])
def test_ten_pairs_are_judged_with_caution(kind: str) -> None:
    """With as few clusters the interval is wider than it need be, never narrower."""
    assert 0.95 <= covered(kind, 20, 2, 0.3) <= 0.995


def covered(kind: str, n: int, size: int, alike: float) -> float:
    """Share of intervals that hold the truth, whatever that is; a mean is one over three answers to an item, as a mean
    flip rate is."""
    rng, held = np.random.default_rng(n + size), []
    for _ in range(500 if kind == "mean" else 1500):
        first, second = rng.uniform(0.25, 0.9, 2)  # at a single share the coverage of few items jumps with it
        one, other = (drawn(rng, n, size, share, alike) for share in (first, second))
        values, truth, lowest = {
            "share": (one, first, 0.0),
            "difference": (one - other, first - second, -1.0),
            "mean": ((2 * one + other) / 3, (2 * first + second) / 3, 0.0),
        }[kind]
        low, high = interval(values, lowest, Clusters.of(np.arange(n) // size))
        held.append(low <= truth <= high)
    return float(np.mean(held))
