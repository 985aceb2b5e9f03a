"""The ready files of accelerate and DeepSpeed: accelerate reads them, and what they name is there."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from mmi_plugin.trainers.saving import GATHER

CONFIGS = Path(str(resources.files("mmi_plugin.configs")))
ACCELERATE = sorted((CONFIGS / "accelerate").glob("*.yaml"))
ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("path", ACCELERATE, ids=lambda path: path.stem)
def test_accelerate_reads_it(path: Path) -> None:
    config = load_config_from_file(str(path))  # raises on a key that it does not know
    fields = yaml.safe_load(path.read_text())
    assert config.num_processes == fields["num_processes"]
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert f"accelerate launch --config_file configs/accelerate/{path.name} " in head[0]
    named = fields.get("deepspeed_config", {}).get("deepspeed_config_file")
    assert named is None or (ROOT / named).is_file()


def test_every_layout_has_a_file() -> None:
    assert {path.stem for path in ACCELERATE} >= {"single", "ddp", "fsdp2", "zero2", "zero3", "multi_node"}


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_files_are_of_their_stage_and_save_the_model(stage: int) -> None:
    files = sorted((CONFIGS / "deepspeed").glob(f"zero{stage}*.json"))
    assert files
    for path in files:
        zero = json.loads(path.read_text())["zero_optimization"]
        assert zero["stage"] == stage
        assert stage == 2 or zero[GATHER] is True
