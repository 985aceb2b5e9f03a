"""Every measure against counting in plain Python; divergences against sums written out."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from mmi_plugin.errors import InputError
from mmi_plugin.results import Record
from mmi_plugin.results.estimates import estimate
from mmi_plugin.results.measures import Measure, jensen_shannon, per_item, task_numbers, total_variation
from mmi_plugin.results.outcomes import Outcomes
from tests.statistics_records import CONDITIONS, by_item, outcomes, records

PERTURBED = CONDITIONS[1:]


def _means(found: list[Record]) -> dict[Measure, float]:
    return {measure: estimate([values]).value for measure, values in per_item(outcomes(found)).items()}


def _counted(found: list[Record]) -> dict[Measure, float]:
    """The same numbers, record by record."""
    groups = list(by_item(found).values())
    n, expected = len(groups), {}
    for name in CONDITIONS:
        expected["accuracy", name] = sum(group[name].parsed == group[name].gold for group in groups) / n
        expected["unparseable", name] = sum(group[name].parsed is None for group in groups) / n
    for name in PERTURBED:
        pairs = [(group["clean"], group[name]) for group in groups]
        expected["drop", name] = expected["accuracy", "clean"] - expected["accuracy", name]
        changed = [(old, new) for old, new in pairs if old.parsed != new.parsed]
        expected["flip_rate", name] = len(changed) / n
        expected["right_to_wrong", name] = sum(old.right for old, new in changed) / n
        expected["wrong_to_right", name] = sum(new.right for old, new in changed) / n
        expected["wrong_to_wrong", name] = sum(not old.right and not new.right for old, new in changed) / n
        stayed = {kind: [new.right == kind for old, new in pairs if old.right == kind] for kind in (True, False)}
        expected["positive_consistency", name] = sum(stayed[True]) / len(stayed[True])
        expected["negative_consistency", name] = sum(stayed[False]) / len(stayed[False])
        if name == "misleading_text":
            expected["text_preference", name] = sum(new.parsed == new.named for _, new in changed) / len(changed)
    expected["reference_accuracy", None] = expected["accuracy", "clean"]
    expected["worst_case", None] = sum(all(r.right for r in group.values()) for group in groups) / n
    seen = [name for name in CONDITIONS if name != "ocr_text"]
    expected["worst_case_seen", None] = sum(all(group[name].right for name in seen) for group in groups) / n
    expected["unparseable", None] = sum(expected["unparseable", name] for name in CONDITIONS) / 4
    expected["cut_off", None] = sum(r.cut_off for group in groups for r in group.values()) / (n * len(CONDITIONS))
    expected["flip_rate", None] = sum(expected["flip_rate", name] for name in PERTURBED) / 3
    return expected


@pytest.mark.parametrize("seed", range(5))
def test_every_measure_equals_counting(seed: int) -> None:
    found = records(seed=seed)
    assert _means(found) == pytest.approx(_counted(found))


def test_the_directions_add_up_to_the_flip_rate() -> None:
    means = _means(records(right=0.4))
    for name in PERTURBED:
        parts = [means[Measure(part, name)] for part in ("right_to_wrong", "wrong_to_right", "wrong_to_wrong")]
        assert min(parts) > 0 and sum(parts) == pytest.approx(means[Measure("flip_rate", name)])


def test_agrees_with_the_harness_summary() -> None:
    found = records()
    counted, numbers = _counted(found), task_numbers(found, "image_heavy", CONDITIONS)
    assert (numbers.pop("items"), numbers.pop("incomplete")) == (60, 0)
    for name, share in numbers.items():
        measure, _, condition = name.partition("/")
        assert share == pytest.approx(counted[measure, condition or None])
    assert len(numbers) == len(CONDITIONS) + len(PERTURBED) + 4


def test_text_preference_counts_changed_answers_only() -> None:
    measured = per_item(outcomes(records()))[Measure("text_preference", "misleading_text")]
    flips = per_item(outcomes(records()))[Measure("flip_rate", "misleading_text")].values
    assert estimate([measured]).n == flips.sum() < len(flips)


def test_no_changed_answer_gives_no_text_preference() -> None:
    same = [Record(r.item_id, r.condition, 0, r.gold, "A", "A", r.named) for r in records()]
    found = estimate([per_item(outcomes(same))[Measure("text_preference", "misleading_text")]])
    assert found.n == 0 and math.isnan(found.value) and math.isnan(found.low)


def test_shuffling_the_records_changes_nothing() -> None:
    found = records(probabilities=True)
    shuffled = random.Random(1).sample(found, len(found))
    before, after = per_item(outcomes(found)), per_item(outcomes(shuffled))
    assert list(before) == list(after)
    for measure, values in before.items():
        np.testing.assert_array_equal(values.values, after[measure].values)
        assert repr(estimate([values])) == repr(estimate([after[measure]]))


def test_the_causal_effect_equals_sums_written_out() -> None:
    found = records(probabilities=True)
    means = _means(found)
    for name in PERTURBED:
        js, tv = 0.0, 0.0
        for group in by_item(found).values():
            for p, q in zip(group["clean"].probabilities, group[name].probabilities, strict=True):
                tv += abs(p - q) / 2
                for share in (p, q):
                    js += share * math.log2(2 * share / (p + q)) / 2 if share else 0.0
        assert means[Measure("js", name)] == pytest.approx(js / 60)
        assert means[Measure("tv", name)] == pytest.approx(tv / 60)


def test_the_logit_gap_is_of_what_is_named_against_what_is_right() -> None:
    shares = {"a": (0.5, 0.3, 0.2), "b": (0.0, 0.25, 0.75), "c": (0.1, 0.2, 0.7)}
    named = {"a": "B", "b": "C", "c": None}
    found = [
        Record(item, name, 0, "A", "A", "A", named[item] if name == "misleading_text" else None, own)
        for item, own in shares.items()
        for name in ("clean", "misleading_text")
    ]
    gap = per_item(Outcomes.of("task", "image_heavy", ("clean", "misleading_text"), found))
    values = gap[Measure("logit_gap", "misleading_text")].values
    none = math.log(0.75) - math.log(float(np.finfo(np.float32).tiny))  # of a probability that is as good as none
    np.testing.assert_allclose(values, [math.log(0.3 / 0.5), none, np.nan])
    assert Measure("logit_gap", "clean") not in gap


def test_divergences_at_their_ends() -> None:
    p, q = np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([[0.0, 1.0], [0.5, 0.5]])
    np.testing.assert_allclose(jensen_shannon(p, q), [1, 0], atol=1e-12)
    np.testing.assert_allclose(total_variation(p, q), [1, 0])


def test_items_may_differ_in_their_number_of_options() -> None:
    shares = {"a": [(0.5, 0.5), (1.0, 0.0)], "b": [(0.2, 0.3, 0.5), (0.2, 0.3, 0.5)]}
    found = [
        Record(item, condition, 0, "A", "A", "A", None, values)
        for item, pair in shares.items()
        for condition, values in zip(("clean", "ocr_text"), pair, strict=True)
    ]
    measured = per_item(Outcomes.of("task", "image_heavy", ("clean", "ocr_text"), found))
    np.testing.assert_allclose(measured[Measure("tv", "ocr_text")].values, [0.5, 0])


def test_without_probabilities_in_every_record_there_is_no_causal_effect() -> None:
    found = records(probabilities=True)[:-1] + records()[-1:]
    assert not [measure for measure in per_item(outcomes(found)) if measure.name in ("js", "tv")]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda found: found[:-1], "task: item item-059: condition 'ocr_text' has no record"),
        (lambda found: found + found[:1], "item item-000: condition 'clean' is recorded twice"),
        (lambda found: [], "task: there are no records"),
    ],
)
def test_incomplete_records_are_refused_by_name(spoil: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        outcomes(spoil(records()))


def test_a_run_without_the_reference_is_refused() -> None:
    with pytest.raises(InputError, match="task: the reference condition 'clean' was not asked"):
        Outcomes.of("task", "image_heavy", ("ocr_text",), records())
