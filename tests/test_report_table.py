"""The terminal table, read back column by column and compared with the answers it was made from."""

from __future__ import annotations

import re

import pytest

from mmi_plugin.report.table import table
from tests.report_demo import ABLATION, SHAPE, Demo, ablation

DIGITS = ("clean", "unrelated_text", "misleading_text", "ocr_text")
CAPITALS = ("random_pixels", "black", "white", "irrelevant_image", "screenshot")
ORDER = [
    *[("accuracy", f"mmi_demo_digits/{name}") for name in DIGITS],
    ("worst_case", "mmi_demo_digits"),
    ("flip_rate", "mmi_demo_digits"),
    *[("accuracy", f"mmi_demo_capitals/{name}") for name in CAPITALS],
    ("worst_case", "mmi_demo_capitals"),
    ("flip_rate", "mmi_demo_capitals"),
    ("accuracy", "mmi_demo_arith/clean"),
]


def figures(demo: Demo, name: str) -> list[list[float]]:
    """The expected percentages of every seed, column by column."""
    return [[100 * share for share in demo.by_seed(name, measure, *where.split("/"))] for measure, where in ORDER]


def printed(text: str, name: str) -> list[str]:
    """The cells of all lines that begin with a row's name, block after block."""
    lines = [line for line in text.splitlines() if line.startswith(f"{name} ")]
    return [cell for line in lines for cell in line.removeprefix(name).replace("|", " ").split()]


def test_two_rows_fit_in_one_block_and_hold_every_figure() -> None:
    demo = Demo()
    text = table(demo.board(), demo.names)
    assert max(map(len, text.splitlines())) <= 120
    assert text.count("Vanilla") == 1
    for name in demo.names:
        assert printed(text, name) == [f"{share:.1f}" for (share,) in figures(demo, name)]


def test_several_seeds_show_mean_and_half_range() -> None:
    demo = ablation()
    text = table(demo.board(), demo.names)
    assert max(map(len, text.splitlines())) <= 120
    for name in ("Ours", "D_VQA"):
        for cell, values in zip(printed(text, name), figures(demo, name), strict=True):
            mean, half = map(float, cell.split("±"))
            assert mean == pytest.approx(sum(values) / 3, abs=0.0501)
            assert half == pytest.approx((max(values) - min(values)) / 2, abs=0.0501)
    assert "half the range over 3 seeds" in text
    assert all("±" not in cell for cell in printed(text, "Vanilla"))


def test_rows_stand_in_the_order_that_is_asked_for() -> None:
    demo = Demo(("Vanilla", "D_AUG", "ADV", "Ours"))
    names = re.findall(r"^(\w+) ", table(demo.board(), demo.names).split("\n\n")[0], re.MULTILINE)
    assert names == ["Vanilla", "D_AUG", "ADV", "Ours"]


def test_only_unseen_conditions_are_starred() -> None:
    text = table(Demo().board(), Demo().names)
    assert re.findall(r"\S+\*", text.split("\n\n")[0]) == ["screenshot*", "text*"] and "clean*" not in text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_nine_data_sets_stay_inside_the_width_and_lose_nothing(width: int) -> None:
    copies = {task.replace("_demo_", f"_demo{n}_"): (40, kind[1]) for task, kind in SHAPE.items() for n in (2, 3)}
    demo = Demo(ABLATION, seeds=3, shape={**SHAPE, **copies})
    text = table(demo.board(), demo.names, width)
    assert max(map(len, text.splitlines())) <= width
    assert len(printed(text, "Ours")) == 3 * len(ORDER)


def test_answers_without_an_option_are_told() -> None:
    demo = Demo()
    assert "without an option" not in table(demo.board(), demo.names)
    demo = Demo()
    demo.answers["Ours"][0]["mmi_demo_arith"]["clean"][:20] = [None] * 20
    told = "Answers without an option on demo_arith, counted as wrong: Ours 5.0%."
    assert told in table(demo.board(), demo.names)
