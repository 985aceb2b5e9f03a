"""Each saving computes less and changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mmi_plugin.demo.architecture import build_model, build_processor, build_tokenizer
from mmi_plugin.trainers.layout import Layout, Tree, first_fit_decreasing, grow_trees
from tests import tiny, training

SAVINGS = (
    "share_images",
    "pack_rows",
    "share_prefix",
    "answer_logits",
    "skip_unattacked",
    "reuse_prefix",
    "skip_weight_gradients",
)
STEP = {
    "adversary": "pgd",
    "step_rule": "l2",
    "step_size": 0.2,
    "eps": 0.3,
    "eps_mode": "relative",
    "attack_text": "after_image",
    "consistency": "js",
    "consistency_weight": 10.0,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA with 144 image tokens, wide enough for a shared prefix to pay."""
    folder = tmp_path_factory.mktemp("llava")
    torch.manual_seed(0)
    tokenizer = build_tokenizer(tiny.texts(), 600)
    model = build_model(tokenizer, 168, 14, vision=(32, 1, 2), text=(128, 2, 2), max_length=1024)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    build_processor(tokenizer, 168, 14).save_pretrained(folder)
    return folder


def one_step(checkpoint: Path, output: Path, **fields: Any) -> tuple[float, dict[str, torch.Tensor], int]:
    """Loss, gradients and FLOPs of one micro-batch."""
    trainer = training.trainer(training.config(checkpoint, output, **STEP, **fields))
    batch = trainer.data_collator(training.step_groups(trainer))
    with FlopCounterMode(display=False) as counter:
        loss = trainer.compute_loss(trainer.model.train(), batch)
        loss.backward()
    gradients = {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}
    return loss.item(), gradients, counter.get_total_flops()


@pytest.fixture(scope="module")
def whole(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[float, dict[str, torch.Tensor], int]:
    return one_step(checkpoint, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("off", [*((name,) for name in SAVINGS), SAVINGS], ids=lambda names: "+".join(names))
def test_a_saving_saves_and_changes_nothing(
    checkpoint: Path, tmp_path: Path, whole: tuple[float, dict[str, torch.Tensor], int], off: tuple[str, ...]
) -> None:
    loss, gradients, flops = one_step(checkpoint, tmp_path, **dict.fromkeys(off, False))
    assert flops > whole[2]
    assert loss == pytest.approx(whole[0], rel=1e-5)
    assert gradients.keys() == whole[1].keys()
    for name, gradient in gradients.items():
        assert (gradient - whole[1][name]).norm() <= 1e-5 * gradient.norm() + 1e-7, name


def test_a_tree_sees_its_prefix_and_its_own_branch() -> None:
    """Against the mask that follows from the words, for two trees and a lone row in one sequence."""
    lengths = [5, 4, 6, 3]
    layout = Layout.of([[Tree((0, 2), 3), Tree((1,), 0)], [Tree((3,), 0)]], lengths, 6, torch.device("cpu"))
    seen = layout.attention(torch.float32)[:, 0] == 0
    for row, length in enumerate(lengths):
        places = layout.place[row, :length]
        sequence, positions = places // seen.shape[1], places % seen.shape[1]
        assert len(set(sequence.tolist())) == 1
        for column, position in enumerate(positions):
            allowed = torch.zeros(seen.shape[1], dtype=torch.bool)
            allowed[positions[: column + 1]] = True
            assert torch.equal(seen[sequence[0], position], allowed)
    assert torch.equal(layout.place[0, :3], layout.place[2, :3])
    rows = torch.arange(4)[:, None] * 6 + torch.arange(6)
    for row in (1, 2, 3):
        got = layout.unpack(layout.pack(rows))[row, : lengths[row]].tolist()
        wanted = rows[row, : lengths[row]].tolist()
        assert got == (rows[0, :3].tolist() + wanted[3:] if row == 2 else wanted)


def test_trees_join_rows_that_begin_alike() -> None:
    keys = np.array([[1, 1, 1, 1, 5, 5], [2, 1, 1, 1, 5, 5], [1, 1, 1, 1, 6, 0], [1, 1, 1, 7, 0, 0]])
    trees = grow_trees(keys, [6, 6, 5, 4], limit=100)
    assert {(frozenset(tree.rows), tree.prefix) for tree in trees} == {(frozenset({0, 2, 3}), 3), (frozenset({1}), 0)}
    assert all(len(tree.rows) < 3 for tree in grow_trees(keys, [6, 6, 5, 4], limit=7))


def test_sequences_hold_every_tree_within_their_limit() -> None:
    lengths = [5, 9, 3, 3, 6, 2]
    trees = [Tree((row,), 0) for row in range(6)]
    bins = first_fit_decreasing(trees, lengths, 10)
    assert sorted(tree.rows[0] for part in bins for tree in part) == list(range(6))
    assert all(sum(lengths[tree.rows[0]] for tree in part) <= 10 for part in bins)
    assert len(bins) == 3
