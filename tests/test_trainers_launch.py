"""The launch script as a user runs it, in processes of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

TRAIN = Path(str(resources.files("mmi_plugin.trainers"))) / "train.py"
OURS = Path(str(resources.files("mmi_plugin.configs"))) / "demo" / "ours.yaml"


def launch(*argv: object, cwd: Path) -> subprocess.CompletedProcess:
    command = [str(Path(sys.executable).parent / "accelerate"), "launch", str(TRAIN), *map(str, argv)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def test_accelerate_launch_trains(tiny_llava: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = launch(
        "--config",
        OURS,
        "--model_name_or_path",
        tiny_llava,
        "--output_dir",
        out,
        "--max_steps",
        2,
        "--seed",
        3,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert {"model.safetensors", "config.json", "processor_config.json", "training.json"} <= {
        p.name for p in out.iterdir()
    }
    assert json.loads((out / "training.json").read_text())["config"]["max_steps"] == 2


def test_a_user_error_is_one_line_and_status_2(tmp_path: Path) -> None:
    command = [sys.executable, str(TRAIN), "--config", str(OURS), "--epss", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["error: command line: unknown field '--epss': did you mean 'eps'?"]
