"""The numbers of a sweep against sums made by hand, and the sentences that follow from them."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from mmi_plugin.studies.analysis import CAPITALS, DIGITS, VQA, Trial, analyse
from mmi_plugin.studies.demo import TASKS, benchmark
from mmi_plugin.studies.document import Made, document, sweep_figure
from mmi_plugin.studies.plan import BASE, OWN, Axis, Setting

ITEMS = 120
BETTER, SAME = Setting("eps", "0.3"), Setting("eps", "0.03")
RIGHT = {BASE: 0.5, OWN: 0.8, BETTER: 0.99, SAME: 0.8}
AXIS = Axis("eps", "eps", ("0.03", "0.1", "0.3"), {}, "0.1")


def answers(setting: Setting, seed: int) -> dict[str, Any]:
    """Every item right under all conditions or wrong in the last one."""
    found = {}
    for task in TASKS:
        # A value that differs from the config's own in its name alone answers as the config does.
        rng = random.Random(f"{task} {seed} {RIGHT[setting]}")
        right = [rng.random() < RIGHT[setting] for _ in range(ITEMS)]
        conditions = benchmark(task).conditions
        parsed = {name: ["A"] * ITEMS for name in conditions}
        parsed[conditions[-1]] = ["A" if one else rng.choice(["B", None]) for one in right]
        found[task] = {"items": [f"i{n}" for n in range(ITEMS)], "gold": ["A"] * ITEMS, "parsed": parsed}
    return found


@pytest.fixture(scope="module")
def runs() -> list[Trial]:
    settings = [(setting, seed) for seed in range(3) for setting in (OWN, BETTER, SAME)]
    return [Trial(setting, seed, answers(setting, seed), 0.5, 1.0) for setting, seed in [(BASE, 0), *settings]]


def shares(setting: Setting, task: str) -> list[float]:
    last = benchmark(task).conditions[-1]
    return [answers(setting, s)[task]["parsed"][last].count("A") / ITEMS for s in range(1 if setting == BASE else 3)]


def test_numbers_are_means_over_seeds_and_items(runs: list[Trial]) -> None:
    found = analyse(runs)
    for setting in (BASE, OWN, BETTER, SAME):
        for outcome in (DIGITS, CAPITALS):
            by_seed = shares(setting, outcome.task)
            number = found.numbers[setting, outcome]
            assert number.seeds == pytest.approx(by_seed)
            assert number.value == pytest.approx(sum(by_seed) / len(by_seed))
            assert number.low < number.value < number.high
    # Sums have one condition: their reference.
    assert found.numbers[OWN, VQA].value == pytest.approx(sum(shares(OWN, VQA.task)) / 3)


def test_changes_are_paired_and_corrected(runs: list[Trial]) -> None:
    found = analyse(runs)
    assert {setting for setting, _ in found.changes} == {BETTER, SAME}
    for outcome in (DIGITS, CAPITALS, VQA):
        better, same = found.changes[BETTER, outcome], found.changes[SAME, outcome]
        by_seed = [a - b for a, b in zip(shares(BETTER, outcome.task), shares(OWN, outcome.task), strict=True)]
        assert better.seeds == pytest.approx(by_seed)
        assert better.value == pytest.approx(sum(by_seed) / 3)
        assert better.differs
        assert better.in_every_seed
        assert (same.value, same.differs) == (0, False)
        assert better.p_holm >= better.p


def test_document_says_what_the_numbers_say(runs: list[Trial]) -> None:
    provenance = {"base": "b", "config": "c", "options": [], "data": {"d": "e"}, "versions": {"torch": "9"}}
    made = Made("mmi sweep-train", "ours.yaml", 3, provenance)
    text = document([AXIS], analyse(runs), runs, made, "f.png")
    gain = 100 * (sum(shares(BETTER, TASKS[0])) - sum(shares(OWN, TASKS[0]))) / 3
    assert f"`0.1` over `0.3` costs {gain:.1f} points of the worst case on digits" in text
    assert "`0.1` over `0.03` makes no difference beyond chance on the worst case on digits" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| 0.1 (own)")]
    by_seed = shares(OWN, TASKS[0])
    assert f"({100 * min(by_seed):.1f} to {100 * max(by_seed):.1f})" in row
    assert "**better**" in text
    assert "**worse**" not in text

    nothing = [Trial(s, n, answers(OWN, n), None, 1.0) for n in range(3) for s in (OWN, SAME)]
    axis = Axis("eps", "eps", ("0.03", "0.1"), {}, "0.1")
    text = document([axis], analyse([*nothing, runs[0]]), [*nothing, runs[0]], made, "f.png")
    assert "the choice makes no difference beyond chance" in text


def test_of_what_is_ignored_less_is_better() -> None:
    """Of 120 digits, wrong without a text, the config's own ignores a right one on all, another setting on none."""
    made = []
    for setting, said in ((OWN, "B"), (BETTER, "A")):
        found = answers(setting, 0)
        parsed = found[TASKS[0]]["parsed"]
        parsed["clean"], parsed["matching_text"] = ["B"] * ITEMS, [said] * ITEMS
        made.append(Trial(setting, 0, found, None, 1.0))
    analysis = analyse([*made, replace(made[0], setting=BASE)])
    endpoint = analysis.endpoints[-1]
    assert (endpoint.measure.name, endpoint.more_is_better) == ("ignoring", False)
    assert [analysis.numbers[setting, endpoint].value for setting in (OWN, BETTER)] == [1, 0]
    provenance = {"base": "b", "config": "c", "options": [], "data": {"d": "e"}, "versions": {"torch": "9"}}
    axis = Axis("eps", "eps", ("0.1", "0.3"), {}, "0.1", ("matching_text",))
    text = document([axis], analysis, [*made, replace(made[0], setting=BASE)], Made("x", "y", 1, provenance), "f.png")
    assert "costs 100.0 points more of ignoring what is right under matching text on digits" in text
    (line,) = [line for line in text.splitlines() if line.startswith("- `0.3` instead of")]
    assert "on digits -100.0 points [-100.0, " in line and line.endswith("p < 0.001, **better**.")


def test_figure_draws_every_value_of_every_outcome(runs: list[Trial]) -> None:
    found = analyse(runs)
    (panel, *_) = sweep_figure([AXIS], found).axes
    drawn = [list(line.lines[0].get_ydata()) for line in panel.containers]
    for outcome, line in zip((DIGITS, CAPITALS, VQA), drawn, strict=True):
        settings = (SAME, OWN, BETTER)
        assert line == pytest.approx([100 * found.numbers[setting, outcome].value for setting in settings])


def test_figure_leaves_the_places_of_no_axis_empty(runs: list[Trial]) -> None:
    panels = sweep_figure([AXIS] * 5, analyse(runs)).axes
    assert [panel.axison for panel in panels] == [True] * 5 + [False]
