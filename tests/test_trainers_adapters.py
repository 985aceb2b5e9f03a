"""Adapters: a run is decided by its seed."""

from __future__ import annotations

from pathlib import Path

import torch

from tests import training


def test_the_seed_decides_where_adapters_begin(tiny_llava: Path, tmp_path: Path) -> None:
    """And not what was drawn before, as with trl up to 1.14."""
    begun = []
    for before, seed in ((1, 0), (2, 0), (2, 3)):
        torch.manual_seed(before)
        run = training.trainer(training.config(tiny_llava, tmp_path, lora_r=4, seed=seed))
        begun.append({name: value for name, value in training.weights(run).items() if "lora_A" in name})
    assert len(begun[0]) == 8
    assert training.largest_difference(*begun[:2]) == 0.0
    assert training.largest_difference(*begun[1:]) > 1e-3
