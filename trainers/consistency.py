"""Divergences between the answers of a group's origin and of its other rows (method section 2).

All take one entry per answer token, (M, ·), read where the cross entropy reads: position t - 1
predicts token t.
"""

from __future__ import annotations

import torch
from torch.nn.functional import kl_div, log_softmax


def kl(origin: torch.Tensor, other: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """KL(origin || other) of logits (M, V) -> (M,). The origin is the teacher: it gets no gradient."""
    teacher = log_softmax(origin.detach() / temperature, -1)
    student = log_softmax(other / temperature, -1)
    return kl_div(student, teacher, reduction="none", log_target=True).sum(-1)


def js(origin: torch.Tensor, other: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Jensen-Shannon divergence in nats of logits (M, V) -> (M,). Symmetric: both sides learn."""
    p = log_softmax(origin / temperature, -1)
    q = log_softmax(other / temperature, -1)
    middle = torch.logaddexp(p, q) - torch.log(torch.tensor(2.0, dtype=p.dtype, device=p.device))
    halves = [kl_div(middle, side, reduction="none", log_target=True).sum(-1) for side in (p, q)]
    return (halves[0] + halves[1]) / 2


def mse(origin: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Mean squared distance of last hidden states (M, D) -> (M,). Symmetric: both sides learn."""
    return (origin - other).square().mean(-1)


def group_sum(divergence: torch.Tensor, row: torch.Tensor, origin: torch.Tensor) -> torch.Tensor:
    """Average over a row's tokens, then over a group's rows; sum over the groups: a scalar.

    divergence, row: (M,), one entry per answer token of the rows that are not an origin.
    origin: (R,) the row of each row's origin, which names the group.
    """
    tokens = torch.bincount(row, minlength=len(origin))
    rows = torch.bincount(origin[row.unique()], minlength=len(origin))
    return (divergence / (tokens[row] * rows[origin[row]])).sum()
