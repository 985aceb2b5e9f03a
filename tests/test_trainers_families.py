"""One training step of every family, full and LoRA, against the slow reference trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mmi_plugin.models import layout
from tests import families, training
from tests.reference import Reference

STEP = {
    "adversary": "pgd",
    "step_rule": "l2",  # a sign would turn rounding into a whole step
    "step_size": 0.2,
    "eps": 0.3,
    "eps_mode": "relative",
    "adv_weight": 0.7,
    "consistency": "js",
    "consistency_weight": 100.0,  # random models answer nearly uniformly
    "optim": "sgd",
    "learning_rate": 1.0,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
    "max_steps": 1,
}


@pytest.fixture(scope="module", params=families.cases())
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return families.save(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize(("lora", "shared"), [(0, False), (4, False), (0, True)], ids=["full", "lora", "shared"])
def test_one_step_equals_the_reference(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lora: int, shared: bool
) -> None:
    text = "after_image" if shared else "prompt"
    if shared:
        monkeypatch.setattr(layout, "MIN_SHARED", 0.01)  # the tiny rows have few image tokens
    trainer = training.trainer(
        training.config(checkpoint, tmp_path, lora_r=lora, lora_alpha=8, attack_text=text, **STEP)
    )
    if lora:  # the adapters begin at zero, where half of them has no gradient
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    groups = training.step_groups(trainer)
    reference = Reference.of(trainer)
    seeds = trainer.data_collator(groups)["seeds"]
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()

    expected = reference.loss(groups, seeds)
    expected.backward()
    log = trainer.state.log_history[0]
    assert log["loss"] == pytest.approx(expected.item(), rel=1e-5)
    gradients = {name: p.grad for name, p in reference.model.named_parameters() if p.grad is not None}
    assert sum(bool(gradients[name].any()) for name in before if name in gradients) >= (8 if lora else 15)
    for name, parameter in trainer.model.named_parameters():
        if name in before:
            update = (before[name] - parameter.detach()).double()
            wanted = gradients.get(name, torch.zeros_like(update))
            assert (update - wanted).norm() <= 1e-4 * wanted.norm() + 1e-6 * update.numel() ** 0.5, name


def test_a_replay_is_the_forward_and_moves_the_irrelevant_modality(checkpoint: Path, tmp_path: Path) -> None:
    trainer = training.trainer(training.config(checkpoint, tmp_path, **STEP))
    model = trainer.model.double().train()
    groups = training.step_groups(trainer)
    reference, seen = Reference.of(trainer), []

    class Still:
        """Moves nothing, and notes what it is told."""

        replays, pgd_loss = 2, "row_sum"

        def perturb(self, embeds: Any, mask: Any, seeds: Any, row_loss: Any, extra: Any) -> torch.Tensor:
            seen.extend(zip(seeds.tolist(), row_loss(embeds).tolist(), mask, embeds, strict=True))
            return torch.zeros_like(embeds)

    trainer._adversary = Still()
    batch = training.double(trainer.data_collator(groups))
    trainer.compute_loss(model, batch)

    rows = [item for group in groups for item in group.rows]
    attacked = {seed: item for seed, item in zip(batch["seeds"].tolist(), rows, strict=True) if item.family != "vqa"}
    assert {seed for seed, *_ in seen} == set(attacked) and len(seen) == 7
    for seed, loss, mask, embeds in seen:
        inputs, prompt = reference.inputs(attacked[seed])
        length = inputs["input_ids"].shape[1]
        logits, _ = reference.run(inputs, prompt)
        answer = inputs["input_ids"][0, prompt:]
        assert loss == pytest.approx(torch.nn.functional.cross_entropy(logits, answer).item(), rel=1e-9)
        torch.testing.assert_close(embeds[:length], reference.embeds(inputs), rtol=1e-9, atol=1e-9)
        assert torch.equal(mask[:length], reference.mask(attacked[seed], inputs, prompt)) and mask.any()
        assert not mask[length:].any()


def test_accumulation_and_checkpointing_make_the_same_step(checkpoint: Path, tmp_path: Path) -> None:
    start = training.weights(training.trainer(training.config(checkpoint, tmp_path / "s", **STEP)))
    whole = training.trained(checkpoint, tmp_path / "a", **STEP)
    cut = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 3}
    largest = training.largest_difference(whole, start)
    assert largest > 1e-3
    for number, fields in enumerate((cut, {"gradient_checkpointing": True})):
        other = training.trained(checkpoint, tmp_path / str(number), **STEP, **fields)
        assert training.largest_difference(whole, other) < 1e-5 * max(1.0, largest), fields
