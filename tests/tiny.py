"""Tiny checkpoints with random weights, built in under a second each."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.base.architecture import build_model, build_processor, build_tokenizer
from mmi_plugin.conditions import get
from mmi_plugin.item import user_text
from mmi_plugin.sources import load


def texts() -> list[str]:
    """Prompts of a few items of every demo source under every condition."""
    found = []
    for name in ("demo_digits", "demo_arith", "demo_capitals"):
        bench = load(name, "train")
        for item in bench.items[:20]:
            found += [user_text(get(c)(item, 0, bench.pools)) for c in bench.conditions]
    return found


def save_llava(folder: Path, seed: int = 0, spread: float = 0.15) -> Path:
    """Save a LLaVA of about 0.1 M parameters whose outputs depend on image and text."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(texts(), 600)
    model = build_model(tokenizer, 28, 14, vision=(32, 2, 2), text=(32, 2, 2), max_length=1024)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=spread)
    model.save_pretrained(folder)
    build_processor(tokenizer, 28, 14).save_pretrained(folder)
    return folder
