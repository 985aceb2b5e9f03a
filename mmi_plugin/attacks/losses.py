"""Logits of the options in, what an adversary climbs on out: (A, K) of A rows with K options each -> (A,)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn.functional import cross_entropy

_TINY = 1e-12


class Loss(NamedTuple):
    """`kind` "ce" or "dlr"; `target`: how many options after the right one, in a circle, the wrong one is that is
    climbed to; 0 for any."""

    kind: str
    target: int = 0

    def __call__(self, logits: torch.Tensor, gold: torch.Tensor) -> torch.Tensor:
        """logits: (A, K). gold: (A,) int64, the right option. Return (A,)."""
        towards = (gold + self.target) % logits.shape[1]
        if self.kind == "dlr":
            return dlr(logits, gold, towards if self.target else None)
        if self.target:
            return -cross_entropy(logits, towards, reduction="none")
        return cross_entropy(logits, gold, reduction="none")


def losses(options: int) -> list[Loss]:
    """Return what one restart climbs on: each loss untargeted, and with every wrong one of `options` as a target."""
    targets = range(1, options) if options > 2 else ()  # of two options the only wrong one is any
    return [Loss(kind, target) for target in (0, *targets) for kind in ("ce", "dlr")]


def margin(logits: torch.Tensor, gold: torch.Tensor) -> torch.Tensor:
    """How far the best wrong option is above the right one: logits (A, K), gold (A,) -> (A,)."""
    wrong = logits.scatter(1, gold[:, None], -torch.inf).amax(1)
    return wrong - logits.gather(1, gold[:, None])[:, 0]


def dlr(logits: torch.Tensor, gold: torch.Tensor, target: torch.Tensor | None = None) -> torch.Tensor:
    """Difference of logits ratio (Croce and Hein 2020, (6) and (7)): a margin that no scaling of the logits changes.

    logits: (A, K). gold, target: (A,) int64. With pi the order of the logits, -(z_y - max_(i != y) z_i) over
    z_pi1 - z_pi3 or, targeted, -(z_y - z_t) over z_pi1 - (z_pi3 + z_pi4) / 2; over z_pi1 - z_pi3 of three options, and
    over nothing of two.
    """
    above = margin(logits, gold)
    if target is not None:
        above = (logits.gather(1, target[:, None]) - logits.gather(1, gold[:, None]))[:, 0]
    ordered = logits.sort(1, descending=True).values
    options = logits.shape[1]
    if options < 3:
        return above
    third = ordered[:, 2] if target is None or options < 4 else ordered[:, 2:4].mean(1)
    return above / (ordered[:, 0] - third + _TINY)
