"""compute_loss against a reference that takes one row at a time, without padding, from the formulas."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy, softmax
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from mmi_plugin.item import Item, messages, target
from mmi_plugin.trainers.config import MMIConfig
from mmi_plugin.trainers.groups import Group
from mmi_plugin.trainers.losses import LossPlaces, loss_sums
from mmi_plugin.trainers.objective import Objective
from tests import training
from tests.reference import normal, uniform


@dataclass
class Row:
    """One row read through the processor's own call: embeddings before the decoder and positions."""

    ids: torch.Tensor
    embeds: torch.Tensor
    prompt: int
    mask: torch.Tensor

    @property
    def answer(self) -> torch.Tensor:
        return self.ids[self.prompt :]


def read_row(model: LlavaForConditionalGeneration, processor: LlavaProcessor, item: Item) -> Row:
    def encode(answer: str | None) -> dict[str, torch.Tensor]:
        return processor.apply_chat_template(
            messages(item, answer),
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=answer is None,
        )

    full, prompt = encode(target(item)), encode(None)["input_ids"].shape[1]
    ids = full["input_ids"][0]
    image = ids == model.config.image_token_id
    embeds = model.get_input_embeddings()(ids)
    features = model.get_image_features(full["pixel_values"].double()).pooler_output
    embeds = embeds.masked_scatter(image[:, None], torch.cat(list(features)))
    before = torch.arange(len(ids)) < prompt
    mask = {"image_heavy": before & ~image, "text_heavy": image, "vqa": torch.zeros_like(image)}[item.family]
    return Row(ids, embeds, prompt, mask)


