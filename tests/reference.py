"""A slow trainer straight from the formulas: one row at a time, through the processor's and the model's own
calls, nothing shared. It knows the package's items, prompts and random streams, and none of its trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch.nn.functional import cross_entropy, softmax
from transformers import AutoModelForImageTextToText, PreTrainedModel, ProcessorMixin, Trainer

from mmi_plugin.item import Item, messages, target, user_text

Row = Any


@dataclass
class Reference:
    """The model (in double precision), its processor and the fields of the run."""

    model: PreTrainedModel
    processor: ProcessorMixin
    args: Any

    @staticmethod
    def of(trainer: Trainer) -> Reference:
        """The reference with a trainer's weights; loaded anew, as the trainer puts its own forward into its model."""
        model = AutoModelForImageTextToText.from_pretrained(trainer.args.model_name_or_path, dtype=torch.float32)
        if isinstance(trainer.model, PeftModel):
            model = get_peft_model(model, trainer.model.peft_config["default"])
        model.load_state_dict(trainer.model.state_dict())
        return Reference(model.double().train(), trainer.processing_class, trainer.args)

    @property
    def base(self) -> PreTrainedModel:
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    def inputs(self, item: Item) -> tuple[dict[str, torch.Tensor], int]:
        """The model's inputs for a whole row, and how many tokens its prompt has."""
        name, answer = type(self.processor).__name__, target(item)
        if name == "PaliGemmaProcessor":
            text = "<image>" + user_text(item)
            whole = self.processor(images=[item.image], text=[text], suffix=[answer], return_tensors="pt")
            prompt = int((whole.pop("labels")[0] == -100).sum())
        elif name == "InstructBlipProcessor":
            # The Q-Former reads the prompt alone; the decoder goes on with the answer as with any next word.
            head = self.processor(images=[item.image], text=[user_text(item)], return_tensors="pt")
            said = self.processor(images=[item.image], text=[f"{user_text(item)} {answer}</s>"], return_tensors="pt")
            prompt, whole = (
                head["input_ids"].shape[1],
                {**head, **{k: said[k] for k in ("input_ids", "attention_mask")}},
            )
            assert whole["input_ids"][0, :prompt].tolist() == head["input_ids"][0].tolist()
        else:
            whole, head = (
                self.processor.apply_chat_template(
                    messages(item, said),
                    tokenize=True,
                    return_dict=True,
                    return_tensors="pt",
                    add_generation_prompt=said is None,
                )
                for said in (answer, None)
            )
            prompt = head["input_ids"].shape[1]
        return {key: v.double() if v.is_floating_point() else v for key, v in whole.items()}, prompt

    def mask(self, item: Item, inputs: dict[str, torch.Tensor], prompt: int) -> torch.Tensor:
        """Which tokens of a row the adversary may move, (L,) bool."""
        ids = inputs["input_ids"][0]
        image, before = ids == self.base.config.image_token_id, torch.arange(len(ids)) < prompt
        text = ~image
        if self.args.attack_text == "after_image":
            text &= torch.arange(len(ids)) > int(image.nonzero().max())
        return {"image_heavy": before & text, "text_heavy": image, "vqa": before & False}[item.family]

    def run(
        self, inputs: dict[str, torch.Tensor], prompt: int, delta: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and last hidden states that predict the answer, by the model's own whole forward."""
        with self.changed(lambda embeds: embeds if delta is None else embeds + delta) as seen:
            logits = self.model(**inputs, use_cache=False).logits[0, prompt - 1 : -1]
        return logits, seen["hidden"][0, prompt - 1 : -1]

    def embeds(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        with self.changed(lambda embeds: embeds) as seen, torch.no_grad():
            self.model(**inputs, use_cache=False)
        return seen["embeds"][0]

    @contextmanager
    def changed(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
        seen = {}

        def before(module: torch.nn.Module, args: tuple, call: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
            seen["embeds"] = call["inputs_embeds"]
            return args, {**call, "inputs_embeds": change(call["inputs_embeds"])}

        def after(module: torch.nn.Module, args: tuple, output: Any) -> None:
            seen["hidden"] = output.last_hidden_state

        decoder = self.base.get_decoder()
        handles = decoder.register_forward_pre_hook(before, with_kwargs=True), decoder.register_forward_hook(after)
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()

    def delta(self, item: Item, inputs: dict[str, torch.Tensor], prompt: int, seed: int) -> torch.Tensor:
        args, mask, embeds = self.args, self.mask(item, inputs, prompt), self.embeds(inputs)
        inside, answer = embeds[mask], inputs["input_ids"][0, prompt:]
        scale = inside.square().mean().sqrt() if args.eps_mode == "relative" else torch.tensor(1.0).double()
        delta = torch.zeros_like(embeds)
        eps = args.eps * scale
        delta[mask] = -eps + 2 * eps * uniform(seed, mask, embeds.shape[1])
        for _ in range(args.pgd_steps):
            probe = delta.clone().requires_grad_(True)
            (gradient,) = torch.autograd.grad(cross_entropy(self.run(inputs, prompt, probe)[0], answer), probe)
            gradient = torch.where(mask[:, None], gradient, 0)
            assert args.step_rule == "l2"
            delta = delta + args.step_size * scale * gradient / gradient.norm() * inside.numel() ** 0.5
            delta = torch.minimum(torch.maximum(delta, -eps), eps)
        return delta

    def loss(self, groups: list[Any], seeds: torch.Tensor) -> torch.Tensor:
        """L_sft + L_adv + lambda L_cons of one optimizer step."""
        rest, sft, adv, cons = iter(seeds.tolist()), [], [], []
        for group in groups:
            outputs, others = [], []
            for item in group.rows:
                (inputs, prompt), seed = self.inputs(item), next(rest)
                answer = inputs["input_ids"][0, prompt:]
                outputs.append(self.run(inputs, prompt))
                sft.append(cross_entropy(outputs[-1][0], answer, reduction="none"))
                if self.args.adversary != "none" and item.family != "vqa":
                    others.append(self.run(inputs, prompt, self.delta(item, inputs, prompt, seed)))
                    adv.append(cross_entropy(others[-1][0], answer, reduction="none"))
            others += outputs[1:]
            if others:
                cons.append(torch.stack([jensen_shannon(outputs[0][0], other[0]) for other in others]).mean())
        parts = torch.cat(sft).mean(), torch.cat(adv).mean(), torch.stack(cons).mean()
        return parts[0] + self.args.adv_weight * parts[1] + self.args.consistency_weight * parts[2]


def uniform(seed: int, mask: torch.Tensor, width: int) -> torch.Tensor:
    """(tokens inside the mask (L,), width) numbers from [0, 1): the upper 24 bits of a word each."""
    places = mask.nonzero()[:, 0].tolist()
    rows = [[(philox(seed, place, i // 4)[i % 4] >> 8) / 2**24 for i in range(width)] for place in places]
    return torch.tensor(rows, dtype=torch.float64)


def normal(seed: int, mask: torch.Tensor, width: int) -> torch.Tensor:
    """As `uniform`, by Box and Muller: each two uniform numbers give the cosine's and the sine's."""
    pairs = uniform(seed, mask, width + width % 2).unflatten(1, (-1, 2))
    length, angle = (-2 * (pairs[..., 0] + 2**-25).log()).sqrt(), 2 * torch.pi * pairs[..., 1]
    return torch.stack([length * angle.cos(), length * angle.sin()], -1).flatten(1)[:, :width]


@cache
def philox(seed: int, place: int, block: int) -> list[int]:
    """Four words of Philox4x32-10, figure 2 of the paper, of the counter (block, place, 0, 0)."""
    words, key = [block, place, 0, 0], [seed % 2**32, seed >> 32]
    for _ in range(10):
        high, low = divmod(words[0] * 0xD2511F53, 2**32)
        other_high, other_low = divmod(words[2] * 0xCD9E8D57, 2**32)
        words = [other_high ^ words[1] ^ key[0], other_low, high ^ words[3] ^ key[1], low]
        key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
    return words


def jensen_shannon(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    p, q = softmax(one, -1), softmax(other, -1)
    m = (p + q) / 2
    return ((p * (p / m).log()).sum(-1) / 2 + (q * (q / m).log()).sum(-1) / 2).mean()
