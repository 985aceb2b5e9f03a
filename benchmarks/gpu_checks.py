"""What a GPU has to compute as a CPU does: noise, attention in one call, loss and gradients in bf16; and how it waits.

    python -m benchmarks.gpu_checks

Prints one line a check and ends with 1 if one fails. Sizes are those of `train_step --shape small`.
"""

from __future__ import annotations

import multiprocessing
import sys
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import chain
from operator import ne
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

from benchmarks.evaluation import save_model
from benchmarks.train_step import EPS, Setting, build_batch, build_model, irrelevant, ours
from mmi_plugin.attacks.noise import draw
from mmi_plugin.models import attention as ways
from mmi_plugin.models import generate
from mmi_plugin.models.evaluate import Scorer
from mmi_plugin.models.families import prompts_of
from mmi_plugin.models.generate import Query
from mmi_plugin.models.load import load_model, load_processor
from mmi_plugin.trainers.forward import ForwardPass, Prediction

Step = tuple[float, dict[str, np.ndarray], np.ndarray]


def main() -> int:
    failed = 0
    for said, found, most in chain(noise(), steps(), decoding()):
        failed += not found <= most
        print(f"{'ok' if found <= most else 'FAILED':8}{said}: {found:.3g}, at most {most:g}", flush=True)
    return min(failed, 1)


def noise() -> Iterator[tuple[str, float, float]]:
    mask, seeds = torch.rand(8, 300) < 0.5, torch.arange(8) * 2**58 + 12345
    for kind, most in (("uniform", 0.0), ("normal", 2e-6)):
        here = draw(kind, mask, seeds, 513, torch.float32)
        there = draw(kind, mask.cuda(), seeds.cuda(), 513, torch.float32).cpu()
        yield f"{kind} noise, largest difference from the CPU's", (here - there).abs().max().item(), most


def step(half: bool, attention: str, device: str = "cuda") -> Step:
    """Loss, gradients and delta of one step, in bf16 by autocast over weights in fp32 as a run has it.

    attention: "auto" for one call of torch's own, as of a small layout.
    """
    torch.manual_seed(0)
    setting, seen = Setting(device, attention=attention), []
    small = patch.object(ways, "SMALL", 2**40)
    model = build_model(Setting("cpu")).to(device)
    run = ForwardPass.run

    def spy(*args: object) -> Prediction:
        seen.append(run(*args))
        return seen[-1]

    half_precision = torch.autocast(device, torch.bfloat16, enabled=half)
    with TemporaryDirectory() as folder, patch.object(ForwardPass, "run", spy), half_precision, small:
        loss = ours(model, build_batch(), folder, setting)(None).item()
    # As numpy: a tensor's memory goes with the process that hands it over.
    gradients = {name: p.grad.double().cpu().numpy() for name, p in model.named_parameters() if p.grad is not None}
    return loss, gradients, seen[-1].delta.cpu().numpy()


def steps() -> Iterator[tuple[str, float, float]]:
    asked = {
        "fp32 in pieces": (False, "pieces"),
        "fp32 on the CPU": (False, "pieces", "cpu"),
        "fp32, FlexAttention": (False, "flex"),
        "bf16, FlexAttention": (True, "flex"),
        "bf16, pieces": (True, "pieces"),
        "fp32, one call of sdpa": (False, "auto"),
        "bf16, one call of sdpa": (True, "auto"),
    }
    # Each in a process of its own: accelerate keeps to the device that a process began with.
    with ProcessPoolExecutor(len(asked), multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        results = {said: pool.submit(step, *how) for said, how in asked.items()}
        exact, *rest = [result.result() for result in results.values()]
    for said, found, most in zip(list(asked)[1:], rest, (1e-4, 1e-3, 1e-2, 1e-2, 1e-3, 1e-2), strict=True):
        yield f"loss, {said}, relative difference from fp32 in pieces", abs(found[0] / exact[0] - 1), most
        yield f"gradients, {said}, relative difference", difference(found[1], exact[1]), most
        yield f"delta, {said}, beyond its ball", max(0.0, float(np.abs(found[2]).max()) - EPS), 1e-9
        moved = irrelevant(build_batch(), False)
        outside = float(np.abs(found[2][~moved[moved.any(1)].numpy()]).max())
        yield f"delta, {said}, beyond its mask", outside, 0.0
    yield "waits for the device in a micro-batch", waits(), 5


def difference(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """Of all gradients as one vector."""
    apart = sum(np.square(one[name] - other[name]).sum() for name in other)
    return float(np.sqrt(apart / sum(np.square(value).sum() for value in other.values())))


def waits() -> float:
    """How often a micro-batch waits, the second time, when all is compiled."""
    torch.manual_seed(0)
    model = build_model(Setting("cuda"))
    with TemporaryDirectory() as folder:
        one = ours(model, build_batch(), folder, Setting("cuda"))
        one(None)
        return synchronised(lambda: one(None))


def decoding(device: str = "cuda") -> Iterator[tuple[str, float, float]]:
    """Whole prompts, as those that share no image: what ten more tokens wait, and what not to wait changes."""
    images = [Image.effect_mandelbrot((40, 30), (-2, -1, 1, 1 + number), 20).convert("RGB") for number in range(2)]
    chats = [[{"role": "user", "content": [{"type": "image", "image": one}]}] for one in images]
    with TemporaryDirectory() as folder:
        save_model(Path(folder), Namespace(shape="small", device="cpu"))
        model = load_model(folder, dtype=torch.float32).to(device)
        scorer = Scorer(model, prompts_of(load_processor(folder)), share=False)
        rows = [Query(chat) for chat in chats]
        found = {n: scorer.answer(rows, {"max_new_tokens": n, "min_new_tokens": n}) for n in (2, 12)}
        two, twelve = (
            synchronised(lambda n=n: scorer.answer(rows, {"max_new_tokens": n, "min_new_tokens": n})) for n in found
        )
        with patch.object(generate, "waits_less", lambda _: False):
            plain = scorer.answer(rows, {"max_new_tokens": 12, "min_new_tokens": 12})
    yield "waits for the device in ten more tokens of an answer", twelve - two, 0
    yield "answers in fp32 that differ from those of a growing cache", sum(map(ne, found[12], plain)), 0


def synchronised(work: Callable[[], Any]) -> float:
    """How often torch says that work synchronises."""
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        work()
    torch.cuda.set_sync_debug_mode("default")
    found = [w for w in caught if "synchroniz" in str(w.message)]
    for place in sorted({f"{w.filename}:{w.lineno}" for w in found}):
        print(f"        waits at {place}")
    return float(len(found))


if __name__ == "__main__":
    sys.exit(main())
