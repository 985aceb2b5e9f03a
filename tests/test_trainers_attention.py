"""The attention of a layout in one call: outputs, gradients and a step as piece by piece; what stays as it is."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.attention import flex_attention as torch_flex
from torch.nn.functional import scaled_dot_product_attention

from mmi_plugin.errors import InputError
from mmi_plugin.models import attention, flex, layout, replay
from mmi_plugin.models.compat import attention_of
from mmi_plugin.models.flex import mask_of, rung
from mmi_plugin.models.layout import Layout, Tree, attend
from mmi_plugin.trainers import forward
from mmi_plugin.trainers.config import MMIConfig
from tests import families, training
from tests.test_trainers_inner import STEP

CPU = torch.device("cpu")
# Two trees, a row alone and one that ends with its tree's prefix; lengths beside and across blocks of 128.
TREES = [Tree((0, 2, 3), 130), Tree((1,), 5), Tree((4, 5), 128)]
LENGTHS = [200, 700, 131, 130, 128, 260]


@pytest.fixture(autouse=True)
def _gradients_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let FlexAttention's own plain implementation have gradients here: torch only compiles them for a GPU."""
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *_: None)
    monkeypatch.setattr(flex, "LADDER_FROM", 256)


def layouts() -> dict[str, tuple[Layout, int]]:
    """A layout, and how many keys come before its own, for the whole, for prefixes and for what comes after them."""
    prefixes, branches = Layout.split(TREES, LENGTHS, max(LENGTHS), CPU)
    return {
        "whole": (Layout.of(TREES, LENGTHS, max(LENGTHS), CPU), 0),
        "prefixes": (prefixes, 0),
        "branches": (branches, len(prefixes.source)),
    }


def seen(trees: Layout) -> torch.Tensor:
    """(T, T') bool by the words of Layout: a position sees the prefix of its piece and, causally, the piece itself."""
    rows = []
    begins = np.cumsum([0, *trees.chunks])
    for own, prefix in enumerate(trees.pieces, len(trees.chunks) - len(trees.pieces)):
        for position in range(trees.chunks[own]):
            row = torch.zeros(sum(trees.chunks), dtype=torch.bool)
            row[begins[own] : begins[own] + position + 1] = True
            if prefix is not None:
                row[begins[prefix] : begins[prefix + 1]] = True
            rows.append(row)
    return torch.stack(rows)


class Heads(torch.nn.Module):
    """What a decoder's attention says of itself where each head of keys serves two of queries."""

    num_key_value_groups = 2


