"""The inner loop in chunks of rows: the delta of one chunk, within the tokens that it may take."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmi_plugin.models import layout, replay
from mmi_plugin.models.layout import Tree
from mmi_plugin.models.replay import CachedPrefix
from mmi_plugin.trainers import inner
from mmi_plugin.trainers.inner import Budget, cut
from mmi_plugin.trainers.trainer import MMITrainer
from tests import families, training
from tests.test_trainers_adversary import attacked

STEP: dict[str, Any] = {
    "adversary": "pgd",
    "step_rule": "l2",  # a sign would turn rounding into a whole step
    "step_size": 0.2,
    "eps": 0.3,
    "eps_mode": "relative",
    "consistency": "js",
}
ROWS = st.lists(st.integers(1, 30), min_size=1, max_size=4)
FAMILIES = ("llava", "qwen2_5_vl", "instructblip_opt", "gemma3")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """LLaVA; multimodal positions; features that depend on the prompt; a decoder whose rows stay padded."""
    return {name: families.save(name, tmp_path_factory.mktemp(name)) for name in FAMILIES}


def delta_and_loss(trainer: MMITrainer) -> tuple[torch.Tensor, float, list[int]]:
    """Delta and loss of the first step, and how many tokens each call of the decoder with a gradient had."""
    tokens: list[int] = []

    def count(module: torch.nn.Module, args: tuple[Any, ...], call: dict[str, Any]) -> None:
        if torch.is_grad_enabled() and not module.training:  # in the inner loop alone
            tokens.append(call["inputs_embeds"].shape[:2].numel())

    trainer.model.train()
    handle = trainer.model.get_decoder().register_forward_pre_hook(count, with_kwargs=True)
    predicted, _, loss = attacked(trainer, trainer.data_collator(training.step_groups(trainer)))
    handle.remove()
    return predicted.delta, loss.item(), tokens


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("text", ["prompt", "after_image"])
def test_chunks_change_nothing_and_keep_to_their_tokens(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, text: str
) -> None:
    monkeypatch.setattr(layout, "MIN_SHARED", 0.01)  # the tiny rows have few image tokens
    monkeypatch.setattr(replay, "WORTH", 0.0)
    fields = {**STEP, "attack_text": text}

    def run(tokens: int | None) -> tuple[torch.Tensor, float, list[int]]:
        return delta_and_loss(
            training.trainer(training.config(checkpoints[family], tmp_path, inner_tokens=tokens, **fields))
        )

    whole, loss, calls = run(None)
    assert whole.shape[0] == 7 and len(calls) == 2  # on a CPU, all at once
    for tokens in (1, max(calls) // 2):
        delta, again, cut_calls = run(tokens)
        assert len(cut_calls) > 2 and sum(cut_calls) == sum(calls)
        longest = max(calls) // 7 if family == "gemma3" else max(cut_calls) if tokens == 1 else 0
        assert max(cut_calls) <= max(tokens, longest)
        assert again == pytest.approx(loss, rel=1e-5)
        assert (delta - whole).norm() <= 1e-5 * whole.norm()


def test_out_of_memory_halves_the_tokens_and_goes_on(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(replay, "WORTH", 0.0)
    trainer = training.trainer(training.config(checkpoints["llava"], tmp_path, **STEP))
    whole, loss, calls = delta_and_loss(trainer)
    call = CachedPrefix.__call__
    room = max(trainer.data_collator(training.step_groups(trainer))["plan"].lengths)  # the longest row just fits
    assert max(calls) > 2 * room

    def small(self: CachedPrefix, moved: torch.Tensor) -> torch.Tensor:
        states = call(self, moved)
        if len(self._branches.source) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return states

    monkeypatch.setattr(CachedPrefix, "__call__", small)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    trainer = training.trainer(training.config(checkpoints["llava"], tmp_path, **STEP))
    with caplog.at_level(logging.WARNING):
        delta, again, cut_calls = delta_and_loss(trainer)
    assert trainer._budget.failures == 2  # to a half, to a quarter
    told = [record.message for record in caplog.records if "inner_tokens" in record.message]
    assert ["(1 so far)" in told[0], "(2 so far)" in told[1], len(told)] == [True, True, 2]
    assert again == pytest.approx(loss, rel=1e-5) and (delta - whole).norm() <= 1e-5 * whole.norm()
    *_, later = delta_and_loss(trainer)  # it has learnt
    assert trainer._budget.failures == 2 and max(later) <= room and len(cut_calls) > len(later)


def test_what_is_hardly_a_prefix_gets_no_pass_of_its_own(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass of the prefix and two steps, or two steps with it, find the same."""
    found = []
    for least in (0.0, 1.1):
        monkeypatch.setattr(replay, "WORTH", least)
        trainer = training.trainer(training.config(checkpoints["llava"], tmp_path, **STEP, pgd_steps=3))
        passes: list[int] = []
        hook = trainer.model.get_decoder().register_forward_hook(lambda *_, passes=passes: passes.append(1))
        loss = trainer.compute_loss(trainer.model.train(), trainer.data_collator(training.step_groups(trainer)))
        hook.remove()
        found.append((loss.item(), len(passes)))
    (loss, passes), (again, fewer) = found
    assert (passes, fewer) == (1 + 3 + 1, 3 + 1)
    assert again == pytest.approx(loss, rel=1e-5)


