"""Whole runs of the real trainer: what must not change the weights, and what must."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForImageTextToText, AutoProcessor

from mmi_plugin.trainers import run
from tests import training

# The tiny model's answers are nearly uniform, so a consistency that counts needs a large weight.
ALL_PARTS = {"mix": [1, 1, 2], "consistency_weight": 1e4, "max_steps": 3, **training.OURS}


@pytest.mark.parametrize(("batch", "accumulated"), [(2, 2), (1, 4)])
def test_accumulation_equals_the_large_batch(tiny_llava: Path, tmp_path: Path, batch: int, accumulated: int) -> None:
    """Micro-batches of unlike families: the parts of the loss have unlike denominators. SGD, as
    Adam's first step would hide a wrong scale; gradient clipping off for the same reason."""
    fields = {**ALL_PARTS, "optim": "sgd", "learning_rate": 1e-2, "max_grad_norm": 0.0}
    start = training.weights(training.trainer(training.config(tiny_llava, tmp_path / "s")))
    whole = training.trained(tiny_llava, tmp_path / "a", per_device_train_batch_size=4, **fields)
    parts = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulated}
    pieces = training.trained(tiny_llava, tmp_path / "b", **parts, **fields)
    assert training.largest_difference(whole, start) > 1e-3
    assert training.largest_difference(whole, pieces) < 1e-5


def test_one_seed_gives_one_result_and_another_gives_another(tiny_llava: Path, tmp_path: Path) -> None:
    fields = {**ALL_PARTS, "per_device_train_batch_size": 4}
    first = training.trained(tiny_llava, tmp_path / "a", **fields)
    again = training.trained(tiny_llava, tmp_path / "b", **fields)
    other = training.trained(tiny_llava, tmp_path / "c", seed=1, **fields)
    assert training.largest_difference(first, again) == 0.0
    assert training.largest_difference(first, other) > 1e-5


@pytest.mark.parametrize("stop", [2, 3, 4], ids=["inside-an-epoch", "between-epochs", "inside-the-second"])
@pytest.mark.parametrize("tuned", [{}, {"lora_r": 4, "lora_dropout": 0.1}], ids=["full", "lora"])
def test_resuming_equals_never_having_stopped(tiny_llava: Path, tmp_path: Path, stop: int, tuned: dict) -> None:
    """Three steps make an epoch of this small data set; five are trained."""
    rows = [
        {"id": f"q{i}", "type": "text_heavy", "question": f"Which is number {i}?", "answer": "a", "options": ["a", "b"]}
        for i in range(6)
    ]
    data = tmp_path / "data.json"
    data.write_text(json.dumps(rows))
    fields = {
        **training.OURS,
        "sources": None,
        "train_file": str(data),
        "mix": [0, 1, 0],
        "per_device_train_batch_size": 2,
        "max_steps": 5,
        "learning_rate": 1e-2,
        **tuned,
    }
    whole = training.trained(tiny_llava, tmp_path / "whole", **fields)
    saved = training.config(tiny_llava, tmp_path / "cut", **fields, save_strategy="steps", save_steps=stop)
    run.train(saved)
    for later in {2, 3, 4, 5} - {stop}:  # as if the run had been killed after the save at `stop`
        shutil.rmtree(tmp_path / "cut" / f"checkpoint-{later}", ignore_errors=True)
    resumed = run.train(training.config(tiny_llava, tmp_path / "cut", **fields, resume_from_checkpoint="true"))
    assert resumed.state.global_step == 5
    assert training.largest_difference(whole, training.weights(resumed)) == 0.0


@pytest.mark.parametrize(
    "switch",
    [{"gradient_checkpointing": True}, {"dataloader_num_workers": 1}, {"pack_rows": False}],
    ids=lambda s: next(iter(s)),
)
def test_what_saves_memory_or_time_changes_nothing(tiny_llava: Path, tmp_path: Path, switch: dict) -> None:
    fields = {**training.OURS, "consistency_weight": 1e4, "optim": "sgd", "learning_rate": 1e-2, "max_grad_norm": 0.0}
    plain = training.trained(tiny_llava, tmp_path / "a", **fields)
    switched = training.trained(tiny_llava, tmp_path / "b", **fields, **switch)
    assert training.largest_difference(plain, switched) < 1e-6


def test_the_vision_tower_stays_and_the_rest_learns(tiny_llava: Path, tmp_path: Path) -> None:
    before = training.weights(training.trainer(training.config(tiny_llava, tmp_path / "a")))
    after = training.trained(tiny_llava, tmp_path / "b", weight_decay=0.1)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert not {name for name in changed if "vision_tower" in name}
    assert {"model.multi_modal_projector.linear_1.weight", "lm_head.weight"} <= changed
    thawed = training.trained(tiny_llava, tmp_path / "c", freeze="none")
    assert any("vision_tower" in name and not torch.equal(before[name], thawed[name]) for name in before)


def test_lora_trains_adapters_of_the_decoder_alone(tiny_llava: Path, tmp_path: Path) -> None:
    run_ = training.trainer(training.config(tiny_llava, tmp_path, lora_r=4, **training.OURS))
    before = training.weights(run_)
    run_.train()
    after = training.weights(run_)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all("lora_" in name and "language_model" in name for name in changed)
    run_.save_model()
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert any("lora_B" in name and p.any() for name, p in loaded.named_parameters())


def test_the_result_loads_and_says_how_it_was_made(tiny_llava: Path, tmp_path: Path) -> None:
    args = training.config(tiny_llava, tmp_path, report_to="tensorboard", seed=5, **training.OURS)
    trained = run.train(args)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(value, trained.model.state_dict()[name]), name
    assert AutoProcessor.from_pretrained(tmp_path).chat_template
    assert (tmp_path / "model.safetensors").is_file() and load_file(tmp_path / "model.safetensors")
    record = json.loads((tmp_path / "training.json").read_text())
    assert record["config"]["adversary"] == "pgd" and record["seeds"] == {"seed": 5, "data_seed": 5}
    assert len(record["data"]["hash"]) == 64 and record["versions"]["torch"] == torch.__version__.split("+")[0]
    assert record["conditions"]["text_heavy"][0] == "random_pixels"


def test_tensorboard_gets_every_part(tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "tb"))
    training.trained(tiny_llava, tmp_path, report_to="tensorboard", **training.OURS)
    events = EventAccumulator(str(tmp_path / "tb")).Reload()
    names = (
        "loss_sft loss_adv loss_consistency attack_strength delta_norm learning_rate rows_per_second tokens_per_second"
    )
    for name in names.split():
        assert len(events.Scalars(f"train/{name}")) == 2, name


def test_the_logged_parts_make_the_loss(tiny_llava: Path, tmp_path: Path) -> None:
    fields = {**training.OURS, "adv_weight": 0.5, "consistency_weight": 3.0, "gradient_accumulation_steps": 2}
    run_ = training.trainer(training.config(tiny_llava, tmp_path, **fields))
    run_.train()
    logs = [log for log in run_.state.log_history if "loss_sft" in log]
    assert len(logs) == 2
    for log in logs:
        total = log["loss_sft"] + 0.5 * log["loss_adv"] + 3.0 * log["loss_consistency"]
        assert log["loss"] == pytest.approx(total, rel=1e-5)
        assert log["attack_strength"] > 0 and log["delta_norm"] > 0
