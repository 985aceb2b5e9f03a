"""Training on public benchmarks: the train splits through the trainer, pictures decoded once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmi_plugin.documents import Selection, documents
from mmi_plugin.pictures import Picture
from mmi_plugin.sources import load
from mmi_plugin.sources.local import ROOT
from mmi_plugin.trainers.collator import GroupCollator
from mmi_plugin.trainers.saving import load_checkpoint
from tests.suite import DATA, at
from tests.training import config, groups_of, trainer, weights

SOURCES = ["mini_imagenet", "caltech101", "openbookqa", "mmlu", "demo_arith"]


@pytest.fixture(autouse=True)
def data_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ROOT, str(DATA))
    load.cache_clear()


def test_two_steps_on_the_training_splits(tiny_llava: Path, tmp_path: Path) -> None:
    run = trainer(config(tiny_llava, tmp_path, sources=SOURCES))
    assert len(run._groups) == 8 + 15 + 4 + 3 + len(load("demo_arith", "train").items)
    before = weights(run)
    run.train()
    assert any(not torch.equal(before[name], value) for name, value in weights(run).items())


def test_the_rows_of_a_group_share_one_decoded_image(tiny_llava: Path, tmp_path: Path) -> None:
    args = config(tiny_llava, tmp_path, sources=["mini_imagenet", "caltech101"], mix=[1, 0, 0])
    collator = GroupCollator(load_checkpoint(args)[1], args.max_length, args.data_seed)
    groups = groups_of(args)
    batch = collator([groups[i, 0] for i in range(0, 20, 2)])
    assert batch["image_index"].tolist() == [number for number in range(10) for _ in range(3)]
    assert len(batch["pixel_values"]) == 10


@pytest.mark.parametrize("name", ["mini_imagenet", "scienceqa", "openbookqa"])
def test_building_documents_decodes_no_picture(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Picture, "open", lambda picture: pytest.fail(f"decoded: {picture._where}"))
    task = Selection.parse({"source": name, "path": at(name)}, "test", "mine")
    bench = task.benchmark()
    assert len(documents(bench, task.conditions).rows) == len(bench.items) * len(bench.conditions)
    assert len(bench.digest(task.conditions, task.seed)) == 64