def test_a_row_that_does_not_fit_ends_the_run(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: CachedPrefix, moved: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(CachedPrefix, "__call__", full)
    monkeypatch.setattr(replay, "WORTH", 0.0)
    trainer = training.trainer(training.config(checkpoints["llava"], tmp_path, **STEP))
    with pytest.raises(torch.OutOfMemoryError):
        delta_and_loss(trainer)


def test_tokens_of_a_chunk_come_from_free_memory(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = training.trainer(training.config(checkpoints["llava"], tmp_path)).model.get_decoder()
    device = torch.device("cpu")
    # What goes in and out, by hand: q and o, k and v (one head of two), gate, up and down; in 16 bits and half as much.
    config = decoder.config
    hidden, inside = config.hidden_size, config.intermediate_size
    each = 3 * config.num_hidden_layers * (4 * hidden + 2 * (hidden + hidden // 2) + 3 * (hidden + inside))
    for free, expected in ((100 * each, 80), (10**15, inner.AT_ONCE), (0, 1)):
        monkeypatch.setattr(inner, "free_memory", lambda _, free=free: free)
        assert Budget().tokens(decoder, device) == expected
        assert Budget(7).tokens(decoder, device) == 7 and Budget(0).tokens(decoder, device) is None


@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.lists(st.integers(1, 30), min_size=1, max_size=4)), min_size=1, max_size=5
    ),
    st.integers(1, 60),
)
def test_a_cut_has_every_row_once_after_its_prefix(shapes: list[tuple[int, list[int]]], most: int) -> None:
    trees, lengths = [], []
    for prefix, sizes in shapes:
        trees.append(Tree(tuple(range(len(lengths), len(lengths) + len(sizes))), prefix))
        lengths += [prefix + size for size in sizes]
    chunks = cut(trees, lengths, most)
    found = [(row, tree.prefix) for chunk in chunks for tree in chunk for row in tree.rows]
    assert found == [(row, tree.prefix) for tree in trees for row in tree.rows]
    for chunk in chunks:
        rows = [lengths[row] - tree.prefix for tree in chunk for row in tree.rows]
        assert sum(rows) <= most or len(rows) == 1


def test_sharded_weights_are_gathered_once_where_memory_holds_them_and_a_chunk(
    checkpoints: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    decoder = training.trainer(training.config(checkpoints["llava"], tmp_path)).model.get_decoder()
    shards, device = SimpleNamespace(size=5000, later=3000), torch.device("cpu")
    monkeypatch.setattr(inner, "Arithmetic", SimpleNamespace(of=lambda _: SimpleNamespace(activations=10)))
    monkeypatch.setattr(inner, "most_of_all", lambda number, _: number)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    enough = (5000 + 3000 + 10 * 200) / 0.8
    for free, said, once in (
        (enough, None, True),
        (enough - 1, None, False),
        (None, None, True),
        (0, True, True),
        (enough, False, False),
    ):
        monkeypatch.setattr(inner, "free_memory", lambda _, free=free: free)
        budget, told = Budget(200, said), len(caplog.records)
        with caplog.at_level(logging.WARNING):
            assert [budget.gathers(decoder, shards, device) for _ in range(3)] == [once] * 3
        (record,) = caplog.records[told:]
        assert ("gathered once" in record.message) is once
