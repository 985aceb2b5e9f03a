"""bf16: autocast over fp32 weights, and weights that are bf16 themselves, against the reference in double precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from mmi_plugin.trainers.evaluation import EvaluationCallback
from mmi_plugin.trainers.trainer import MMITrainer
from tests import training
from tests.reference import Reference

FIELDS: dict[str, Any] = {
    **training.OURS,
    "step_rule": "l2",  # a sign would turn rounding into a whole step
    "pgd_steps": 2,
    "consistency_weight": 100.0,
    "max_grad_norm": 0.0,
    "max_steps": 1,
}
LORA = {"lora_r": 4, "lora_alpha": 8}
AUTOCAST = {"bf16": True}
BF16 = {"bf16": True, "model_init_kwargs": {"dtype": "bfloat16"}}
ASKED = {"eval_tasks": ["mmi_demo_digits"], "eval_tasks_items": 1}
# How far each gradient may be off, of its own norm: bf16 rounds by up to 0.004, and its sums do so several times.
# Measured: 6e-7 in fp32, 0.010 with autocast, 0.016 with bf16 weights.
CASES = {
    "fp32": ({}, 1e-5),
    "autocast": (AUTOCAST, 0.03),
    "autocast-checkpointing": ({**AUTOCAST, "gradient_checkpointing": True}, 0.03),
    "autocast-weight-gradients": ({**AUTOCAST, "skip_weight_gradients": False}, 0.03),
    "autocast-asked-before": ({**AUTOCAST, **ASKED}, 0.03),
    "autocast-lora": ({**AUTOCAST, **LORA}, 0.03),
    "weights": (BF16, 0.05),
    "weights-lora": ({**BF16, **LORA}, 0.05),
}


class Gradients(TrainerCallback):
    """Keeps the gradients of the last step, None where a parameter got none."""

    def __init__(self) -> None:
        self.found: dict[str, torch.Tensor | None] = {}

    def on_pre_optimizer_step(self, *_: Any, model: torch.nn.Module, **__: Any) -> None:
        trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
        self.found = {name: None if grad is None else grad.double() for name, grad in trained.items()}


def computed_in(run: MMITrainer) -> set[torch.dtype]:
    """The types that the decoder's layers will have computed in."""
    used: set[torch.dtype] = set()
    for name, module in run.model.named_modules():
        if name.endswith("mlp.down_proj") and "language_model" in name:
            module.register_forward_hook(lambda _, __, output: used.add(output.dtype))
    return used


@pytest.mark.parametrize("case", CASES)
def test_every_gradient_is_that_of_the_reference_but_for_rounding(tiny_llava: Path, tmp_path: Path, case: str) -> None:
    fields, tolerance = CASES[case]
    run = training.trainer(training.config(tiny_llava, tmp_path, **FIELDS, **fields))
    EvaluationCallback(run.args).attach(run)
    for name, parameter in run.model.named_parameters():
        if "lora_B" in name:  # at zero, lora_A would have no gradient
            torch.nn.init.normal_(parameter, std=0.1)
    groups, reference = training.step_groups(run), Reference.of(run)
    seeds, used, gradients = run.data_collator(groups)["seeds"], computed_in(run), Gradients()
    run.add_callback(gradients)
    run.train()

    loss = reference.loss(groups, seeds)
    loss.backward()
    assert used == ({torch.bfloat16} if fields.get("bf16") else {torch.float32})
    log = next(entry for entry in run.state.log_history if "loss" in entry)
    assert log["loss"] == pytest.approx(loss.item(), rel=tolerance / 10)
    wanted = {name: p.grad for name, p in reference.model.named_parameters()}
    assert len(gradients.found) == (16 if "lora_r" in fields else 24)
    off = {
        name: 1.0 if grad is None else ((grad - wanted[name]).norm() / wanted[name].norm()).item()
        for name, grad in gradients.found.items()
    }
    assert {name: value for name, value in off.items() if not value < tolerance} == {}
