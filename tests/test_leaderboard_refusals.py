"""What cannot be compared or read is refused with the reason, and status 2."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.leaderboard_boards import DIGITS, board, edited, leaderboard, samples_file


def _refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Return the one line on stderr of a command that must exit with 2."""
    assert leaderboard(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


def _drop_item(rows: list[dict]) -> list[dict]:
    return [row for row in rows if row["item_id"] != rows[0]["item_id"]]


def _reseed(rows: list[dict]) -> list[dict]:
    return [{**row, "seed": 1} for row in rows]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"config": lambda c: c["dataset_kwargs"].update(seed=1), "rows": _reseed},
            "drawn with seed 0 and seed 1",
        ),
        ({"config": lambda c: c["metadata"].update(content_hash="f" * 64)}, "content hashes"),
        (
            {"config": lambda c: c["metadata"]["condition_versions"].update(misleading_text=7)},
            "condition 'misleading_text' has version 1 and version 7",
        ),
        ({"rows": _drop_item}, "1 items differ; item digits-0000 was asked of one only"),
    ],
)
def test_models_that_were_asked_different_things(
    evaluated: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict, reason: str
) -> None:
    other = edited(evaluated[1], tmp_path / "other", **change)
    line = _refused(capsys, f"one={evaluated[0]}", f"two={other}", "--csv", tmp_path / "no.csv")
    assert f"one and two cannot be compared on {DIGITS}: " in line and reason in line
    assert not (tmp_path / "no.csv").exists()


def test_models_that_were_asked_different_tasks(
    evaluated: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = edited(evaluated[1], tmp_path / "other", config=lambda config: config["metadata"].pop("content_hash"))
    line = _refused(capsys, f"one={other}", f"two={evaluated[0]}")
    assert line == (
        f"error: two and one cannot be compared: {DIGITS} was asked of two only (--common leaves such tasks out)"
    )
    found = board(tmp_path, f"one={other}", f"two={evaluated[0]}", "--common")
    assert sorted(found["tasks"]) == ["mmi_demo_arith", "mmi_demo_capitals"] and len(found["models"]) == 2


def test_an_incomplete_run(evaluated: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = edited(evaluated[0], tmp_path / "cut", rows=lambda rows: rows[:-1])
    line = _refused(capsys, cut)
    assert f"{cut}/" in line and f"{DIGITS}: item digits-" in line and "'ocr_text' has no record" in line


@pytest.mark.parametrize("shares", [[0.5, -0.1], [0.9, 0.9], "x", [float("nan"), 0.5], []])
def test_impossible_probabilities(
    evaluated: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], shares: object
) -> None:
    def spoil(rows: list[dict]) -> list[dict]:
        rows[2]["probabilities"] = shares
        return rows

    assert "row 3: field 'probabilities' is" in _refused(capsys, edited(evaluated[0], tmp_path / "bad", rows=spoil))


def test_missing_samples(evaluated: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(shutil.copytree(evaluated[0], tmp_path / "run"))
    samples_file(folder).unlink()
    assert "missing; run with --log_samples" in _refused(capsys, folder)


def test_names(evaluated: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = evaluated
    again = Path(shutil.copytree(one, tmp_path / "again"))
    assert "are both named" in _refused(capsys, one, again)
    assert "given twice" in _refused(capsys, f"a={one}", f"a={one}")

    def thinks(config: dict) -> None:
        config["reasoning_tags"] = [["<a>", "</a>"]]

    other = edited(one, tmp_path / "other", config=thinks)
    assert "a is given several times, for trainings with other seeds: tags of thoughts" in _refused(
        capsys, f"a={one}", f"a={other}"
    )
    assert "no model 'on': did you mean 'one'?" in _refused(capsys, f"one={one}", f"two={two}", "--baseline", "on")
    both = tmp_path / "both"
    for name, folder in zip("ab", evaluated, strict=True):
        shutil.copytree(folder, both / name)
    assert "one NAME is for one model" in _refused(capsys, f"x={both}")
    assert leaderboard(both) == 0


def test_nothing_there_and_nowhere_to_write(
    evaluated: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "holds no results of a run" in _refused(capsys, tmp_path / "none")
    (tmp_path / "file").write_text("")
    for option in ("--csv", "--json", "--md"):
        assert "cannot be written" in _refused(capsys, evaluated[0], option, tmp_path / "file" / "x")
    assert "cannot be written" in _refused(capsys, evaluated[0], "--plots", tmp_path / "file")
