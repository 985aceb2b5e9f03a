"""The adversary on the model's own decoder: ball, mask, and what it must leave alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from mmi_plugin.models.decoder import unwrap
from mmi_plugin.trainers.forward import ForwardPass, Prediction
from mmi_plugin.trainers.method import Adversary, masked_rms
from mmi_plugin.trainers.trainer import MMITrainer
from tests import training


def attacked(trainer: MMITrainer, batch: dict[str, Any]) -> tuple[Prediction, torch.Tensor, torch.Tensor]:
    """What one loss was computed from, delta and all, the embeddings that the attack saw, and the loss."""
    seen = {}
    run = ForwardPass.run

    def spy(*args: Any) -> Prediction:
        seen["predicted"] = run(*args)
        return seen["predicted"]

    def look(module: torch.nn.Module, args: tuple[Any, ...], call: dict[str, Any]) -> None:
        seen.setdefault("embeds", call["inputs_embeds"].detach())

    handle = unwrap(trainer.model).get_decoder().register_forward_pre_hook(look, with_kwargs=True)
    with patch.object(ForwardPass, "run", spy):
        loss = trainer.compute_loss(trainer.model, batch)
    handle.remove()
    return seen["predicted"], seen["embeds"], loss


def hooks_left(trainer: MMITrainer) -> int:
    """Hooks on the modules that the trainer enters (transformers keeps some of its own elsewhere)."""
    base = unwrap(trainer.model)
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in (base, base.base_model, base.get_decoder()))


@pytest.mark.parametrize("rule", ["raw", "sign", "l2"])
@pytest.mark.parametrize("mode", ["absolute", "relative"])
def test_delta_stays_in_its_ball_and_mask(tiny_llava: Path, tmp_path: Path, rule: str, mode: str) -> None:
    fields = {"adversary": "pgd", "step_rule": rule, "step_size": 1.0, "eps": 0.2, "eps_mode": mode, "pack_rows": False}
    trainer = training.trainer(training.config(tiny_llava, tmp_path, **fields))
    trainer.model.train()
    batch = trainer.data_collator(training.step_groups(trainer))
    attack, embeds, _ = attacked(trainer, batch)
    rows = batch["irrelevant"].any(1)
    assert attack.delta.shape[0] == rows.sum() == 7  # three image-heavy, four text-heavy, no VQA row
    mask = batch["irrelevant"][rows]
    assert not attack.delta[~mask].any()
    limit = 0.2 * (masked_rms(embeds[rows], mask) if mode == "relative" else torch.ones(7, 1, 1))
    assert (attack.delta.abs() <= limit).all()
    at_the_edge = (attack.delta.abs() == limit)[mask].float().mean().item()
    assert at_the_edge > 0.9 if rule == "sign" else at_the_edge < 1.0


def test_gaussian_noise_has_its_deviation_and_mask(tiny_llava: Path, tmp_path: Path) -> None:
    trainer = training.trainer(training.config(tiny_llava, tmp_path, adversary="rg", sigma=0.3))
    trainer.model.train()
    batch = trainer.data_collator(training.step_groups(trainer))
    attack, _, _ = attacked(trainer, batch)
    mask = batch["irrelevant"][batch["irrelevant"].any(1)]
    assert not attack.delta[~mask].any()
    assert attack.delta[mask].std().item() == pytest.approx(0.3, rel=0.05)
    assert abs(attack.delta[mask].mean().item()) < 0.02


@pytest.mark.parametrize("lora", [0, 4], ids=["full", "lora"])
def test_the_inner_loop_leaves_the_model_alone(tiny_llava: Path, tmp_path: Path, lora: int) -> None:
    trainer = training.trainer(training.config(tiny_llava, tmp_path, lora_r=lora, lora_dropout=0.5, **training.OURS))
    model = trainer.model.train()
    model.get_input_embeddings().eval()  # a module that is not in the mode of the others must stay so
    trainable = {name: p.requires_grad for name, p in model.named_parameters()}
    modes = {name: module.training for name, module in model.named_modules()}
    assert any(trainable.values()) and not all(trainable.values())

    _, _, loss = attacked(trainer, trainer.data_collator(training.step_groups(trainer)))

    assert all(p.grad is None for p in model.parameters())
    assert {name: p.requires_grad for name, p in model.named_parameters()} == trainable
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert not hooks_left(trainer)
    loss.backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} <= {
        n for n, on in trainable.items() if on
    }


def test_an_attack_that_fails_leaves_no_trace(
    tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = training.trainer(training.config(tiny_llava, tmp_path, **training.OURS))
    trainer.model.train()

    def fail(hidden: torch.Tensor) -> torch.Tensor:
        raise ArithmeticError("inside the inner loop")

    monkeypatch.setattr(trainer.model.lm_head, "forward", fail)
    with pytest.raises(ArithmeticError):
        trainer.compute_loss(trainer.model, trainer.data_collator(training.step_groups(trainer)))
    assert not hooks_left(trainer)
    assert all(module.training for module in trainer.model.get_decoder().modules())


def test_no_adversary_outside_training(tiny_llava: Path, tmp_path: Path) -> None:
    trainer = training.trainer(training.config(tiny_llava, tmp_path, **training.OURS))
    batch = trainer.data_collator(training.step_groups(trainer))
    trainer.model.eval()
    with torch.no_grad():
        trainer.compute_loss(trainer.model, batch)
    measured = trainer._meter.read(lambda sums: sums, rates=())
    assert "loss_sft" in measured and "loss_adv" not in measured


def test_sign_steps_attack_and_raw_steps_hardly_do(tiny_llava: Path, tmp_path: Path) -> None:
    """Mean attack strength over a few steps of a model that has begun to learn."""
    strength = {}
    for rule in ("sign", "raw"):
        fields = {**training.OURS, "eps": 0.1, "step_size": 0.1, "step_rule": rule, "max_steps": 30, "logging_steps": 5}
        run = training.trainer(training.config(tiny_llava, tmp_path / rule, **fields))
        run.train()
        strength[rule] = [log["attack_strength"] for log in run.state.log_history if "attack_strength" in log][-1]
    assert strength["sign"] > 0.01
    assert strength["sign"] > 2 * strength["raw"]


def test_a_row_is_attacked_alike_in_any_company() -> None:
    torch.manual_seed(0)
    embeds, seeds = torch.randn(3, 6, 4, dtype=torch.double), torch.tensor([5, 6, 7])
    mask = torch.arange(6) < torch.tensor([[2], [6], [4]])
    adversary = Adversary("pgd", "l2", step_size=0.05, eps=0.1, relative=True)

    def row_loss(moved: torch.Tensor) -> torch.Tensor:
        return moved.pow(3).sum((1, 2))

    together = adversary.perturb(embeds, mask, seeds, row_loss)
    alone = adversary.perturb(embeds[:1, :2], mask[:1, :2], seeds[:1], row_loss)
    torch.testing.assert_close(together[:1, :2], alone, rtol=0, atol=1e-15)
