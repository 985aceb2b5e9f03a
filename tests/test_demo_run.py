"""The demonstration end to end: the shipped base, the real harness, a few steps of the real trainer."""

import json
from pathlib import Path

import pytest

from mmi_plugin import cli
from mmi_plugin.studies.demo import TRAINED, WEIGHTS, AblationRow, base_folder, demo


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo of ours with three training steps; the base is evaluated in full."""
    out = tmp_path_factory.mktemp("demo")
    demo(out, ["ours"], 1, train_options=("--max_steps", "3"))
    return out


def test_base_is_competent_and_misled(finished: Path) -> None:
    vanilla = json.loads((finished / "demo.json").read_text())["rows"][0]
    assert vanilla["name"] == "vanilla"
    assert min(vanilla["n"].values()) >= 300
    accuracy = vanilla["accuracy"]
    assert accuracy["mmi_demo_digits/clean"] >= 0.95
    assert accuracy["mmi_demo_digits/misleading_text"] <= 0.10
    assert accuracy["mmi_demo_capitals/random_pixels"] >= 0.97
    assert accuracy["mmi_demo_arith/clean"] >= 0.95
    assert accuracy["mmi_demo_capitals/white"] <= 0.80
    assert accuracy["mmi_demo_capitals/misleading_image"] <= 0.50


def test_what_the_demo_leaves(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads((finished / "demo.json").read_text())
    assert [row["name"] for row in found["rows"]] == ["vanilla", "ours"]
    assert set(found["rows"][1]) >= {"name", "seed", "seconds", "accuracy", "flip_rate", "worst_case", "n"}
    assert set(found["config"]) == {"ours"}
    assert "torch" in found["versions"]
    assert (finished / "ours-0" / "checkpoint" / WEIGHTS).is_file()
    page = (finished / "report.html").read_text()
    assert "misleading" in page
    # A second run keeps every finished row.
    before = (finished / "ours-0" / "row.json").stat().st_mtime_ns
    demo(finished, ["ours"], 1, train_options=("--max_steps", "3"))
    assert (finished / "ours-0" / "row.json").stat().st_mtime_ns == before
    printed = capsys.readouterr().out
    assert "Vanilla" in printed
    assert f"report: {finished / 'report.html'}" in printed


def test_key_follows_everything_that_decides_a_row(tmp_path: Path) -> None:
    job = AblationRow("ours", 0, base_folder(), tmp_path)
    others = [
        AblationRow("js", 0, base_folder(), tmp_path),
        AblationRow("ours", 1, base_folder(), tmp_path),
        AblationRow("ours", 0, base_folder(), tmp_path, ("--max_steps", "3")),
    ]
    keys = [json.dumps(one.key, sort_keys=True) for one in (job, *others)]
    assert len(set(keys)) == 4


def test_every_row_has_its_config() -> None:
    assert all(AblationRow(name, 0, Path(), Path()).config.is_file() for name in TRAINED)


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "--out", str(tmp_path), "--rows", "our"]) == 2
    assert "unknown row 'our': did you mean 'ours'?" in capsys.readouterr().err
    assert cli.main(["demo", "--out", str(tmp_path), "--seeds", "0"]) == 2
    assert "--seeds is 0" in capsys.readouterr().err


def test_a_failed_training_fails_the_demo_and_names_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = AblationRow("ours", 0, base_folder(), tmp_path, ("--learning_rate", "fast")).job()
    monkeypatch.setattr(AblationRow, "job", lambda self: wrong)
    assert cli.main(["demo", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "error: ours, seed 0: InputError: " in said and "fast" in said
    assert f"(log: {wrong.log})" in said and "Traceback" in wrong.log.read_text(encoding="utf-8")
