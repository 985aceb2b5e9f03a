"""`mmi sweep-train` as a user runs it: real trainings of two steps, asked by the real scorer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmi_plugin.cli import main
from mmi_plugin.studies.ablation import ask_checkpoint
from mmi_plugin.studies.demo import TASKS, base_folder
from mmi_plugin.studies.jobs import Job, make_all
from mmi_plugin.studies.plan import AXES
from tests.harness_runs import OUR_MODEL, arguments

STEPS = ("--max_steps", "2", "--warmup_steps", "0", "--logging_steps", "1")
LIMIT = 6
MATCHING = "image_heavy_conditions=clean:unrelated_text:misleading_text:matching_text"


def sweep(out: Path, *more: str) -> int:
    flags = ["--seeds", "1", "--only", "mask", "matching", "--limit", str(LIMIT), "--workers", "1"]
    return main(["sweep-train", "--config", "configs/demo/ours.yaml", "--out", str(out), *flags, *STEPS, *more])


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep_train")
    assert sweep(folder, "--docs", str(folder / "docs" / "found.md")) == 0
    return folder


def test_sweep_leaves_numbers_document_and_figure(out: Path) -> None:
    found = json.loads((out / "sweep.json").read_text(encoding="utf-8"))
    assert [run["setting"] for run in found["runs"]] == ["base", "own", "attack_mask=all", MATCHING]
    assert found["failed"] == {}
    assert all(run["n"][task] == LIMIT for run in found["runs"] for task in TASKS)
    trained = found["runs"][1:]
    assert all(run["attack_strength"] > 0 for run in trained)
    assert trained[0]["attack_strength"] != trained[1]["attack_strength"]
    text = (out / "docs" / "found.md").read_text(encoding="utf-8")
    assert "--only mask matching" in text
    assert "--max_steps 2" in text
    assert "`attack_mask`" in text
    assert (out / "docs" / "found.png").read_bytes().startswith(b"\x89PNG")
    assert not list((out / "work").iterdir())


def test_a_text_that_is_right_in_the_training_is_a_row_and_is_asked_of_all(out: Path) -> None:
    found = json.loads((out / "sweep.json").read_text(encoding="utf-8"))
    (trained,) = [run for run in found["runs"] if run["setting"] == MATCHING]
    assert trained["attack_strength"] > 0
    asked = json.loads((out / "runs" / "own-0.json").read_text(encoding="utf-8"))["result"]["answers"]
    digits = asked["mmi_demo_digits"]
    assert list(digits["parsed"])[-2:] == ["matching_text", "matching_text@picture=black"]
    assert "matching_text" not in asked["mmi_demo_capitals"]["parsed"]
    numbers = {(one["setting"], one["outcome"]): one["estimate"] for one in found["numbers"]}
    black = "accuracy under matching text@picture=black on digits"
    right = [
        letter == gold
        for letter, gold in zip(digits["parsed"][list(digits["parsed"])[-1]], digits["gold"], strict=True)
    ]
    assert numbers["own", black]["value"] == pytest.approx(sum(right) / LIMIT)
    wrong = [
        letter != gold
        for letter, plain, gold in zip(
            digits["parsed"]["matching_text"], digits["parsed"]["clean"], digits["gold"], strict=True
        )
        if plain != gold
    ]
    ignoring = numbers["own", "ignoring what is right under matching text on digits"]
    assert (ignoring["n"], ignoring["value"]) == (len(wrong), sum(wrong) / len(wrong) if wrong else None)
    text = (out / "ablations.md").read_text(encoding="utf-8")
    assert "| ignoring what is right under matching text on digits | accuracy under matching" in text
    assert "All settings were asked under `matching_text` and `matching_text@picture=black`, too" in text


def test_the_published_objective_against_ours(tmp_path: Path) -> None:
    axes = AXES.with_name("published.yaml")
    flags = ["--axes", str(axes), "--only", "profile", "--seeds", "1", "--limit", "2", "--workers", "1"]
    named = ["--out", str(tmp_path), "--title", "What theirs buys"]
    config = ["--config", "configs/demo/published.yaml"]
    assert main(["sweep-train", *config, *named, *flags, *STEPS]) == 0
    found = json.loads((tmp_path / "sweep.json").read_text(encoding="utf-8"))
    assert [run["setting"] for run in found["runs"]] == ["base", "own", "profile=ours"]
    text = (tmp_path / "ablations.md").read_text(encoding="utf-8")
    assert text.startswith("# What theirs buys\n") and "- `ours` instead of `published`: " in text


def test_finished_runs_are_kept_and_others_made_again(out: Path) -> None:
    files = sorted((out / "runs").glob("*.json"))
    before = {file.name: file.stat().st_mtime_ns for file in files}
    assert sweep(out) == 0
    assert {file.name: file.stat().st_mtime_ns for file in files} == before
    saved = json.loads((out / "runs" / "own-0.json").read_text(encoding="utf-8"))
    saved["key"]["base"] = "another"
    (out / "runs" / "own-0.json").write_text(json.dumps(saved), encoding="utf-8")
    assert sweep(out) == 0
    again = json.loads((out / "runs" / "own-0.json").read_text(encoding="utf-8"))
    assert again["result"]["answers"] == saved["result"]["answers"]
    assert again["key"]["base"] != "another"


def test_base_answers_as_in_the_harness(tmp_path: Path) -> None:
    from mmi_plugin.harness.launcher import main as lmms_eval
    from mmi_plugin.results.runs import read_run

    asked = ask_checkpoint(base_folder(), LIMIT, split="test")
    for task in TASKS:
        limit = str(LIMIT * len(asked[task]["parsed"]))
        flags = arguments(base_folder(), task, tmp_path / task, "--limit", limit, "--batch_size", "16")
        assert lmms_eval([*OUR_MODEL, *flags]) == 0
        logged = {(r.item_id, r.condition): r.parsed for r in read_run(tmp_path / task)[task].records}
        ours = {
            (item, name): letter
            for name, letters in asked[task]["parsed"].items()
            for item, letter in zip(asked[task]["items"], letters, strict=True)
        }
        assert ours == logged


def test_failed_run_is_named_and_the_rest_is_kept(tmp_path: Path) -> None:
    good = {"fields": None, "base": str(base_folder()), "work": str(tmp_path / "w"), "limit": 1}
    bad = good | {"base": str(tmp_path / "nothing")}
    function = "mmi_plugin.studies.ablation:train_and_ask"
    jobs = [
        Job(title, function, one, tmp_path / f"{title}.json", {"one": title}, tmp_path / f"{title}.log")
        for title, one in (("bad", bad), ("good", good))
    ]
    made, failed = make_all(jobs, 1)
    assert list(failed) == ["bad"] and "nothing" in failed["bad"]
    assert list(made) == [1] and made[1]["answers"][TASKS[0]]["items"] and jobs[1].kept() == made[1]
    assert "Traceback" in (tmp_path / "bad.log").read_text(encoding="utf-8") and jobs[0].kept() is None
