"""The search for the worst where the worst is known: closed forms, formulas of the papers, budgets after rounding."""

from __future__ import annotations

import pytest
import torch

from mmi_plugin.attacks.apgd import apgd, checkpoints
from mmi_plugin.attacks.balls import Ball, as_bytes
from mmi_plugin.attacks.coordinates import coordinate_search
from mmi_plugin.attacks.losses import Loss, dlr, losses, margin
from mmi_plugin.attacks.square import square

F64 = torch.float64


def ball(norm: str, eps: float, rows: int = 3, length: int = 4, width: int = 5) -> Ball:
    mask = torch.ones(rows, length, dtype=torch.bool)
    mask[:, 0] = False
    return Ball(norm, torch.full((rows, 1, 1), eps, dtype=F64), mask)


def test_checkpoints_are_those_of_the_paper() -> None:
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]  # section 3 of Croce and Hein, for 100 iterations


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
@pytest.mark.parametrize("kind", ["ce", "dlr"])
def test_a_linear_model_is_moved_to_the_corner_that_is_known(norm: str, dual: int, kind: str) -> None:
    torch.manual_seed(0)
    weight = torch.randn(3, 4, 5, dtype=F64)
    free = weight.clone()
    free[:, 0] = 0  # outside of the mask
    most = 0.3 * free.flatten(1).norm(p=dual, dim=1)
    bias = -most - 0.1  # so that no row is ever broken, and none leaves

    def logits(delta: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        climbs = (weight[rows] * delta).flatten(1).sum(1) + bias[rows]
        return torch.stack([torch.zeros_like(climbs), climbs], 1)

    own, gold = ball(norm, 0.3), torch.zeros(3, dtype=torch.long)
    start = own.random(torch.tensor([1, 2, 3]), 5)
    found = apgd(logits, Loss(kind), own, start, gold, 50)
    assert found.margin == pytest.approx(torch.full((3,), -0.1, dtype=F64), abs=1e-6)
    assert not found.delta[:, 0].any() and found.passes == 3 * 51
    if norm == "linf":
        assert found.delta[:, 1:] == pytest.approx(0.3 * weight[:, 1:].sign())
    assert (found.loss[:, 1:] >= found.loss[:, :-1]).all()


def test_a_maximum_inside_of_the_ball_is_found_and_a_broken_row_leaves() -> None:
    """-|delta - c|^2, whose maximum is c: sign steps of a fixed size go round it, so the halving is what finds it."""
    torch.manual_seed(1)
    own, seen = ball("linf", 1.0), []
    centre = (torch.rand(3, 4, 5, dtype=F64) - 0.5) * own.mask[..., None]
    height = torch.tensor([-0.5, -0.5, 0.5], dtype=F64)  # only the last row can be broken

    def logits(delta: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        seen.append(rows.tolist())
        climbs = height[rows] - (delta - centre[rows]).square().flatten(1).sum(1)
        return torch.stack([torch.zeros_like(climbs), climbs], 1)

    found = apgd(logits, Loss("ce"), own, torch.zeros(3, 4, 5, dtype=F64), torch.zeros(3, dtype=torch.long), 200)
    assert found.margin[:2] == pytest.approx(torch.tensor([-0.5, -0.5], dtype=F64), abs=1e-2)
    assert found.margin[2] > 0 and seen[0] == [0, 1, 2] and seen[-1] == [0, 1]
    assert found.loss[2].isnan().any() and not found.loss[:2].isnan().any()


def test_square_finds_the_corner_without_a_gradient() -> None:
    weight = torch.ones(3, 4, 5, dtype=F64)

    def logits(delta: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        climbs = (weight[rows] * delta).flatten(1).sum(1) - 100
        return torch.stack([torch.zeros_like(climbs), climbs], 1)

    own = ball("linf", 0.3)
    found = square(logits, own, torch.zeros(3, 4, 5, dtype=F64), torch.zeros(3, dtype=torch.long), 200, seed=0)
    assert found.margin == pytest.approx(torch.full((3,), 0.3 * 15 - 100, dtype=F64))
    assert (found.delta.abs() <= 0.3).all() and not found.delta[:, 0].any()


def test_the_best_suffix_of_a_linear_model_is_found_token_by_token() -> None:
    torch.manual_seed(4)
    table = torch.randn(3, 20, dtype=F64)  # what each token is worth at each place
    allowed = torch.ones(20, dtype=torch.bool)
    allowed[7] = False
    table[:, 7] = 100

    def look(tried: torch.Tensor) -> torch.Tensor:
        return table[torch.arange(3), tried].sum(1) - 1000

    def valid(tried: torch.Tensor) -> torch.Tensor:
        return tried[:, 0] != best[0]  # what no text can say

    free = table.masked_fill(~allowed, -torch.inf)
    best = free.argmax(1)
    free[0, best[0]] = -torch.inf
    found, curve = coordinate_search(lambda _: table, look, valid, torch.zeros(3).long(), allowed, 60, 16, seed=0)
    assert found.tolist() == free.argmax(1).tolist() and curve == sorted(curve)
    assert curve[-1] == pytest.approx(float(free.amax(1).sum()) - 1000)


def test_losses_are_their_formulas() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5, 1.0], [0.0, 3.0, 1.0, -2.0]], dtype=F64)
    gold, target = torch.tensor([0, 2]), torch.tensor([2, 0])
    # -(z_y - max z_i) / (z_pi1 - z_pi3), and -(z_y - z_t) / (z_pi1 - (z_pi3 + z_pi4) / 2), by hand
    assert dlr(logits, gold).tolist() == pytest.approx([-(2 - 1) / (2 - 0.5), -(1 - 3) / (3 - 0)])
    assert dlr(logits, gold, target).tolist() == pytest.approx(
        [-(2 - 0.5) / (2 - (0.5 - 1) / 2), -(1 - 0) / (3 - (0 - 2) / 2)]
    )
    assert margin(logits, gold).tolist() == [-1, 2]
    total = logits.exp().sum(1).log().tolist()
    assert Loss("ce")(logits, gold).tolist() == pytest.approx([total[0] - 2, total[1] - 1])
    assert Loss("ce", 2)(logits, gold).tolist() == pytest.approx(
        [0.5 - total[0], 0 - total[1]]
    )  # gold + 2, in a circle
    assert len(losses(4)) == 8 and len(losses(2)) == 2
    for loss in losses(4):
        assert torch.autograd.gradcheck(lambda z, loss=loss: loss(z, gold), logits.clone().requires_grad_(True))
    assert dlr(5 * logits, gold).tolist() == pytest.approx(dlr(logits, gold).tolist())  # no scaling changes it


