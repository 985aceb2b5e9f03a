"""kill -9 in a step or in a save, resume: the weights of a run that was never stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmi_plugin.trainers import run

ROOT = Path(__file__).parent.parent


@pytest.mark.long
def test_killed_runs_resume_bit_by_bit(tiny_llava: Path, tmp_path: Path) -> None:
    row = {"type": "text_heavy", "question": "Which?", "answer": "a", "options": ["a", "b"]}
    data = tmp_path / "data.json"
    data.write_text(json.dumps([{**row, "id": f"q{i}"} for i in range(6)]))
    command = [sys.executable, "-m", "tests.kill_runs", str(tiny_llava), str(tmp_path), str(data)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    killed = json.loads(done.stdout.splitlines()[-1])
    assert killed.pop("whole") is False and all(killed.values()) and len(killed) == 5
    whole = (tmp_path / "whole" / "model.safetensors").read_bytes()
    for name in killed:
        left = sorted(path.name for path in (tmp_path / f"{name}-as-left").glob("checkpoint-*"))
        expected = ["checkpoint-2", "checkpoint-4"] if name == "before-the-rotation" else ["checkpoint-2"]
        assert left == expected, name
        assert (tmp_path / name / "model.safetensors").read_bytes() == whole, name
        assert not (tmp_path / name / ".saving").exists()
        assert [path.name for path in (tmp_path / name).glob("checkpoint-*")] == ["checkpoint-5"]


def test_a_folder_that_is_no_whole_checkpoint_is_refused(
    tiny_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    half = tmp_path / "checkpoint-2"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    argv = ["--model_name_or_path", str(tiny_llava), "--output_dir", str(tmp_path / "out"), "--sources", "demo_arith"]
    argv += ["--mix", "0", "0", "1", "--use_cpu", "true", "--resume_from_checkpoint", str(half)]
    assert run.main(argv) == 2
    assert f"no whole checkpoint in {half}" in capsys.readouterr().err
