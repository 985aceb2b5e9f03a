"""The sums (3) to (5) of the method: what predicts the answers of a batch's rows in, its loss out. Tensors alone.

Each difference between ours and the paper's code is a setting of `objective`, where all of them stand as formulas.
Shapes as in `method`; P positions are read, K rows are compared with their origins, over M answer tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from mmi_plugin.models.layout import gather
from mmi_plugin.trainers.method import IGNORED, AnswerTokens, Rows
from mmi_plugin.trainers.objective import Objective


def answer_losses(logits: torch.Tensor, tokens: AnswerTokens) -> torch.Tensor:
    """l of (3) for every answer token: logits (P, V) -> (N,)."""
    return cross_entropy(full_precision(tokens.predicting(logits)), tokens.target, reduction="none")


def row_losses(logits: torch.Tensor, tokens: AnswerTokens, over: torch.Tensor) -> torch.Tensor:
    """What PGD climbs on, summed over rows: logits (P, V) -> (A,), the sums of l over each row's answer tokens divided
    by `over`: how many they are, (A,), for means of rows, or the answer tokens of the whole batch, a scalar."""
    losses = answer_losses(logits, tokens)
    return losses.new_zeros(len(tokens.mask)).index_add(0, tokens.row, losses) / over


def loss_counts(rows: Rows, objective: Objective) -> torch.Tensor:
    """What (3) and (4) are means over, (3,) int64: answer tokens of clean rows, answer tokens of adversarial rows,
    groups with something to compare (0 where the consistency is "none")."""
    tokens = (rows.labels[:, 1:] != IGNORED).sum(1)
    groups = rows.origin[compared(rows, objective)].unique().numel() if objective.consistency != "none" else 0
    adversarial = tokens[adversarial_rows(rows, objective)].sum()
    return torch.stack([tokens[: rows.clean].sum(), adversarial, tokens.new_tensor(groups)])


def adversarial_rows(rows: Rows, objective: Objective) -> torch.Tensor:
    """Return the rows of L_adv, (C,) int64: the copies and, with `adv_rows` all, clean rows that are their own copies.

    What nothing moves has the loss of the clean row, so that one is counted twice instead of being computed twice:
    exact but for dropout, of which the two then share one draw.
    """
    return torch.cat([rows.copies, rows.still]) if objective.adv_rows == "all" else rows.copies


def compared(rows: Rows, objective: Objective) -> torch.Tensor:
    """Return the rows (K,) int64 that (4) compares with their origin: all but origins and, with `consistency_items`
    all, clean rows that are their own copies. Those can differ from their origin by the floor alone."""
    numbers = torch.arange(len(rows.origin), device=rows.origin.device)
    others = numbers[rows.origin != numbers]
    return torch.cat([others, rows.still]) if objective.consistency_items == "all" else others


@dataclass(frozen=True)
class LossPlaces:
    """Which of the N answer tokens each sum is over: known of rows and tokens alone, before any model runs.

    clean, adversarial, copied, attacked: (N,) bool, of clean rows, of the rows of L_adv, of copies, of the rows they
    are copies of. source: (N,) int64, the clean row of each. (4) compares the P positions that are read at `other`
    with those at `origin`, (M,) int64 each, and divides what `divergence` returns by `over`, (M,) int64 or, what comes
    second, by `over_second`.
    """

    clean: torch.Tensor
    adversarial: torch.Tensor
    copied: torch.Tensor
    attacked: torch.Tensor
    source: torch.Tensor
    other: torch.Tensor
    origin: torch.Tensor
    over: torch.Tensor
    over_second: torch.Tensor

    @staticmethod
    def of(rows: Rows, tokens: AnswerTokens, objective: Objective) -> LossPlaces:
        """Find them for R rows with N answer tokens."""
        among = adversarial_rows(rows, objective), rows.copies, rows.attacked
        of = [torch.isin(tokens.row, some) for some in among]
        others = compared(rows, objective) if objective.consistency != "none" else rows.attacked[:0]
        lengths = torch.bincount(tokens.row, minlength=len(rows.origin))
        starts = lengths.cumsum(0) - lengths
        # Of each token: its place among `others`, and which token of its row it is.
        # (numpy: torch's own wakes all threads for these few numbers, which took 8 ms of a step beside 16 cores.)
        place = torch.from_numpy(np.repeat(np.arange(len(others)), lengths[others].numpy()))
        token = torch.arange(len(place))
        token = token - (lengths[others].cumsum(0) - lengths[others])[place]
        group = rows.origin[others]
        other, origin = starts[others][place] + token, starts[group][place] + token  # the same token of the origin
        if tokens.late is not None:
            other, origin = tokens.late[other], tokens.late[origin]
        over = second = mean_over(place, group)
        if objective.consistency_reduce == "sum":  # of js's halves, the second is a mean over rows
            over, second = torch.ones_like(place), torch.bincount(group)[group][place]
        return LossPlaces(tokens.row < rows.clean, *of, rows.source[tokens.row], other, origin, over, second)

    def attack(self, losses: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """By how much delta raised the losses (N,), summed over attacked rows, and over how many tokens: scalars."""
        moved = torch.where(self.copied, losses, 0).sum() - torch.where(self.attacked, losses, 0).sum()
        return moved, self.copied.sum()


def mean_over(place: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    """What to divide by, (M,) int64, so that a sum averages over a row's tokens, then over a group's rows, and adds up
    groups. place: (M,) int64, which of K rows each token is of. group: (K,) int64, of each row."""
    tokens, rows = torch.bincount(place, minlength=len(group)), torch.bincount(group)
    return (tokens * rows[group])[place]


def loss_sums(
    logits: torch.Tensor, hidden: torch.Tensor, losses: torch.Tensor, places: LossPlaces, objective: Objective
) -> torch.Tensor:
    """The sums of (3) and (4), (3,): logits (P, V), compared by `kl` and `js`, last hidden states (P, D), compared by
    `mse`, losses (N,) of `answer_losses`. Where nothing is compared, L_cons is a zero that costs nothing."""
    consistency = logits.new_zeros(())
    if len(places.other):
        features = hidden if objective.consistency == "mse" else logits
        pair = (full_precision(gather(features, of)) for of in (places.origin, places.other))
        parts = zip(divergence(*pair, objective), (places.over, places.over_second), strict=False)
        consistency = sum((part / over).sum() for part, over in parts)
    sums = [torch.where(of, losses, 0).sum() for of in (places.clean, places.adversarial)]
    return torch.stack([*sums, consistency.to(losses.dtype)])


def divergence(origin: torch.Tensor, other: torch.Tensor, objective: Objective) -> tuple[torch.Tensor, ...]:
    """D of (4): logits (M, V), or hidden states (M, D), of origin and row -> one (M,), or two that add up to it."""
    reverse, floor = objective.consistency_direction == "reverse", objective.consistency_floor
    if objective.consistency == "mse":
        return (mse(origin.detach() if reverse else origin, other),)
    if objective.consistency == "js":
        return js(origin, other, objective.temperature, reverse, floor)
    return (kl(origin, other, objective.temperature, reverse, floor),)


def kl(
    origin: torch.Tensor, other: torch.Tensor, temperature: float = 1.0, reverse: bool = False, floor: float = 0.0
) -> torch.Tensor:
    """KL(origin || other), or KL(other || origin), of logits (M, V) -> (M,). The origin is the teacher: it gets no
    gradient. floor: see `floored`, of the first of the two."""
    p, q = log_softmax(origin.detach() / temperature, -1), log_softmax(other / temperature, -1)
    return _kl(floored(q, floor), p) if reverse else _kl(floored(p, floor), q)


def js(
    origin: torch.Tensor, other: torch.Tensor, temperature: float = 1.0, reverse: bool = False, floor: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """The halves, two (M,), of the Jensen-Shannon divergence in nats of logits (M, V). Both sides learn.

    With `reverse` KL(middle || side) instead of KL(side || middle), and the other side alone learns. floor: see
    `floored`, of the sides in the middle and where they come first.
    """
    p = log_softmax((origin.detach() if reverse else origin) / temperature, -1)
    q = log_softmax(other / temperature, -1)
    sides = floored(p, floor), floored(q, floor)
    middle = torch.logaddexp(*sides) - math.log(2)
    halves = (_kl(middle, p), _kl(middle, q)) if reverse else (_kl(sides[0], middle), _kl(sides[1], middle))
    return halves[0] / 2, halves[1] / 2


def mse(origin: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Mean squared distance of last hidden states (M, D) -> (M,). Symmetric: both sides learn."""
    return (origin - other).square().mean(-1)


def _kl(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """KL(first || second) of log-probabilities (M, V) -> (M,)."""
    return kl_div(second, first, reduction="none", log_target=True).sum(-1)


def floored(log_probabilities: torch.Tensor, floor: float) -> torch.Tensor:
    """Raise probabilities below `floor` to it and renormalise: log-probabilities (M, V) -> (M, V)."""
    if not floor:
        return log_probabilities
    raised = log_probabilities.exp().clamp(min=floor)
    return (raised / raised.sum(-1, keepdim=True)).log()


def weighted_sum(sums: torch.Tensor, counts: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """(5), a scalar: each part's sum (3,) over its count (3,), times its weight (1, w, lambda).

    A part that counts nothing has the sum 0 and stays out. Where counts are those of a whole optimizer step, the
    losses of its micro-batches add up to that of the step.
    """
    return (sums.new_tensor(weights) * sums / counts.clamp(min=1)).sum()


def full_precision(values: torch.Tensor) -> torch.Tensor:
    """Return `values`, (N,) or of any other shape, in single precision or better."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
