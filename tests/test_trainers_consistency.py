"""Divergences against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from mmi_plugin.trainers import losses as consistency

ORIGIN = torch.tensor([[0.5, 0.25, 0.25], [0.8, 0.1, 0.1]], dtype=torch.double).log()
OTHER = torch.tensor([[0.25, 0.5, 0.25], [0.1, 0.1, 0.8]], dtype=torch.double).log()


def leaves() -> tuple[torch.Tensor, torch.Tensor]:
    return ORIGIN.clone().requires_grad_(True), OTHER.clone().requires_grad_(True)


def test_kl_by_hand() -> None:
    first = 0.5 * math.log(2) - 0.25 * math.log(2)
    second = 0.7 * math.log(8)
    assert consistency.kl(ORIGIN, OTHER).tolist() == pytest.approx([first, second])
    assert consistency.kl(OTHER[1:], ORIGIN[1:]).item() == pytest.approx(second)
    assert consistency.kl(ORIGIN, ORIGIN).abs().max() < 1e-15


def test_kl_teaches_the_other_side_only() -> None:
    origin, other = leaves()
    consistency.kl(origin, other).sum().backward()
    assert origin.grad is None
    assert torch.allclose(other.grad, OTHER.exp() - ORIGIN.exp())


def test_temperature_flattens_both_sides() -> None:
    # sqrt of (0.5, 0.25, 0.25) is proportional to (1.41421, 1, 1)
    p = [math.sqrt(2) / (math.sqrt(2) + 2), 1 / (math.sqrt(2) + 2), 1 / (math.sqrt(2) + 2)]
    q = [p[1], p[0], p[2]]
    by_hand = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert consistency.kl(ORIGIN, OTHER, temperature=2.0)[0].item() == pytest.approx(by_hand)


def js(origin: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return sum(consistency.js(origin, other))


def test_js_by_hand() -> None:
    # middle of row 0 is (0.375, 0.375, 0.25)
    half = 0.5 * math.log(0.5 / 0.375) + 0.25 * math.log(0.25 / 0.375)
    assert js(ORIGIN, OTHER)[0].item() == pytest.approx(half)
    apart = torch.tensor([[0.0, -1e4]], dtype=torch.double), torch.tensor([[-1e4, 0.0]], dtype=torch.double)
    assert js(*apart).item() == pytest.approx(math.log(2))


def test_js_is_symmetric_and_both_sides_learn() -> None:
    origin, other = leaves()
    js(origin, other).sum().backward()
    assert torch.allclose(js(origin, other), js(other, origin))
    assert origin.grad.abs().max() > 0.01 and other.grad.abs().max() > 0.01


def test_mse_by_hand() -> None:
    a, b = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[3.0, 2.0], [1.0, 3.0]])
    assert consistency.mse(a, b).tolist() == [2.0, 5.0]


def test_group_mean_averages_tokens_then_rows_and_sums_groups() -> None:
    # Group of row 0: two rows with tokens (1, 3) and (5, 7). Group of row 3: one with (10, 20).
    divergence = torch.tensor([1.0, 3.0, 5.0, 7.0, 10.0, 20.0])
    place, group = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 0, 3])
    assert (divergence / consistency.mean_over(place, group)).sum().item() == pytest.approx((2 + 6) / 2 + 15)
