"""Runs of a leaderboard that were asked with other processors, templates, system prompts or decoding."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mmi_plugin.harness.launcher import main
from mmi_plugin.results.reading import SETUP
from mmi_plugin.results.runs import newest_results
from tests.harness_runs import OUR_MODEL, arguments, save_varied
from tests.leaderboard_boards import board, leaderboard

TASK = "mmi_demo_arith"
SHORT = ("--gen_kwargs", "max_new_tokens=2")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One model asked as it is, and in three other ways; a second model asked as the first."""
    root = tmp_path_factory.mktemp("runs")
    model, other = save_varied(root / "model"), save_varied(root / "other", seed=5)
    template = Path(shutil.copytree(model, root / "template")) / "chat_template.jinja"
    template.write_text(template.read_text(encoding="utf-8").replace("USER: ", "HUMAN: "), encoding="utf-8")
    asked = {
        "plain": (model, *SHORT),
        "other": (other, *SHORT),
        "template": (template.parent, *SHORT),
        "system": (model, *SHORT, "--system_instruction", "Be\nterse."),
        "decoding": (model, "--gen_kwargs", "max_new_tokens=1"),
    }
    for name, (checkpoint, *flags) in asked.items():
        assert main([*OUR_MODEL, *arguments(checkpoint, TASK, root / "out" / name, *flags, limit=6)]) == 0
    return {name: root / "out" / name for name in asked}


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ("template", "chat template of A and B: "),
        ("system", "system prompt of A and B: null and Be terse."),
        ("decoding", 'decoding of A and B: {"max_new_tokens": 2} and {"max_new_tokens": 1}'),
    ],
)
def test_a_test_between_runs_that_were_asked_in_different_ways_is_refused_unless_told(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], other: str, said: str
) -> None:
    both = f"A={runs['plain']}", f"B={runs[other]}"
    assert leaderboard(*both, "--baseline", "A") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --baseline: {said}")
    assert line.endswith("(--allow-different-prompts tests them all the same)")
    for flags in ((), ("--baseline", "A", "--allow-different-prompts")):
        found = board(tmp_path, *both, *flags)
        assert f"Not all were asked in the same way: {said[:20]}" in " ".join(capsys.readouterr().out.split())
        assert [row["words"] for row in found["differences"]] == [said.partition(" of A")[0]]
        assert found["unknown"] == []
        assert found["tests"] > 0 if flags else found["tests"] == 0


def test_only_what_is_tested_must_agree(runs: dict[str, Path], tmp_path: Path) -> None:
    three = [f"{name}={runs[name]}" for name in ("plain", "other")]
    found = board(tmp_path, *three, "--baseline", "plain", "--md", tmp_path / "board.md")
    assert (found["differences"], found["unknown"]) == ([], [])
    assert "asked in the same way" not in (tmp_path / "board.md").read_text(encoding="utf-8")
    assert found["models"][0]["setup"][TASK].keys() == SETUP.keys()


def test_old_results_say_nothing_and_are_compared(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = Path(shutil.copytree(runs["template"], tmp_path / "old"))
    path = newest_results(old)
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["mmi"]
    path.write_text(json.dumps(content), encoding="utf-8")
    found = board(tmp_path, f"A={runs['plain']}", f"B={old}", "--baseline", "A")
    assert {"processor", "chat template", "decoding"} <= set(found["unknown"])
    said = " ".join(capsys.readouterr().out.split())
    assert "Unknown of some, and so not compared: processor, " in said
