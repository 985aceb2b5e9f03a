"""The reference asked again: what it asks, in which batches, and where its flip rate stands."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmi_plugin.conditions import FLOOR, REFERENCE, Pools, for_family, get, perturbing
from mmi_plugin.harness.launcher import main
from mmi_plugin.item import FAMILIES, Item, image_hash, user_text
from mmi_plugin.models.order import OrderKey, batches, order_key
from mmi_plugin.report.board import build
from mmi_plugin.report.table import table
from mmi_plugin.results import Record
from mmi_plugin.results.measures import Measure, per_item
from mmi_plugin.results.outcomes import Outcomes
from mmi_plugin.results.runs import read_runs
from tests.harness_runs import OUR_MODEL, arguments, save_varied
from tests.leaderboard_boards import board, leaderboard, number


@pytest.mark.parametrize("family", FAMILIES)
def test_it_asks_what_the_reference_asks(family: str) -> None:
    item = Item("i1", family, "What is it?", "cat", ("cat", "dog"), image=Image.new("RGB", (6, 6), "red"))
    pools = Pools(canvas=16)
    for seed in range(3):
        again, reference = (get(name)(item, seed, pools) for name in (FLOOR, REFERENCE[family]))
        assert user_text(again) == user_text(reference)
        assert image_hash(again.image) == image_hash(reference.image)
    assert FLOOR not in for_family(family), "nobody pays for it who did not ask"
    assert perturbing(("clean", FLOOR, "black")) == ("clean", "black")


def test_it_is_asked_in_batches_of_its_own() -> None:
    rows = [
        {"condition": name, "image_key": f"image{item}", "prompt": "x" * (50 + item)}
        for item in range(20)
        for name in ("clean", "misleading_text", FLOOR)
    ]
    found = list(batches(list(map(order_key, rows)), 8))
    kinds = [{rows[place]["condition"] == FLOOR for place in batch} for batch in found]
    assert {True} in kinds and {False} in kinds and {True, False} not in kinds
    assert order_key(rows[0], "{}") == OrderKey("{}", "image0", 50)


def test_it_counts_in_no_mean_and_no_worst_case() -> None:
    """Three items: right everywhere; flipped by a text alone; flipped by being asked again alone."""
    answers = {"clean": "AAA", "misleading_text": "ABA", FLOOR: "AAB"}
    records = [
        Record(f"i{item}", condition, 0, "A", letter, letter, None)
        for condition, letters in answers.items()
        for item, letter in enumerate(letters)
    ]
    outcomes = Outcomes.of("t", "image_heavy", tuple(answers), records)
    found = {measure: one.values.tolist() for measure, one in per_item(outcomes).items()}
    assert found[Measure("flip_rate", FLOOR)] == [0, 0, 1]
    assert found[Measure("flip_rate")] == found[Measure("flip_rate", "misleading_text")] == [0, 1, 0]
    assert found[Measure("worst_case")] == [1, 0, 1]
    silent = [replace(one, parsed=None) if one.condition == FLOOR else one for one in records]
    measured = per_item(Outcomes.of("t", "image_heavy", tuple(answers), silent))
    assert np.array_equal(measured[Measure("unparseable")].values, [0, 0, 0])


@pytest.fixture(scope="module")
def floored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `--floor` adds to a run in fp32."""
    folder = tmp_path_factory.mktemp("floor")
    checkpoint = save_varied(folder / "model", letters_only=True)
    more = "--batch_size", "8", "--gen_kwargs", "max_new_tokens=1"
    run = [*OUR_MODEL, *arguments(checkpoint, "mmi_demo_digits,mmi_demo_arith", folder / "out", *more)]
    assert main([*run, "--floor"]) == 0
    return folder / "out"


def test_in_fp32_nothing_flips_by_arithmetic_and_every_report_says_so(floored: Path, tmp_path: Path) -> None:
    content = board(tmp_path, f"A={floored}")
    floor = number(content, "A", "mmi_demo_digits", "flip_rate", FLOOR)
    assert floor["value"] == 0 and floor["low"] == 0 and 0 < floor["high"] < 0.5, "with an interval"
    others = number(content, "A", "mmi_demo_digits", "flip_rate", "misleading_text")
    assert others["value"] > 0, "other flips stand beside it"
    shown = table(build(read_runs([f"A={floored}"])), ["A"])
    header, again, _, row = shown.splitlines()[2:6]
    assert "asked" in header and "again" in again and row.split()[-1] == "0.0"
    assert "by arithmetic alone" in shown
    page = tmp_path / "page.html"
    assert leaderboard(f"A={floored}", "--html", page) == 0
    assert "asked again" in page.read_text()
    results = json.loads(next(floored.rglob("*_results.json")).read_text())
    assert results["results"]["mmi_demo_digits"][f"flip_rate/{FLOOR},none"] == 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["tasks", "list", "--floor"], "--floor adds to an evaluation: it needs --model and --tasks"),
        (["--model", "mmi_hf", "--tasks", "mmmu_val", "--floor"], "--tasks names none of them"),
    ],
)
def test_a_floor_of_nothing_is_refused(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flags) == 2
    assert said in capsys.readouterr().err
