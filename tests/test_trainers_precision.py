"""bf16: autocast over fp32 weights, and weights that are bf16 themselves, against the run in fp32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests import training

FIELDS: dict[str, Any] = {
    **training.OURS,
    "step_rule": "l2",  # a sign would turn rounding into a whole step
    "pgd_steps": 2,
    "consistency_weight": 100.0,
    "optim": "sgd",
    "learning_rate": 1.0,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
    "max_steps": 1,
}


def step(checkpoint: Path, out: Path, **fields: Any) -> tuple[dict[str, torch.Tensor], dict, set[torch.dtype], dict]:
    """The update of one step, its log, the types the decoder computed in and those of the weights."""
    run = training.trainer(training.config(checkpoint, out, **FIELDS, **fields))
    used: set[torch.dtype] = set()
    for layer in run.model.get_decoder().layers:
        layer.mlp.down_proj.register_forward_hook(lambda _, __, output: used.add(output.dtype))
    before = training.weights(run)
    run.train()
    after = training.weights(run)
    update = {name: before[name].float() - after[name].float() for name in before}
    return update, run.state.log_history[0], used, {value.dtype for value in run.model.parameters()}


@pytest.mark.parametrize(
    ("fields", "weights"),
    [
        ({"bf16": True}, torch.float32),
        ({"bf16": True, "gradient_checkpointing": True}, torch.float32),
        ({"bf16": True, "model_init_kwargs": {"dtype": "bfloat16"}}, torch.bfloat16),
    ],
    ids=["autocast", "autocast-checkpointing", "weights"],
)
def test_bf16_makes_the_step_of_fp32_but_for_rounding(
    tiny_llava: Path, tmp_path: Path, fields: dict, weights: torch.dtype
) -> None:
    exact, wanted, precise, _ = step(tiny_llava, tmp_path / "a")
    rounded, log, used, kept = step(tiny_llava, tmp_path / "b", **fields)
    assert (precise, used, kept) == ({torch.float32}, {torch.bfloat16}, {weights})
    for name in ("loss_sft", "loss_adv", "delta_norm"):
        assert log[name] == pytest.approx(wanted[name], rel=2e-2), name
    assert all(value.isfinite().all() for value in rounded.values())
    whole = [torch.cat([update[name].flatten() for name in sorted(update)]) for update in (exact, rounded)]
    assert torch.cosine_similarity(*whole, dim=0) > 0.98
    assert whole[1].norm().item() == pytest.approx(whole[0].norm().item(), rel=0.1)
