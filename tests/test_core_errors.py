"""What is wrong is said in one line, in which nothing of others' texts moves the terminal's cursor or colours."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from mmi_plugin.cli import main as mmi
from mmi_plugin.harness.launcher import main as lmms_eval
from mmi_plugin.trainers.run import main as train

HOSTILE = "a\x1b[31m\x9b\u202eb"
EVALUATION = ("--model", "mmi_hf", "--tasks", "mmi_demo_arith", "--model_args", "pretrained=x", "--output_path")


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (mmi, ("leaderboard", HOSTILE)),
        (lmms_eval, (*EVALUATION, f"/proc/{HOSTILE}")),
        (train, ("--config", f"{HOSTILE}.yaml")),
    ],
)
def test_control_characters_are_spelt_out(
    command: Callable[[Sequence[str]], int], arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(list(arguments)) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and "⟨U+001B⟩[31m⟨U+009B⟩⟨U+202E⟩b" in said[0]
    assert not set(HOSTILE[1:-1]) & set(said[0]) - set("[31m")
