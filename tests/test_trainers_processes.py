"""Two processes and data parallelism: the weights of one process on the same global batch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from mmi_plugin.trainers import run
from mmi_plugin.trainers.config import MMIConfig
from tests import launches, training

STEPS = 5  # an epoch has 6


@pytest.fixture(scope="module")
def fields(tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("processes")
    data = launches.write_data(folder)
    saves = {"save_strategy": "steps", "save_steps": 2, "max_steps": STEPS}
    return {
        **launches.FIELDS,
        **saves,
        "model_name_or_path": str(tiny_llava),
        "train_file": str(data),
        "output_dir": str(folder / "two"),
    }


@pytest.fixture(scope="module")
def logs(fields: dict) -> list[dict[str, float]]:
    """Logs of the run in two processes."""
    return launches.launch(2, Path(fields["output_dir"]).parent, fields)


def test_two_processes_make_the_update_of_one(
    fields: dict, logs: list[dict[str, float]], tiny_llava: Path, tmp_path: Path
) -> None:
    alone = {**fields, **launches.ALONE, "output_dir": str(tmp_path / "one")}
    trained = run.train(MMIConfig(**alone))
    one, two, start = (launches.saved(Path(f)) for f in (alone["output_dir"], fields["output_dir"], tiny_llava))
    assert training.largest_difference(one, start) > 1e-3
    assert training.largest_difference(one, two) < 1e-5
    steps = [log for log in trained.state.log_history if "loss" in log]
    assert len(logs) == len(steps) == STEPS
    for name in ("loss", "loss_sft", "loss_adv", "loss_consistency", "attack_strength", "delta_norm"):
        assert [log[name] for log in logs] == pytest.approx([step[name] for step in steps], rel=2e-3), name


def test_a_resume_inside_an_epoch_equals_never_having_stopped(
    fields: dict, logs: list[dict[str, float]], tmp_path: Path
) -> None:
    whole, cut = Path(fields["output_dir"]), tmp_path / "cut"
    shutil.copytree(whole / "checkpoint-2", cut / "checkpoint-2")
    state = json.loads((cut / "checkpoint-2" / "trainer_state.json").read_text())
    assert 0 < state["epoch"] < 1
    resumed = launches.launch(2, tmp_path, {**fields, "output_dir": str(cut), "resume_from_checkpoint": "true"})
    assert len(resumed) == STEPS - 2
    assert [log["loss"] for log in resumed] == [log["loss"] for log in logs[2:]]
    ended, never = (load_file(folder / "model.safetensors") for folder in (cut, whole))
    assert training.largest_difference(ended, never) == 0.0
