"""What one training step costs: ours with every saving on and with each off, against the published schedule.

    python -m benchmarks.train_step [--only published savings] [--out runs/train_step.json]
    python -m benchmarks.train_step --device cuda --shape 7b --checkpointing --only published savings "after image"

The small shape: LLaVA (LLaMA hidden 256, intermediate 688, 4 layers, 4 heads, vocabulary 4000; CLIP hidden 128,
2 layers, 336 px, patch 14, frozen), 8 items as 2:2:4, so 18 rows of 35 system tokens, 576 image tokens,
a question of 60, in image-heavy rows a context of 0, 50 or 160, and an answer of 2; KL and 2 steps of PGD. That of 7b
has the same rows, and LLaVA-1.5-7B's widths and depths with random weights. With `--fresh-lengths` every step has new
rows, whose questions and contexts are up to a third longer or shorter.

With `liger` in its name, a variant has the layers' kernels of the package liger-kernel, as `use_liger_kernel` applies
them.

`published` is the published schedule, written down here on its own: every row through the vision tower
whenever it is used, rows padded to 1000, VQA rows in the inner loop and doubled, the whole vocabulary at
every position. Each variant runs in a process of its own; memory is its peak above what the process had
before the model. FLOPs are those of torch.utils.flop_counter: `linear` leaves out the products inside
attention, which the count of 1519 GFLOP that was measured of the published code left out, too.

On a GPU, weights are in bf16, and there are `--steps` steps after three that warm up: `s` is their median, `first` what
the three took above three medians, compiling for the most part, and memory the most that torch had allocated.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields as fields_of
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
from transformers.integrations.liger import apply_liger_kernel

from benchmarks.base import architecture
from mmi_plugin.models.attention import WAYS
from mmi_plugin.models.layout import at_once
from mmi_plugin.trainers.config import MMIConfig, Savings
from mmi_plugin.trainers.data import load_benchmarks, make_groups
from mmi_plugin.trainers.forward import ForwardPass
from mmi_plugin.trainers.plan import Plan
from mmi_plugin.trainers.trainer import MMITrainer

MEASURED = 1519.0
"""GFLOP of a step of the published code at this shape."""
SYSTEM, IMAGE, QUESTION, CONTEXTS, ANSWER, PADDED, VOCABULARY = 35, 576, 60, (0, 50, 160), 2, 1000, 4000
IMAGE_TOKEN = 3
COUNTED, TIMED = ("gflop", "linear", "vision", "inner", "outer"), ("s", "first", "GB")
STEPS, ALPHA, EPS, LAMBDA = 2, 0.1, 1e-3, 0.01
WARM = 3


class Shape(NamedTuple):
    """Sizes of a LLaVA: hidden, intermediate, layers and heads of the language model and of the vision encoder."""

    text: tuple[int, int, int, int]
    vision: tuple[int, int, int, int]
    vocabulary: int


SHAPES = {
    "small": Shape((256, 688, 4, 4), (128, 512, 2, 2), VOCABULARY),
    "7b": Shape((4096, 11008, 32, 32), (1024, 4096, 24, 16), 32064),
}


class Setting(NamedTuple):
    """How steps are measured."""

    device: str = "cpu"
    shape: str = "small"
    fresh: bool = False
    checkpointing: bool = False
    attention: str = "auto"
    steps: int = 1


TRAINERS: dict[int, MMITrainer] = {}
SAVINGS = tuple(saving.name for saving in fields_of(Savings))
VARIANTS: dict[str, dict[str, Any]] = {
    "savings": {},
    **{f"no {name}": {name: False} for name in SAVINGS},
    "no savings": {"reference": True},
    "after image": {"attack_text": "after_image"},
    "liger": {},
    "after image, liger": {"attack_text": "after_image"},
    "after image, no reuse_prefix": {"attack_text": "after_image", "reuse_prefix": False},
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    plain = [name for name in VARIANTS if "liger" not in name]  # whose kernels are for GPUs
    known = ["published", "published, liger", *VARIANTS]
    parser.add_argument("--only", nargs="+", choices=known, default=["published", *plain])
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--fresh-lengths", action="store_true", help="every step has rows of new lengths")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations, as TRL does by default")
    parser.add_argument("--attention", choices=WAYS, default="auto", help="field layout_attention of ours")
    parser.add_argument("--steps", type=int, help="steps to time: 1 on a CPU, 10 on a GPU")
    parser.add_argument("--out", type=Path, help="also write the numbers here, as JSON")
    chosen = parser.parse_args(arguments)
    gpu = chosen.device != "cpu"
    steps = chosen.steps or (10 if gpu else 1)
    setting = Setting(chosen.device, chosen.shape, chosen.fresh_lengths, chosen.checkpointing, chosen.attention, steps)
    results: dict[str, dict[str, float]] = {}
    columns = TIMED if gpu else (*COUNTED, *TIMED)
    print(f"{'':32}" + "".join(f"{column:>10}" for column in columns) + "   ratios to published")
    for name in chosen.only:
        with multiprocessing.get_context("fork").Pool(1) as pool:
            results[name] = pool.apply(measure, (name, setting))
        print(line(name, results[name], results.get("published"), columns), flush=True)
    if chosen.out:
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        chosen.out.write_text(json.dumps(results, indent=2) + "\n")
    found = results.get("published", {}).get("linear", MEASURED)
    if chosen.shape == "small" and abs(found / MEASURED - 1) > 0.1:
        print(f"error: the published schedule counts {found:.0f} GFLOP here, and {MEASURED:.0f} were measured of it")
        return 1
    return 0


def line(name: str, result: dict[str, float], base: dict[str, float] | None, columns: Sequence[str]) -> str:
    text = f"{name:32}" + "".join(f"{result[c]:10.0f}" if c in COUNTED else f"{result[c]:10.3f}" for c in columns)
    if base:
        ratios = {c: result[c] / base[c] for c in ("gflop", "linear", "s", "GB") if c in columns}
        text += "   " + "  ".join(f"{c} {ratio:.2f}" for c, ratio in ratios.items())
    return text


class Meter:
    """FLOPs so far, in all and inside attention, and those of named parts."""

    def __init__(self, counter: FlopCounterMode) -> None:
        self._counter = counter
        self.parts = {"vision": 0.0, "inner": 0.0}

    def total(self) -> float:
        return self._counter.get_total_flops() / 1e9

    def attention(self) -> float:
        counts = self._counter.get_flop_counts().get("Global", {})
        return sum(n for kind, n in counts.items() if "attention" in str(kind)) / 1e9

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        before = self.total()
        yield
        self.parts[name] += self.total() - before

    def counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return wrapped


def measure(name: str, setting: Setting) -> dict[str, float]:
    """Time steps and, on a CPU, count the FLOPs of one more."""
    torch.manual_seed(0)
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model = build_model(setting)
    gpu = setting.device != "cpu"
    with TemporaryDirectory() as folder:
        if "liger" in name:
            apply_liger_kernel(model, {"fused_linear_cross_entropy": False})
        theirs = name.startswith("published")
        make = published if theirs else partial(ours, folder=folder, setting=setting, **VARIANTS[name])
        times, step = [], None
        for number in range(setting.steps + WARM * gpu):
            if step is None or setting.fresh:
                step = make(model, build_batch(number + 1 if setting.fresh else 0))
            if gpu:
                torch.cuda.synchronize()
            began = time.perf_counter()
            step(None)
            if gpu:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
            model.zero_grad()
        median = statistics.median(times[WARM * gpu :])
        timed = {"s": median, "first": sum(times[: WARM * gpu]) - WARM * gpu * median}
        if gpu:
            return {**timed, "GB": torch.cuda.max_memory_allocated() / 1e9}
        timed["GB"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) / 1e6
        with FlopCounterMode(display=False) as counter:
            meter = Meter(counter)
            step(meter)
    parts = {**meter.parts, "outer": meter.total() - sum(meter.parts.values())}
    return {"gflop": meter.total(), "linear": meter.total() - meter.attention(), **parts, **timed}


def build_model(setting: Setting) -> LlavaForConditionalGeneration:
    (hidden, inside, layers, heads), vision, vocabulary = SHAPES[setting.shape]
    encoder = CLIPVisionConfig(
        hidden_size=vision[0], intermediate_size=vision[1], num_hidden_layers=vision[2], num_attention_heads=vision[3],
        image_size=336, patch_size=14, projection_dim=vision[0],
    )  # fmt: skip
    text = LlamaConfig(
        hidden_size=hidden, intermediate_size=inside, num_hidden_layers=layers, num_attention_heads=heads,
        vocab_size=vocabulary, max_position_embeddings=2048, pad_token_id=0,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=encoder, text_config=text, image_token_index=IMAGE_TOKEN, vision_feature_layer=-1
    )
    gpu = setting.device != "cpu"
    with torch.device(setting.device):
        model = LlavaForConditionalGeneration._from_config(config, dtype=torch.bfloat16 if gpu else torch.float32)
    model.get_encoder(modality="image").requires_grad_(False)
    if setting.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


def build_batch(number: int = 0) -> dict[str, Any]:
    """18 rows of random tokens and 12 distinct images, as the collator would give them. number: but for 0, what decides
    how long questions and contexts are."""
    draw = torch.Generator().manual_seed(number)

    def about(count: int) -> int:
        change = torch.randint(-(count // 3), count // 3 + 1, (1,), generator=draw).item() if number else 0
        return count + int(change)

    def words(count: int) -> list[int]:
        return torch.randint(4, VOCABULARY, (count,), generator=draw).tolist()

    system, rows, image_index, origin, family = words(SYSTEM), [], [], [], []
    for group in range(8):
        question, answer = words(about(QUESTION)), words(ANSWER)
        kind = ("image_heavy", "text_heavy", "vqa")[(group > 1) + (group > 3)]
        contexts = {"image_heavy": CONTEXTS, "text_heavy": (0, 0, 0, 0), "vqa": (0,)}[kind]
        # Images 0 and 1 are the black and the white canvas, the same ones for every text-heavy item.
        shown = {"image_heavy": [2 + group] * 3, "text_heavy": [2 * group, 0, 1, 2 * group + 1], "vqa": [4 + group]}
        first = len(rows)
        for context, image in zip(contexts, shown[kind], strict=True):
            rows.append((system + [IMAGE_TOKEN] * IMAGE + words(about(context)) + question, answer))
            image_index.append(image)
            origin.append(first)
            family.append(kind)
    width = max(len(prompt) + ANSWER for prompt, _ in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for number, (prompt, answer) in enumerate(rows):
        end = len(prompt) + ANSWER
        ids[number, :end] = torch.tensor(prompt + answer)
        mask[number, :end] = 1
        labels[number, len(prompt) : end] = torch.tensor(answer)
    numbers = sorted(set(image_index))
    return {
        "items": [str(row) for row in range(len(rows))],
        "input_ids": ids,
        "attention_mask": mask,
        "labels": labels,
        "family": family,
        "origin": torch.tensor(origin),
        "seeds": torch.arange(len(rows)),
        "image_index": torch.tensor([numbers.index(image) for image in image_index]),
        "image_tokens": torch.full((len(numbers),), IMAGE),
        "pixel_values": torch.randn(len(numbers), 3, 336, 336, generator=draw),
    }


def irrelevant(batch: dict[str, Any], after_image: bool) -> torch.Tensor:
    """(R, L) bool: what the adversary moves."""
    ids, family = batch["input_ids"], batch["family"]
    image, prompt = ids == IMAGE_TOKEN, (batch["attention_mask"] == 1) & (batch["labels"] == -100)
    text = prompt & ~image
    if after_image:
        text[:, :SYSTEM] = False
    moved = {"image_heavy": text, "text_heavy": image, "vqa": torch.zeros_like(image)}
    return torch.stack([moved[kind][row] for row, kind in enumerate(family)])


def ours(
    model: LlavaForConditionalGeneration, batch: dict[str, Any], folder: str, setting: Setting, **fields: Any
) -> Callable:
    """One micro-batch of our trainer, forward and backward."""
    trainer = TRAINERS.get(id(model)) or trainer_of(model, folder, setting, **fields)
    TRAINERS[id(model)] = trainer  # one for all steps, as in a run
    args = trainer.args
    inputs = {**batch, "irrelevant": irrelevant(batch, args.attack_text == "after_image")}
    del inputs["family"]
    plan = Plan.of(inputs, IMAGE_TOKEN).made(at_once(setting.attention, torch.device(setting.device), True))
    inputs = {**{name: on(value, setting.device) for name, value in inputs.items()}, "plan": plan}

    def step(meter: Meter | None) -> torch.Tensor:
        if meter is None:
            loss = trainer.compute_loss(trainer.model, dict(inputs))
            loss.backward()
            return loss.detach()
        inner = patch.object(ForwardPass, "attack", meter.counted("inner", ForwardPass.attack))
        features = meter.counted("vision", model.model.get_image_features)
        with inner, patch.object(model.model, "get_image_features", features):
            return step(None)

    return step


def trainer_of(model: LlavaForConditionalGeneration, folder: str, setting: Setting, **fields: Any) -> MMITrainer:
    savings = {name: fields.pop(name) for name in SAVINGS if name in fields}
    args = MMIConfig(
        output_dir=folder, use_cpu=setting.device == "cpu", report_to="none",
        sources=["demo_digits", "demo_capitals", "demo_arith"],
        adversary="pgd", step_rule="raw", step_size=ALPHA, eps=EPS, pgd_steps=STEPS, consistency="kl",
        consistency_weight=LAMBDA, per_device_train_batch_size=8, max_steps=1, layout_attention=setting.attention,
        gradient_checkpointing=setting.checkpointing, **fields,
    )  # fmt: skip
    args.savings = replace(args.savings, **savings)
    groups = make_groups(args, load_benchmarks(args))
    return MMITrainer(model, args, groups, processing_class=build_processor())


def on(value: Any, device: str) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value


def build_processor() -> Any:
    """A processor that the trainer accepts; the batch is made without it."""
    tokenizer = architecture.build_tokenizer(["a b"], 300)
    return architecture.build_processor(tokenizer, 336, 14)


def published(model: LlavaForConditionalGeneration, batch: dict[str, Any]) -> Callable:
    """The published schedule: L_sft + L_adv over all rows, KL of every other row of a group from its origin."""
    device, family = model.device, batch["family"]
    batch = {**{name: on(value, device) for name, value in batch.items()}, "family": family}
    rows, grown = len(batch["input_ids"]), PADDED - batch["input_ids"].shape[1]
    ids, mask = (torch.nn.functional.pad(batch[name], (0, grown)) for name in ("input_ids", "attention_mask"))
    labels = torch.nn.functional.pad(batch["labels"], (0, grown), value=-100)
    moved = torch.nn.functional.pad(irrelevant(batch, False), (0, grown))[..., None]
    pixels, origin = batch["pixel_values"][batch["image_index"]].to(model.dtype), batch["origin"]
    decoder, place = model.get_decoder(), ids == IMAGE_TOKEN

    def embed() -> torch.Tensor:
        features = torch.cat(model.get_image_features(pixels).pooler_output)
        return model.get_input_embeddings()(ids).masked_scatter(place[..., None], features)

    def logits(embeds: torch.Tensor) -> torch.Tensor:
        repeats = len(embeds) // rows
        return model.lm_head(decoder(inputs_embeds=embeds, attention_mask=mask.repeat(repeats, 1)).last_hidden_state)

    def loss(scores: torch.Tensor) -> torch.Tensor:
        return cross_entropy(scores[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)

    def attack() -> torch.Tensor:
        learning = [p for p in model.parameters() if p.requires_grad]
        for parameter in learning:
            parameter.requires_grad_(False)
        with torch.no_grad():
            embeds = embed()
        delta = (torch.rand_like(embeds) * 2 - 1) * EPS * moved
        for _ in range(STEPS):
            delta.requires_grad_(True)
            (gradient,) = torch.autograd.grad(loss(logits(embeds + delta)), delta)
            delta = (delta.detach() + ALPHA * gradient * moved).clamp(-EPS, EPS)
        for parameter in learning:
            parameter.requires_grad_(True)
        return delta

    def step(meter: Meter | None) -> None:
        delta = attack() if meter is None else meter.counted("inner", attack)()
        encode = embed if meter is None else meter.counted("vision", embed)
        scores = logits(torch.cat([encode(), encode() + delta]))
        read = log_softmax(scores[:, :-1][(labels[:, 1:] != -100).repeat(2, 1)].view(2 * rows, ANSWER, -1), -1)
        teacher = torch.cat([origin, origin])
        other = (teacher != torch.arange(2 * rows, device=device)).nonzero()[:, 0]
        divergence = kl_div(read[other], read[teacher[other]].detach(), reduction="batchmean", log_target=True)
        (loss(scores[:rows]) + loss(scores[rows:]) + LAMBDA * divergence).backward()

    return step


if __name__ == "__main__":
    sys.exit(main())