@pytest.mark.parametrize("part", ["whole", "prefixes", "branches"])
def test_one_call_attends_as_pieces_do_and_so_do_its_gradients(part: str) -> None:
    torch.manual_seed(0)
    trees, before = layouts()[part]
    length = len(trees.source)
    shapes = (1, 4, length, 16), (1, 2, before + length, 16), (1, 2, before + length, 16)
    states = [torch.randn(shape, requires_grad=True) for shape in shapes]
    toward, found = torch.randn(1, length, 4, 16), {}
    for way in ("flex", "pieces"):
        attended, _ = attend(Heads(), *states, None, trees=trees, way=way, scaling=0.3)
        found[way] = attended, *torch.autograd.grad((attended * toward).sum(), states)
    repeated = (t.double().repeat_interleave(2, 1) for t in states[1:])
    wanted = scaled_dot_product_attention(states[0].double(), *repeated, attn_mask=seen(trees), scale=0.3)
    torch.testing.assert_close(found["flex"][0].double(), wanted.transpose(1, 2), rtol=1e-5, atol=1e-5)
    for one, other in zip(found["flex"], found["pieces"], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("window", [None, 40, 150])
@pytest.mark.parametrize("part", ["whole", "prefixes", "branches"])
def test_pieces_of_one_prefix_may_attend_together(
    part: str, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: against the words of Layout in double precision, with as many calls as there are groups."""
    torch.manual_seed(0)
    calls, plain = [], attention.sdpa_attention_forward
    monkeypatch.setattr(attention, "sdpa_attention_forward", lambda *a, **k: (calls.append(1), plain(*a, **k))[1])
    pairs, near = seen(layouts()[part][0]), positions(layouts()[part][0])
    if window is not None:
        pairs &= near[0][:, None] - near[1] < window
    monkeypatch.setattr(attention, "BY_ITSELF", ())
    alone, together = {"whole": (7, 6), "prefixes": (3, 3), "branches": (4, 3)}[part]
    for most, expected in ((0, alone), (70, alone), (71, together), (10_000, together)):  # two have 70 and 1 queries
        trees, before = layouts()[part]
        monkeypatch.setattr(attention, "TOGETHER", most)
        shapes = (1, 4, len(trees.source), 16), *(2 * [(1, 2, before + len(trees.source), 16)])
        states = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
        calls.clear()
        found, _ = attend(Heads(), *states, None, trees=trees, scaling=0.3, sliding_window=window)
        repeated = (t.repeat_interleave(2, 1) for t in states[1:])
        wanted = scaled_dot_product_attention(states[0], *repeated, attn_mask=pairs, scale=0.3)
        torch.testing.assert_close(found, wanted.transpose(1, 2), rtol=1e-9, atol=1e-12)
        assert len(calls) == expected


@pytest.mark.parametrize("part", ["whole", "prefixes", "branches"])
def test_a_small_layout_attends_in_one_call_of_sdpa_elsewhere_than_on_a_cpu(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs and gradients, against the words of Layout in double precision."""
    torch.manual_seed(0)
    trees, before = layouts()[part]
    length, pairs = len(trees.source), seen(trees)
    shapes = (1, 4, length, 16), (1, 2, before + length, 16), (1, 2, before + length, 16)
    states = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    toward = torch.randn(1, length, 4, 16, dtype=torch.float64)
    repeated = (t.repeat_interleave(2, 1) for t in states[1:])
    wanted = scaled_dot_product_attention(states[0], *repeated, attn_mask=pairs, scale=0.3).transpose(1, 2)
    wanted = wanted, *torch.autograd.grad((wanted * toward).sum(), states)
    calls, plain = [], attention.sdpa_attention_forward
    monkeypatch.setattr(attention, "sdpa_attention_forward", lambda *a, **k: (calls.append(1), plain(*a, **k))[1])
    products = 4 * 16 * length * (before + length)
    for kinds, most, whole in ((("cpu",), products, False), ((), products, True), ((), products - 1, False)):
        monkeypatch.setattr(attention, "BY_ITSELF", kinds)
        monkeypatch.setattr(attention, "SMALL", most)
        trees.kept.clear()
        calls.clear()
        attended, _ = attend(Heads(), *states, None, trees=trees, way="auto", scaling=0.3)
        found = attended, *torch.autograd.grad((attended * toward).sum(), states)
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
        assert (len(calls) == 1) == whole


def positions(trees: Layout) -> tuple[torch.Tensor, torch.Tensor]:
    """Where queries and keys stand in their rows: after the prefix of their piece, if it has one."""
    first, found = len(trees.chunks) - len(trees.pieces), [torch.arange(size) for size in trees.chunks]
    for own, prefix in enumerate(trees.pieces, first):
        found[own] = found[own] + (0 if prefix is None else trees.chunks[prefix])
    return torch.cat(found[first:]), torch.cat(found)


@pytest.mark.parametrize("part", ["whole", "prefixes", "branches"])
def test_blocks_are_those_that_are_seen(part: str) -> None:
    trees, _ = layouts()[part]
    mask, pairs = mask_of(trees.blocks(), CPU), seen(trees)
    padded = torch.zeros(mask.shape[-2:], dtype=torch.bool)
    padded[: pairs.shape[0], : pairs.shape[1]] = pairs
    counts = padded.view(padded.shape[0] // 128, 128, -1, 128).sum((1, 3))
    assert torch.equal(mask.to_dense()[0, 0].bool(), counts > 0)
    assert mask.full_kv_num_blocks.sum() == (counts == 128 * 128).sum() and (part != "whole" or counts.max() == 128**2)


def test_the_ladder_has_few_rungs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    rungs = {rung(length) for length in range(1, 40_000, 7)}
    powers = [2560, 3072, 3584, 4096, 5120, 6144, 7168, 8192, 10240, 12288, 14336, 16384]
    assert sorted(rungs) == [*powers, 20480, 24576, 28672, 32768, 40960]
    assert all(rung(length) >= length for length in range(1, 40_000, 7)) and not any(length % 128 for length in rungs)
    assert all(rung(length) < 1.25 * length + 128 for length in range(2560, 40_000, 7))


def test_autocast_gives_all_three_one_type(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does for torch's own attention, which is the reference: rotary embeddings leave single precision. Else no
    run over weights in single precision, as most are, would attend in one call."""
    trees, _ = layouts()["whole"]
    asked: list[torch.dtype] = []
    monkeypatch.setattr(attention, "suits", lambda query, _: bool(asked.append(query.dtype)))
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 2, len(trees.source), 16) for _ in range(3))
    found = {}
    with torch.autocast("cpu", torch.bfloat16):
        for way in ("flex", "pieces", "auto"):
            found[way] = attend(torch.nn.Module(), query, key, value.bfloat16(), None, trees=trees, way=way)[0]
    assert {one.dtype for one in (*found.values(), query.bfloat16())} == {*asked} == {torch.bfloat16}
    assert (found["flex"].float() - found["pieces"].float()).abs().max() < 0.02


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_a_step_in_one_call_is_the_step_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    monkeypatch.setattr(layout, "MIN_SHARED", 0.01)  # the tiny rows have few image tokens
    checkpoint, found = families.save(family, tmp_path / "start"), {}
    for way in ("pieces", "flex"):
        trainer = training.trainer(training.config(checkpoint, tmp_path, attack_text="after_image", **STEP))
        trainer.args.layout_attention = way
        loss = trainer.compute_loss(trainer.model.train(), trainer.data_collator(training.step_groups(trainer)))
        loss.backward()
        gradients = {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}
        found[way] = loss.item(), gradients
        assert attention_of(trainer.model.get_decoder()) == f"mmi_trees_{way}"
    assert found["flex"][0] == pytest.approx(found["pieces"][0], rel=1e-5)
    for name, gradient in found["pieces"][1].items():
        assert (found["flex"][1][name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-7, name


@pytest.mark.parametrize("before", [True, False])
def test_the_mask_of_the_outer_pass_is_made_with_the_batch(
    tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    trainer = training.trainer(training.config(tiny_llava, tmp_path, attack_text="after_image", **STEP))
    trainer.args.layout_attention = "flex"
    monkeypatch.setattr(replay, "WORTH", 0.0)  # the rows of this model begin with little that stays
    trainer.data_collator._at_once = before
    batch = trainer.data_collator(training.step_groups(trainer))
    batch["plan"] = pickle.loads(pickle.dumps(batch["plan"]))  # as a worker hands it over
    made, make = [], attention.blocks_of
    monkeypatch.setattr(attention, "blocks_of", lambda *parts: made.append(parts) or make(*parts))
    trainer.compute_loss(trainer.model.train(), batch)
    assert len(made) == 3 - before, "of the inner loop's prefixes and branches, which are cut as memory is free"


@pytest.mark.parametrize(
    ("way", "device", "half", "expected"),
    [("auto", "cuda", True, True), ("auto", "cuda", False, False), ("auto", "cpu", True, False),
     ("flex", "cuda", False, True), ("pieces", "cuda", True, False)],
)  # fmt: skip
def test_masks_are_made_with_the_batch_where_they_are_used(way: str, device: str, half: bool, expected: bool) -> None:
    assert layout.at_once(way, torch.device(device), half) is expected


def test_what_cannot_be_had_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'layout_attention' is 'flex', which has no gradient on a CPU"):
        MMIConfig(output_dir=str(tmp_path), use_cpu=True, layout_attention="flex")
    with pytest.raises(InputError, match="'layout_attention' is 'flx'"):
        MMIConfig(output_dir=str(tmp_path), use_cpu=True, layout_attention="flx")
    trees, states = layouts()["prefixes"][0], torch.zeros(1, 2, 258, 16)
    with pytest.raises(InputError, match="drops attention weights"):
        attend(torch.nn.Identity(), states, states, states, None, trees=trees, way="flex", dropout=0.1)


def test_flash_attention_keeps_the_layout(tiny_llava: Path, tmp_path: Path) -> None:
    """Its place in the decoder is taken by the layout's own; nothing of it runs, so it need not be installed here."""
    run = training.trainer(training.config(tiny_llava, tmp_path, **STEP))
    batch = run.data_collator(training.step_groups(run))
    expected = run.compute_loss(run.model.train(), batch)
    decoder = run.model.get_decoder()
    decoder.config._attn_implementation_internal = "flash_attention_2"
    assert forward.lays_out(run.model, run.args.savings) and attention_of(decoder) == "mmi_trees_auto"
    decoder.config._attn_implementation_internal = "eager"
    assert not forward.lays_out(run.model, run.args.savings) and attention_of(decoder) == "eager"
    decoder.config._attn_implementation_internal = "flash_attention_2"
    assert torch.equal(run.compute_loss(run.model, batch), expected)


def test_no_attention_plans_for_every_length(tiny_llava: Path, tmp_path: Path) -> None:
    torch.backends.cuda.enable_cudnn_sdp(True)
    training.trainer(training.config(tiny_llava, tmp_path))
    assert not torch.backends.cuda.cudnn_sdp_enabled()