@pytest.mark.parametrize(("norm", "eps"), [("linf", 8), ("linf", 2.5), ("l2", 40), ("l2", 3)])
def test_budgets_hold_to_the_last_bit_after_rounding_to_bytes(norm: str, eps: float) -> None:
    torch.manual_seed(2)
    origin = torch.randint(0, 256, (2, 12, 16)).double() / 255
    origin[0, 0] = 1.0  # at the edge, beyond which nothing may go
    own = Ball(norm, torch.full((2, 1, 1), eps / 255, dtype=F64), torch.ones(2, 12, dtype=torch.bool), origin)
    moved = origin + own.random(torch.tensor([5, 6]), 16)
    made = as_bytes(moved, own)
    assert made.dtype == torch.int64 and made.min() >= 0 and made.max() <= 255
    steps = made - (origin * 255).round().long()
    size = steps.abs().amax((1, 2)) if norm == "linf" else steps.double().flatten(1).norm(dim=1)
    assert (size <= eps).all() and steps.any(), "within the budget exactly, and not by doing nothing"
    if norm == "linf":
        assert (size == int(eps)).all()


def test_what_is_moved_stays_within_its_ball_and_its_box() -> None:
    torch.manual_seed(3)
    origin = torch.rand(2, 4, 5, dtype=F64)
    for norm in ("linf", "l2"):
        own = Ball(norm, torch.full((2, 1, 1), 0.7, dtype=F64), torch.ones(2, 4, dtype=torch.bool), origin)
        for delta in (torch.randn(2, 4, 5, dtype=F64) * 3, own.random(torch.tensor([1, 2]), 5)):
            kept = own.project(delta)
            size = kept.abs().amax((1, 2)) if norm == "linf" else kept.flatten(1).norm(dim=1)
            assert (size <= 0.7 + 1e-12).all() and ((origin + kept) >= 0).all() and ((origin + kept) <= 1).all()
            assert own.project(kept) == pytest.approx(kept)


@pytest.mark.parametrize("slope", [0.0, float("nan")])
def test_a_gradient_that_leads_nowhere_is_told(slope: float) -> None:
    def logits(delta: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        climbs = slope * delta.flatten(1).sum(1)
        return torch.stack([torch.ones_like(climbs), climbs], 1)

    own = ball("linf", 0.1)
    found = apgd(logits, Loss("dlr"), own, torch.zeros(3, 4, 5, dtype=F64), torch.zeros(3, dtype=torch.long), 3)
    assert found.still.tolist() == [True] * 3