def run(model: LlavaForConditionalGeneration, row: Row, embeds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and hidden states at the positions that predict the answer."""
    hidden = model.model.language_model(inputs_embeds=embeds[None]).last_hidden_state[0]
    hidden = hidden[row.prompt - 1 : -1]
    return model.lm_head(hidden), hidden


def find_delta(model: LlavaForConditionalGeneration, row: Row, seed: int, args: MMIConfig) -> torch.Tensor:
    embeds = row.embeds.detach()
    inside = embeds[row.mask]
    scale = inside.square().mean().sqrt() if args.eps_mode == "relative" else torch.tensor(1.0).double()
    delta = torch.zeros_like(embeds)
    if args.adversary == "rg":
        delta[row.mask] = args.sigma * scale * normal(seed, row.mask, embeds.shape[1])
        return delta
    eps = args.eps * scale
    delta[row.mask] = -eps + 2 * eps * uniform(seed, row.mask, embeds.shape[1])
    for _ in range(args.pgd_steps):
        probe = delta.clone().requires_grad_(True)
        logits, _ = run(model, row, embeds + probe)
        (gradient,) = torch.autograd.grad(cross_entropy(logits, row.answer), probe)
        gradient = torch.where(row.mask[:, None], gradient, 0)
        if args.step_rule == "raw":
            step = args.step_size * gradient
        elif args.step_rule == "sign":
            step = args.step_size * scale * torch.sign(gradient)
        else:
            step = args.step_size * scale * gradient / gradient.norm() * inside.numel() ** 0.5
        delta = torch.minimum(torch.maximum(delta + step, -eps), eps)
    return delta


def divergence(kind: str, origin: tuple, other: tuple, temperature: float) -> torch.Tensor:
    """Mean over answer tokens, from the textbook formulas."""
    if kind == "mse":
        return ((origin[1] - other[1]) ** 2).mean()
    p, q = softmax(origin[0] / temperature, -1), softmax(other[0] / temperature, -1)
    if kind == "kl":
        p = p.detach()
        return (p * (p / q).log()).sum(-1).mean()
    m = (p + q) / 2
    return ((p * (p / m).log()).sum(-1) / 2 + (q * (q / m).log()).sum(-1) / 2).mean()


def reference(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    groups: list[Group],
    seeds: torch.Tensor,
    args: MMIConfig,
) -> torch.Tensor:
    seeds = iter(seeds.tolist())
    sft, adv, cons = [], [], []
    for group in groups:
        outputs, others = [], []
        for item in group.rows:
            row, seed = read_row(model, processor, item), next(seeds)
            outputs.append(run(model, row, row.embeds))
            sft.append(cross_entropy(outputs[-1][0], row.answer, reduction="none"))
            if args.adversary != "none" and row.mask.any():
                others.append(run(model, row, row.embeds + find_delta(model, row, seed, args)))
                adv.append(cross_entropy(others[-1][0], row.answer, reduction="none"))
        others += outputs[1:]
        if args.consistency != "none" and others:
            parts = [divergence(args.consistency, outputs[0], other, args.temperature) for other in others]
            cons.append(torch.stack(parts).mean())
    loss = torch.cat(sft).mean()
    if adv:
        loss = loss + args.adv_weight * torch.cat(adv).mean()
    if cons:
        loss = loss + args.consistency_weight * torch.stack(cons).mean()
    return loss


PGD = {"adversary": "pgd", "eps": 0.5, "step_size": 0.3, "eps_mode": "relative", "adv_weight": 0.7}
CASES = {
    "d_aug": {},
    "kl": {"consistency": "kl", "consistency_weight": 8e3, "temperature": 0.5},
    "sign_js": {**PGD, "consistency": "js", "consistency_weight": 2e4, "temperature": 1.5},
    "l2_mse": {**PGD, "step_rule": "l2", "consistency": "mse", "consistency_weight": 30.0},
    "raw_kl": {
        **PGD,
        "step_rule": "raw",
        "step_size": 5.0,
        "eps_mode": "absolute",
        "consistency": "kl",
        "pgd_steps": 3,
        "consistency_weight": 1e3,
    },
    "rg": {"adversary": "rg", "sigma": 0.4, "eps_mode": "relative"},
}


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_equal_the_reference(tiny_llava: Path, tmp_path: Path, case: str, packed: bool) -> None:
    args = training.config(tiny_llava, tmp_path, pack_rows=packed, freeze="none", **CASES[case])
    trainer = training.trainer(args)
    model = trainer.model.double().train()
    groups = training.step_groups(trainer)
    batch = training.double(trainer.data_collator(groups))

    loss = trainer.compute_loss(model, batch)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()

    expected = reference(model, trainer.processing_class, groups, batch["seeds"], args)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    compared = 0
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-7, atol=1e-10, msg=name)
            compared += bool(parameter.grad.any())
    assert compared > 30


def test_the_reference_would_notice_a_shift_by_one(tiny_llava: Path, tmp_path: Path) -> None:
    """Distributions read at the answer itself, one position late, give another consistency."""
    args = training.config(tiny_llava, tmp_path, consistency="js", consistency_weight=100.0)
    trainer = training.trainer(args)
    model = trainer.model.double().train()
    groups = training.step_groups(trainer)
    batch = training.double(trainer.data_collator(groups))
    consistency = {}
    for shift in (0, 1):  # 1: position t - 1 predicts token t
        per_group = []
        for group in groups:
            read = []
            for item in group.rows:
                row = read_row(model, trainer.processing_class, item)
                hidden = model.model.language_model(inputs_embeds=row.embeds[None]).last_hidden_state[0]
                read.append((model.lm_head(hidden[row.prompt - shift : len(hidden) - shift]),))
            if len(read) > 1:
                per_group.append(torch.stack([divergence("js", read[0], other, 1.0) for other in read[1:]]).mean())
        consistency[shift] = torch.stack(per_group).mean().item()
    trainer.compute_loss(model, batch)
    measured = trainer._meter.read(lambda sums: sums, rates=())["loss_consistency"]
    assert measured == pytest.approx(consistency[1], rel=1e-6)
    assert measured != pytest.approx(consistency[0], rel=1e-2)


def test_gradients_are_the_same_to_the_bit_each_time() -> None:
    """Each origin is compared with four others: what it gets from them is added in one order by any threads."""
    torch.manual_seed(0)
    logits = (8 * torch.randn(100, 4000)).requires_grad_()
    origin, other = torch.arange(20).repeat(4), torch.arange(20, 100)
    every, one = torch.ones(100, dtype=torch.bool), torch.ones(80, dtype=torch.int64)
    places = LossPlaces(every, ~every, ~every, ~every, origin, other, origin, one, one)
    objective = Objective(consistency="js")
    objective.resolve(full_precision=True)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        sums = (loss_sums(logits, logits, torch.zeros(100), places, objective)[2] for _ in range(20))
        first, *others = [torch.autograd.grad(one_sum, logits)[0] for one_sum in sums]
    finally:
        torch.set_num_threads(before)
    assert first.any() and all(torch.equal(first, again) for again in others)
