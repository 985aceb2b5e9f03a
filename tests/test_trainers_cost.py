"""Each saving computes less and changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.base.architecture import build_model, build_processor, build_tokenizer
from mmi_plugin.models.layout import Layout, Tree, attend, grow_trees
from mmi_plugin.trainers import run
from mmi_plugin.trainers.config import Savings
from tests import tiny, training

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
    trainer = training.trainer(training.config(checkpoint, output, **{**STEP, **fields}))
    batch = trainer.data_collator(training.step_groups(trainer))
    with FlopCounterMode(display=False) as counter:
        loss = trainer.compute_loss(trainer.model.train(), batch)
        loss.backward()
    gradients = {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}
    return loss.item(), gradients, counter.get_total_flops()


@pytest.fixture(scope="module")
def whole(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[float, dict[str, torch.Tensor], int]:
    return one_step(checkpoint, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("off", [*((name,) for name in training.SAVINGS), training.SAVINGS], ids="+".join)
def test_a_saving_saves_and_changes_nothing(
    checkpoint: Path, tmp_path: Path, whole: tuple[float, dict[str, torch.Tensor], int], off: tuple[str, ...]
) -> None:
    loss, gradients, flops = one_step(checkpoint, tmp_path, **dict.fromkeys(off, False))
    assert flops > whole[2]
    assert loss == pytest.approx(whole[0], rel=1e-5)
    assert gradients.keys() == whole[1].keys()
    for name, gradient in gradients.items():
        assert (gradient - whole[1][name]).norm() <= 1e-5 * gradient.norm() + 1e-7, name


def test_the_savings_change_nothing_where_the_whole_prompt_moves(checkpoint: Path, tmp_path: Path) -> None:
    fields = {"attack_text": "prompt", "attack_mask": "all"}
    loss, gradients, _ = one_step(checkpoint, tmp_path, **fields)
    plain, expected, _ = one_step(checkpoint, tmp_path, **fields, reference=True)
    narrow, _, _ = one_step(checkpoint, tmp_path, attack_text="prompt")
    assert loss == pytest.approx(plain, rel=1e-5)
    assert abs(loss - narrow) > 1e-3
    for name, gradient in expected.items():
        assert (gradient - gradients[name]).norm() <= 1e-5 * gradient.norm() + 1e-7, name


def test_reference_is_one_hidden_field_that_the_record_names(
    tiny_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    args = training.config(tiny_llava, tmp_path, reference=True)
    assert args.savings == Savings(**dict.fromkeys(training.SAVINGS, False)) != Savings()
    assert args.to_dict()["reference"] is True and not set(training.SAVINGS) & set(args.to_dict())
    with pytest.raises(SystemExit):
        run.main(["--help"])
    said = capsys.readouterr().out
    assert "--attack_mask" in said and not [name for name in ("reference", *training.SAVINGS) if f"--{name}" in said]


def test_a_tree_sees_its_prefix_and_its_own_branch() -> None:
    """Every row reads as if it were alone: two trees and a lone row, also with the prefixes' keys before."""
    torch.manual_seed(0)
    lengths, width = [5, 4, 6, 3], 6
    trees = [Tree((0, 2), 3), Tree((1,), 2), Tree((3,), 0)]
    states = torch.randn(3, len(lengths), width, 2, 4)  # query, key, value; 2 heads
    states[:, 2, :3] = states[:, 0, :3]
    alone = [
        scaled_dot_product_attention(*(part[row, :length].transpose(0, 1) for part in states), is_causal=True)
        for row, length in enumerate(lengths)
    ]

    def attended(queries: Layout, *keys: Layout) -> torch.Tensor:
        query = queries.pack(states[0]).transpose(1, 2)
        key, value = (torch.cat([k.pack(part) for k in keys], 1).transpose(1, 2) for part in states[1:])
        return queries.unpack(attend(torch.nn.Identity(), query, key, value, None, trees=queries)[0])

    whole = Layout.of(trees, lengths, width, torch.device("cpu"))
    prefixes, branches = Layout.split(trees, lengths, width, torch.device("cpu"))
    assert whole.source.numel() == sum(lengths) - 3
    after = attended(branches, prefixes, branches)
    first = {row: tree.prefix for tree in trees for row in tree.rows}
    for row, length in enumerate(lengths):
        wanted = alone[row].transpose(0, 1)
        torch.testing.assert_close(attended(whole, whole)[row, :length], wanted)
        torch.testing.assert_close(after[row, first[row] : length], wanted[first[row] :])


class Elements(TorchDispatchMode):
    """Counts the elements of every tensor that comes out of an operation."""

    seen = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.seen += sum(leaf.numel() for leaf in tree_leaves(made) if isinstance(leaf, torch.Tensor))
        return made


def test_the_gradient_of_a_layout_costs_what_its_rows_cost() -> None:
    """Twice the rows are twice the work; the gradient of a slice is as long as the whole, which makes it four times."""

    def work(rows: int) -> int:
        trees = [Tree((row, row + 1), 4) for row in range(0, rows, 2)]
        layout = Layout.of(trees, [8] * rows, 8, torch.device("cpu"))
        states = torch.randn(3, 1, 2, layout.source.numel(), 4, requires_grad=True)
        attended, _ = attend(torch.nn.Identity(), *states.unbind(), None, trees=layout)
        with Elements() as elements:
            attended.sum().backward()
        return elements.seen

    assert work(64) < 2.2 * work(32)


def test_trees_join_rows_that_begin_alike() -> None:
    keys = np.array([[1, 1, 1, 1, 5, 5], [2, 1, 1, 1, 5, 5], [1, 1, 1, 1, 6, 0], [1, 1, 1, 7, 0, 0]])
    trees = grow_trees(keys, [6, 6, 5, 4])
    assert {(frozenset(tree.rows), tree.prefix) for tree in trees} == {(frozenset({0, 2, 3}), 3), (frozenset({1}), 0)}
