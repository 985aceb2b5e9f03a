"""The terminal table, read back column by column and compared with the rows it was made from."""

from __future__ import annotations

import re
from collections.abc import Callable
from statistics import fmean

import pytest

from mmi_plugin.errors import InputError
from mmi_plugin.report.table import table
from tests.report_demo import ABLATION, demo

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


def figure(row: dict, field: str, key: str) -> float:
    """The expected percentage, straight from the row."""
    if field == "flip_rate":
        return 100 * fmean(share for name, share in row[field].items() if name.startswith(f"{key}/"))
    return 100 * row[field][key]


def printed(text: str, name: str) -> list[str]:
    """The cells of all lines that begin with a row's name, block after block."""
    lines = [line for line in text.splitlines() if line.startswith(f"{name} ")]
    return [cell for line in lines for cell in line.removeprefix(name).replace("|", " ").split()]


def test_two_rows_fit_in_one_block_and_hold_every_figure() -> None:
    rows = demo()["rows"]
    text = table(rows)
    assert max(map(len, text.splitlines())) <= 120
    assert text.count("Vanilla") == 1
    for row, name in zip(rows, ("Vanilla", "Ours"), strict=True):
        assert printed(text, name) == [f"{figure(row, *measure):.1f}" for measure in ORDER]


def test_several_seeds_show_mean_and_half_range() -> None:
    rows = demo(ABLATION, seeds=3)["rows"]
    text = table(rows)
    assert max(map(len, text.splitlines())) <= 120
    for name, label in (("ours", "Ours"), ("d_vqa", "D_VQA")):
        for cell, measure in zip(printed(text, label), ORDER, strict=True):
            values = [figure(row, *measure) for row in rows if row["name"] == name]
            mean, half = map(float, cell.split("±"))
            assert mean == pytest.approx(fmean(values), abs=0.0501)
            assert half == pytest.approx((max(values) - min(values)) / 2, abs=0.0501)
    assert "half the range over 3 seeds" in text
    assert all("±" not in cell for cell in printed(text, "Vanilla"))


def test_rows_stand_in_the_order_of_the_ablation_with_ours_last() -> None:
    rows = demo(("ours", "mse_of_mine", "adv", "vanilla", "d_aug"))["rows"]
    names = re.findall(r"^(\w+) ", table(rows).split("\n\n")[0], re.MULTILINE)
    assert names == ["Vanilla", "D_AUG", "ADV", "mse_of_mine", "Ours"]


def test_only_unseen_conditions_are_starred() -> None:
    text = table(demo()["rows"])
    assert re.findall(r"\S+\*", text.split("\n\n")[0]) == ["screenshot*", "text*"] and "clean*" not in text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_nine_data_sets_stay_inside_the_width_and_lose_nothing(width: int) -> None:
    rows = demo(ABLATION, seeds=3)["rows"]
    for row in rows:
        for field in ("accuracy", "flip_rate", "worst_case", "worst_case_seen", "unparseable", "n"):
            for copy_number in (2, 3):
                copies = {key.replace("_demo_", f"_demo{copy_number}_"): row[field][key] for key in row[field]}
                row[field] = {**copies, **row[field]}
    text = table(rows, width)
    assert max(map(len, text.splitlines())) <= width
    assert len(printed(text, "Ours")) == 3 * len(ORDER)


def test_answers_without_an_option_are_told() -> None:
    rows = demo()["rows"]
    assert "without an option" not in table(rows)
    rows[1]["unparseable"]["mmi_demo_arith"] = 0.05
    assert "Answers without an option on demo_arith, counted as wrong: Ours 5.0%." in table(rows)


Change = Callable[[list[dict]], object]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda rows: rows[1].pop("worst_case"), "rows, row 2: field 'worst_case' is missing"),
        (
            lambda rows: rows[1]["worst_case"].pop("mmi_demo_digits"),
            "row ours, seed 0: field 'worst_case' of mmi_demo_digits is None",
        ),
        (
            lambda rows: rows[1]["accuracy"].update({"mmi_demo_digits/clean": float("nan")}),
            "field 'accuracy' of mmi_demo_digits/clean is nan",
        ),
        (
            lambda rows: rows[1]["accuracy"].update({"mmi_demo_digits/clean": 97.5}),
            "is 97.5, not a share from 0 to 1",
        ),
        (
            lambda rows: rows[1]["n"].update(mmi_demo_arith=399),
            "row ours, seed 0: field 'n' of mmi_demo_arith is 399, not 400",
        ),
        (
            lambda rows: rows[1]["accuracy"].pop("mmi_demo_digits/clean"),
            "row ours, seed 0: field 'accuracy' differs from the first row in mmi_demo_digits/clean",
        ),
        (lambda rows: rows.append(rows[1]), "rows, row 3: ours with seed 0 is there twice"),
        (lambda rows: rows[0]["accuracy"].update({"mmi_demo_digits/clena": 1.0}), "did you mean 'clean'"),
        (lambda rows: rows.clear(), "there are none"),
    ],
)
def test_impossible_rows_are_named(damage: Change, message: str) -> None:
    rows = demo()["rows"]
    damage(rows)
    with pytest.raises(InputError) as raised:
        table(rows)
    assert message in str(raised.value) and "\n" not in str(raised.value)
