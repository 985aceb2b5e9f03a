"""Ranking, files and tests of a leaderboard over real results folders, against the samples counted again."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
from collections import Counter
from itertools import product
from pathlib import Path

import pytest

from mmi_plugin.results.runs import newest_results
from tests.leaderboard_boards import DIGITS, board, leaderboard, number, samples, samples_file

CAPITALS, ARITH = "mmi_demo_capitals", "mmi_demo_arith"


def _right(folder: Path, task: str) -> dict[str, dict[str, bool]]:
    """Item -> condition -> right, read from the samples."""
    found: dict[str, dict[str, bool]] = {}
    for row in samples(folder, task):
        found.setdefault(row["item_id"], {})[row["condition"]] = row["parsed"] == row["gold"]
    return found


def _worst(folder: Path, task: str) -> float:
    rows = _right(folder, task).values()
    return sum(all(row.values()) for row in rows) / len(rows)


@pytest.fixture(scope="module")
def content(evaluated: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict:
    arguments = [f"{name}={folder}" for name, folder in zip(("one", "two"), evaluated, strict=True)]
    return board(tmp_path_factory.mktemp("board"), *arguments, "--baseline", "two")


def test_ranked_by_worst_case_over_the_perturbed_data_sets(content: dict, evaluated: list[Path]) -> None:
    worst = {
        name: (_worst(folder, DIGITS) + _worst(folder, CAPITALS)) / 2
        for name, folder in zip(("one", "two"), evaluated, strict=True)
    }
    assert worst["one"] != worst["two"], "equal models would prove nothing"
    for name, share in worst.items():
        assert number(content, name, "all", "worst_case")["value"] == pytest.approx(share)
    expected = sorted(worst, key=worst.get, reverse=True)
    assert [(row["rank"], row["name"]) for row in content["models"]] == [(1, expected[0]), (2, expected[1])]


def test_folders_of_one_name_are_seeds_of_one_model(evaluated: list[Path], tmp_path: Path) -> None:
    found, page = board(tmp_path, *(f"a={folder}" for folder in evaluated)), tmp_path / "board.html"
    (model,) = found["models"]
    assert model["trainings"] == [str(newest_results(folder).parent) for folder in evaluated]
    worst, own = [_worst(folder, DIGITS) for folder in evaluated], number(found, "a", DIGITS, "worst_case")
    assert own["value"] == pytest.approx(sum(worst) / 2) and own["seeds"] == 2
    assert own["seed_sd"] == pytest.approx(abs(worst[0] - worst[1]) / math.sqrt(2))
    reach = 12.7062 * own["seed_sd"] / math.sqrt(2)  # Student's quantile with one degree of freedom
    below, above = (math.hypot(own["value"] - own[end], reach) for end in ("items_low", "items_high"))
    ends = max(own["value"] - below, 0), min(own["value"] + above, 1)
    assert (own["low"], own["high"]) == pytest.approx(ends, rel=1e-4)
    assert leaderboard(*(f"a={folder}" for folder in evaluated), "--html", page) == 0
    text = page.read_text(encoding="utf-8")
    assert "over 2 seeds (standard deviation" in text and all(path in text for path in model["trainings"])


def test_agrees_with_the_numbers_of_the_harness(content: dict, evaluated: list[Path]) -> None:
    results = json.loads(newest_results(evaluated[0]).read_text(encoding="utf-8"))["results"]
    compared = 0
    for task in (DIGITS, CAPITALS, ARITH):
        for key, value in results[task].items():
            name, _, condition = key.removesuffix(",none").partition("/")
            if (
                isinstance(value, float)
                and not key.endswith("_stderr,none")
                and name not in ("items", "incomplete", "cut_off")
            ):
                assert number(content, "one", task, name, condition or None)["value"] == pytest.approx(value)
                compared += 1
    assert compared > 20


def test_each_difference_is_paired_by_item_and_tested(content: dict, evaluated: list[Path]) -> None:
    one, two = (_right(folder, DIGITS) for folder in evaluated)
    gained = sum(one[item]["clean"] and not two[item]["clean"] for item in one)
    lost = sum(two[item]["clean"] and not one[item]["clean"] for item in one)
    found = number(content, "one", DIGITS, "accuracy", "clean")
    n = gained + lost
    assert n > 0
    assert found["difference"] == pytest.approx((gained - lost) / len(one))
    tail = sum(math.comb(n, k) for k in range(min(gained, lost) + 1)) / 2**n
    assert found["p"] == pytest.approx(min(1, 2 * tail)) and found["test"] == "McNemar, exact"
    assert found["difference_low"] <= found["difference"] <= found["difference_high"]


def test_items_of_one_country_are_exchanged_together(content: dict, evaluated: list[Path]) -> None:
    one, two = (_right(folder, CAPITALS) for folder in evaluated)
    by_country: Counter[str] = Counter()
    for item in one:
        by_country[item.split("-")[1]] += one[item]["random_pixels"] - two[item]["random_pixels"]
    sums = [change for change in by_country.values() if change]
    totals = [abs(sum(map(math.prod, zip(signs, sums, strict=True)))) for signs in product((1, -1), repeat=len(sums))]
    found = number(content, "one", CAPITALS, "accuracy", "random_pixels")
    assert 0 < len(sums) < 15 and found["test"] == "sign-flip permutation"
    assert found["p"] == pytest.approx(sum(total >= abs(sum(sums)) for total in totals) / len(totals))


def test_holm_over_the_tests_of_the_worst_case_and_apart_from_them_over_all_others(content: dict) -> None:
    tested = sorted((row for row in content["numbers"] if row["p"] is not None), key=lambda row: row["p"])
    assert len(tested) == content["tests"] and {row["model"] for row in tested} == {"one"}
    primary = [row for row in tested if row["measure"] == "worst_case"]
    assert 0 < len(primary) == content["primary_tests"] < len(tested)
    for family in (primary, [row for row in tested if row not in primary]):
        highest = 0.0
        for index, row in enumerate(family):
            highest = max(highest, min(1.0, row["p"] * (len(family) - index)))
            assert row["p_holm"] == pytest.approx(highest)


def test_the_note_counts_both_families_of_tests(evaluated: list[Path], tmp_path: Path, content: dict) -> None:
    path = tmp_path / "board.md"
    assert (
        leaderboard(*(f"{n}={f}" for n, f in zip("ab", evaluated, strict=True)), "--baseline", "a", "--md", path) == 0
    )
    primary = content["primary_tests"]
    said = f"over {primary} tests of the worst case, and apart from them over {content['tests'] - primary} others"
    assert said in " ".join(path.read_text(encoding="utf-8").split())


def test_no_baseline_no_differences(evaluated: list[Path], tmp_path: Path) -> None:
    assert leaderboard(*evaluated, "--json", tmp_path / "deep" / "board.json") == 0
    found = json.loads((tmp_path / "deep" / "board.json").read_text(encoding="utf-8"))
    assert found["tests"] == 0 and {row["difference"] for row in found["numbers"]} == {None}
    assert {row["name"] for row in found["models"]} == {"evaluated00__model", "evaluated10__model"}


def test_shuffled_samples_give_the_same_board(content: dict, evaluated: list[Path], tmp_path: Path) -> None:
    folders = [Path(shutil.copytree(folder, tmp_path / name)) for folder, name in zip(evaluated, "ab", strict=True)]
    path = samples_file(folders[0])
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[::-1]), encoding="utf-8")
    again = board(tmp_path, f"one={folders[0]}", f"two={folders[1]}", "--baseline", "two")
    assert again["numbers"] == content["numbers"]


def test_csv_and_json_hold_the_same_numbers(content: dict, evaluated: list[Path], tmp_path: Path) -> None:
    one, two = evaluated
    assert leaderboard(f"one={one}", f"two={two}", "--baseline", "two", "--csv", tmp_path / "board.csv") == 0
    with (tmp_path / "board.csv").open(encoding="utf-8", newline="") as lines:
        found = list(csv.DictReader(lines))
    expected = [
        {name: "" if value is None else str(value) for name, value in row.items()} for row in content["numbers"]
    ]
    assert found == expected


def test_markdown_and_terminal(evaluated: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "board.md"
    one, two = evaluated
    assert leaderboard(f"a|b<i>\n={one}", f"two={two}", "--baseline", "two", "--md", path) == 0
    text, shown = path.read_text(encoding="utf-8"), capsys.readouterr().out
    assert r"a\|b&lt;i&gt;" in text and "<i>" not in text and "two (baseline)" in text
    share = number(board(tmp_path, one), "evaluated00__model", DIGITS, "accuracy", "misleading_text")
    interval = f"{100 * share['value']:.1f} [{100 * share['low']:.1f}, {100 * share['high']:.1f}]"
    (line,) = [line for line in text.splitlines() if line.startswith("| accuracy: misleading text ")]
    assert interval in line and "accuracy: ocr text\\*" not in text and "accuracy: ocr text*" in text
    assert "a|b<i>" in shown and "worst case" in shown
    assert len({len(line) for line in shown.splitlines() if line.startswith("|")}) == 1, "columns are aligned"


def test_runs_of_different_tasks_in_one_folder_are_one_model(evaluated: list[Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(evaluated[0], tmp_path / "run"))
    old = newest_results(folder)
    whole = json.loads(old.read_text(encoding="utf-8"))
    for stamp, tasks in (("20200101_000000", (DIGITS, ARITH)), ("20200102_000000", (CAPITALS,))):
        part = whole | {"configs": {task: whole["configs"][task] for task in tasks}}
        old.with_name(f"{stamp}_results.json").write_text(json.dumps(part), encoding="utf-8")
        for task in tasks:
            shutil.copy(samples_file(evaluated[0], task), old.with_name(f"{stamp}_samples_{task}.jsonl"))
    old.unlink()
    assert set(board(tmp_path, folder)["tasks"]) == {DIGITS, CAPITALS, ARITH}


def test_probabilities_in_the_samples_give_the_causal_effect(evaluated: list[Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(evaluated[0], tmp_path / "run"))
    rows = samples(folder)
    for index, row in enumerate(rows):
        row["probabilities"] = [0.25] * 4 if row["condition"] == "clean" else [1.0, 0, 0, 0] if index % 8 < 4 else None
        row["probabilities"] = row["probabilities"] or [0.25] * 4
    samples_file(folder).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = number(board(tmp_path, f"m={folder}"), "m", DIGITS, "tv", "misleading_text")
    items = len(rows) // 4
    assert found["value"] == pytest.approx(0.75 * math.ceil(items / 2) / items) and found["n"] == items


def test_latex_is_the_ranking_that_the_terminal_shows(
    evaluated: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert leaderboard(f"a_b={evaluated[0]}", f"50%={evaluated[1]}", "--latex", tmp_path / "board.tex") == 0
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| 1") or line.startswith("| 2")]
    text = (tmp_path / "board.tex").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith(("1 &", "2 &"))]
    assert text.startswith("\\begin{tabular}{ll") and text.endswith("\\bottomrule\n\\end{tabular}\n")
    assert r"a\_b" in text and r"50\%" in text
    for row, line in zip(rows, shown, strict=True):
        plainly = re.sub(r"\\shortstack\[r\]{(\S+)\\\\ {\\scriptsize (\[.*?\])}}", r"\1 \2", row)
        plainly = plainly.replace(r" \\", "").replace("\\", "")
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert [cell.strip() for cell in plainly.split("&")] == [cell.replace("–", "--") for cell in cells]
