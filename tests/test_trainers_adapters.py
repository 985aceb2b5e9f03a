"""Adapters: a run is decided by its seed, and adapters merge where several processes train."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import distributed

from mmi_plugin.trainers.saving import finish
from tests import training


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    """This process as one of a group, as a launcher makes it."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


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


def test_adapters_merge_in_one_of_several_processes(
    tiny_llava: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Where peft up to 0.19 looks for parts of transformers that are no longer there."""
    args = training.config(tiny_llava, tmp_path / "run", lora_r=4, learning_rate=1e-2, merge_lora=True)
    run = training.trainer(args)
    run.train()
    run.save_model(str(tmp_path / "adapters"))
    start = dict(training.weights(training.trainer(training.config(tiny_llava, tmp_path))))
    request.getfixturevalue("process_group")
    merged = finish(args, tmp_path / "adapters").state_dict()
    trained = dict(run.model.merge_and_unload().state_dict())
    assert training.largest_difference(merged, trained) < 1e-6
    assert training.largest_difference(merged, start) > 1e-3
