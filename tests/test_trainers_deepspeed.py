"""DeepSpeed ZeRO-2 and ZeRO-3 on two processes: the weights of one process on the same global batch."""

from __future__ import annotations

import importlib.util
import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from mmi_plugin.errors import InputError
from mmi_plugin.trainers import run
from mmi_plugin.trainers.config import MMIConfig
from tests import gathers, launches, training

READY = Path(str(resources.files("mmi_plugin.configs"))) / "deepspeed"
LORA = {"lora_r": 4, "lora_alpha": 64, "learning_rate": 0.3, "merge_lora": True, "base_share": 0.2}
SAVES = {"save_strategy": "steps", "save_steps": 1}
EVALUATION = {"eval_tasks": ["mmi_demo_digits"], "eval_tasks_items": 2, "eval_tasks_steps": 1}
# The first launch compiles an extension of DeepSpeed, for over a minute.
pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs deepspeed"),
    pytest.mark.long,
]


def settings(stage: str, folder: Path, **zero: Any) -> str:
    """Write a ready file with every weight sharded: the tiny ones would stay whole. Return its path."""
    content = json.loads((READY / f"{stage}.json").read_text())
    content["zero_optimization"] |= {"stage3_param_persistence_threshold": 0} if "3" in stage else {}
    content["zero_optimization"] |= zero
    path = folder / f"{stage}.json"
    path.write_text(json.dumps(content))
    return str(path)


@pytest.mark.parametrize(
    ("stage", "more"),
    [
        ("zero2", {}),
        ("zero3", {**SAVES, **EVALUATION}),
        ("zero3", {"gradient_checkpointing": True, "base_share": 0.2, "inner_gather": False}),
        ("zero3", LORA),
        ("zero3", {**LORA, "gradient_checkpointing": True}),
    ],
    ids=["zero2", "zero3", "zero3-checkpointing", "zero3-lora", "zero3-lora-checkpointing"],
)
def test_sharded_processes_make_the_update_of_one(tiny_llava: Path, tmp_path: Path, stage: str, more: dict) -> None:
    data = launches.write_data(tmp_path)
    fields = {**launches.FIELDS, **more, "model_name_or_path": str(tiny_llava), "train_file": str(data)}
    alone = {**fields, **launches.ALONE, "output_dir": str(tmp_path / "one")}
    trained = run.train(MMIConfig(**alone))
    sharded = {**fields, "output_dir": str(tmp_path / "two"), "deepspeed": settings(stage, tmp_path)}
    logs = launches.launch(2, tmp_path, sharded, {"DS_ACCELERATOR": "cpu"})
    one, two, start = (launches.saved(folder) for folder in (tmp_path / "one", tmp_path / "two", tiny_llava))
    assert training.largest_difference(one, start) > 1e-3
    assert training.largest_difference(one, two) < 1e-5
    steps = [log for log in trained.state.log_history if "loss" in log]
    assert [log["loss_adv"] for log in logs] == pytest.approx([step["loss_adv"] for step in steps], rel=2e-3)


@pytest.mark.parametrize("tokens", [None, 40], ids=["whole", "chunks"])
def test_the_inner_loop_gathers_the_decoder_once(tiny_llava: Path, tmp_path: Path, tokens: int | None) -> None:
    data, counts, losses = launches.write_data(tmp_path), {}, {}
    fields = {**launches.FIELDS, "model_name_or_path": str(tiny_llava), "train_file": str(data)}
    fields |= {"deepspeed": settings("zero3", tmp_path), "inner_tokens": tokens}
    for once in (True, False):
        told = {**fields, "inner_gather": once, "output_dir": str(tmp_path / f"once {once}")}
        losses[once] = launches.launch(2, tmp_path, told, {"DS_ACCELERATOR": "cpu"}, Path(gathers.__file__))
        counts[once] = json.loads((tmp_path / gathers.COUNTS).read_text())
    layers = json.loads((tiny_llava / "config.json").read_text())["text_config"]["num_hidden_layers"]
    weights = 9 * layers + 2  # of LLaMA, each gathered by itself; some are on their way when the loop begins
    assert len(counts[True]) == len(counts[False]) == 4  # two steps of two micro-batches
    assert max(counts[True]) <= weights and counts[False][0] >= 5 * 9 * layers, counts  # the prefix, four passes
    assert [log["loss"] for log in losses[True]] == [log["loss"] for log in losses[False]]
    one, other = (launches.saved(tmp_path / f"once {once}") for once in (True, False))
    assert training.largest_difference(one, other) < 1e-7


def test_a_resumed_sharded_run_goes_on_as_if_never_stopped(tiny_llava: Path, tmp_path: Path) -> None:
    data = launches.write_data(tmp_path)
    fields = {**launches.FIELDS, "model_name_or_path": str(tiny_llava), "train_file": str(data), **SAVES}
    fields |= {"deepspeed": settings("zero3", tmp_path), "output_dir": str(tmp_path / "out"), "max_steps": 2}
    launches.launch(2, tmp_path, fields, {"DS_ACCELERATOR": "cpu"})
    never = launches.saved(tmp_path / "out")
    for name in ("checkpoint-2", "model.safetensors"):
        (tmp_path / "out" / name).rename(tmp_path / name)
    resumed = {**fields, "resume_from_checkpoint": "true"}
    assert len(launches.launch(2, tmp_path, resumed, {"DS_ACCELERATOR": "cpu"})) == 1
    assert training.largest_difference(launches.saved(tmp_path / "out"), never) == 0.0


def test_a_run_that_could_not_be_saved_is_refused(
    tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    data = launches.write_data(tmp_path)
    path = settings("zero3", tmp_path, stage3_gather_16bit_weights_on_model_save=False)
    fields = {**launches.FIELDS, "model_name_or_path": str(tiny_llava), "train_file": str(data), "deepspeed": path}
    with pytest.raises(InputError, match="stage3_gather_16bit_weights_on_model_save"):
        run.train(MMIConfig(**{**fields, **launches.ALONE, "output_dir": str(tmp_path)}))
