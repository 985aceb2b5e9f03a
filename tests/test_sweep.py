"""`mmi sweep` as a user runs it, and its curve on the leaderboard."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from mmi_plugin.cli import main
from mmi_plugin.errors import InputError
from mmi_plugin.report.board import sweeps
from mmi_plugin.studies.sweep import expand
from tests.harness_runs import OUR_MODEL, arguments, save_varied
from tests.leaderboard_boards import board, leaderboard, number

SWEEP = "unrelated_text@sentences=0,2,10"
TASK = "mmi_demo_digits_unrelated_text_sentences"
ONE_TOKEN = ("--gen_kwargs", "max_new_tokens=1", "--batch_size", "16")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results folder of two random LLaVAs: a sweep, and beside it the plain task."""
    from mmi_plugin.harness.launcher import main as lmms_eval

    folder = tmp_path_factory.mktemp("sweep")
    for seed, name in ((0, "first"), (1, "second")):
        model = save_varied(folder / "models" / name, seed, letters_only=True)
        flags = ["--model_args", f"pretrained={model}", "--limit", "80", *ONE_TOKEN]
        assert main(["sweep", "mmi_demo_digits", SWEEP, "--out", str(folder / "out"), *flags]) == 0
    for name in ("first", "second"):
        plain = arguments(folder / "models" / name, "mmi_demo_digits", folder / "out", *ONE_TOKEN)
        assert lmms_eval([*OUR_MODEL, *plain]) == 0
    return folder / "out"


def asked(out: Path, model: str) -> list[dict[str, Any]]:
    """The logged samples of the sweep of one model."""
    (file,) = out.glob(f"*{model}/*_samples_{TASK}.jsonl")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_the_table_says_what_the_samples_say(out: Path) -> None:
    with (out / "sweep.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["model"].split("__")[-1] for row in rows} == {"first", "second"}
    assert {(row["task"], row["strength"]) for row in rows} == {(TASK, "sentences")}
    names = {"0": "unrelated_text@sentences=0", "2": "unrelated_text@sentences=2", "10": "unrelated_text"}
    for model in ("first", "second"):
        records = asked(out, model)
        clean = {row["item_id"]: row["parsed"] for row in records if row["condition"] == "clean"}
        assert len(clean) == 20
        for value, condition in names.items():
            found = [row for row in records if row["condition"] == condition]
            shares = {
                "accuracy": sum(row["parsed"] == row["gold"] for row in found) / 20,
                "flip_rate": sum(row["parsed"] != clean[row["item_id"]] for row in found) / 20,
            }
            for measure, share in shares.items():
                (row,) = [
                    r for r in rows if r["model"].endswith(model) and (r["value"], r["measure"]) == (value, measure)
                ]
                assert (float(row["share"]), row["condition"], row["n"]) == (pytest.approx(share), condition, "20")
                assert float(row["low"]) <= share <= float(row["high"])


def test_prompts_hold_as_many_sentences_as_asked_for(out: Path) -> None:
    lengths: dict[str, set[int]] = {}
    for row in asked(out, "first"):
        lengths.setdefault(row["condition"], set()).add(row["input"].split("Question:")[0].count(". "))
    assert lengths["unrelated_text@sentences=0"] == {0} == lengths["clean"]
    assert max(lengths["unrelated_text@sentences=2"]) < min(lengths["unrelated_text"])


def test_no_text_at_all_changes_no_answer(out: Path) -> None:
    with (out / "sweep.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if (row["value"], row["measure"]) == ("0", "flip_rate")]
    assert [float(row["share"]) for row in rows] == [0, 0]


def test_the_curve_is_on_the_leaderboard_and_in_no_ranking(out: Path, tmp_path: Path) -> None:
    curve = f"dose_{TASK}_unrelated_text@sentences"
    assert (out / f"{curve}.png").is_file() and (out / f"{curve}.svg").is_file()
    assert leaderboard(out, "--plots", tmp_path / "plots", "--html", tmp_path / "page.html") == 0
    drawn = {path.stem for path in (tmp_path / "plots").glob("*.svg")}
    assert curve in drawn and "bars_mmi_demo_digits" in drawn and f"bars_{TASK}" not in drawn
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert f'alt="{TASK}, n = 20 items: unrelated text@sentences with 95% intervals (thin line: clean)' in page
    content = board(tmp_path, out)
    for model in content["models"]:
        for over in ("image_heavy", "all"):
            for measure in ("worst_case", "reference_accuracy"):
                plain = number(content, model["name"], "mmi_demo_digits", measure)
                found = number(content, model["name"], over, measure)
                assert (found["value"], found["n"]) == (plain["value"], plain["n"])


def test_sweeps_are_conditions_that_differ_in_one_strength() -> None:
    found = sweeps(
        [
            "clean",
            "unrelated_text@sentences=20",
            "unrelated_text",
            "unrelated_text@sentences=4",
            "unrelated_text@sentences=4@position=after",
            "misleading_text",
            "instructed_misleading_text",
        ]
    )
    assert [(sweep.condition, sweep.parameter, dict(sweep.names)) for sweep in found] == [
        (
            "unrelated_text",
            "sentences",
            {4: "unrelated_text@sentences=4", 10: "unrelated_text", 20: "unrelated_text@sentences=20"},
        ),
        (
            "unrelated_text@sentences=4",
            "position",
            {"before": "unrelated_text@sentences=4", "after": "unrelated_text@sentences=4@position=after"},
        ),
    ]


def test_a_sweep_expands_to_the_reference_and_its_conditions() -> None:
    assert expand("instructed_unrelated_text@position=after@sentences=1,10") == (
        "clean",
        "instructed_unrelated_text@sentences=1@position=after",
        "instructed_unrelated_text@position=after",
    )
    assert expand("both@images=0,2") == ("clean", "both@images=0", "both@images=2")


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ("unrelated_text", "one strength needs several values"),
        ("unrelated_text@sentences=5", "one strength needs several values"),
        ("unrelated_text@sentences=1,2@position=before,after", "one strength needs several values"),
        ("unrelated_text@sentences=1,x", "strength 'sentences' is 'x'"),
        ("unrelated_text@sentences=1,1", "one or more different ones"),
        ("unrelatd_text@sentences=1,2", "did you mean 'unrelated_text'?"),
    ],
)
def test_a_bad_sweep_is_named(sweep: str, said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        expand(sweep)


def test_an_unknown_task_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["sweep", "mmi_demo_digts", SWEEP, "--out", str(tmp_path), "--model_args", "pretrained=x"]
    assert main(arguments) == 2
    assert capsys.readouterr().err == "error: no task 'mmi_demo_digts': did you mean 'mmi_demo_digits'?\n"
    assert main([*arguments[:1], "mmi_demo", *arguments[2:]]) == 2
    assert "asks no data set of this package" in capsys.readouterr().err
