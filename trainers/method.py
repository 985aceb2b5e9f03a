"""The method: groups, adversary, losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from mmi_plugin.trainers.decoder import AnswerTokens, full_precision

RowLoss = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Adversary:
    """Makes `delta`, which moves the embeddings of the irrelevant modality (method section 2).

    With `relative`, the lengths eps and sigma, and step_size under `sign` and `l2`, are multiples of
    the root mean square (RMS) of the row's own embeddings inside the mask.
    """

    kind: str = "pgd"
    step_rule: str = "sign"
    step_size: float = 0.5
    eps: float = 0.05
    steps: int = 2
    sigma: float = 0.05
    relative: bool = False

    @property
    def replays(self) -> int:
        """How often the loss of perturbed rows is asked for."""
        return self.steps if self.kind == "pgd" else 0

    def perturb(
        self,
        embeds: torch.Tensor,
        mask: torch.Tensor,
        seeds: torch.Tensor,
        row_loss: RowLoss,
        extra: Sequence[torch.Tensor] = (),
    ) -> torch.Tensor:
        """Return delta, shaped like `embeds`, zero outside `mask`.

        embeds: (A, L, D), no gradient. mask: (A, L) bool. seeds: (A,) int64, one random stream per
        row, so that a row's draw does not depend on its neighbours.
        row_loss: (A, L, D) embeddings -> (A,) losses. PGD climbs on their sum, so the size of the
        batch does not change a row's step. Parameters get no gradient.
        extra: tensors whose gradients are computed, too, and dropped: what a plain backward pass costs.
        """
        dtype = torch.promote_types(embeds.dtype, torch.float32)
        scale = self._scale(embeds.to(dtype), mask)
        if self.kind == "rg":
            return self.sigma * scale * _draw(torch.randn, embeds, mask, seeds, dtype)
        delta = self.eps * scale * (2 * _draw(torch.rand, embeds, mask, seeds, dtype) - mask[..., None].to(dtype))
        for _ in range(self.steps):
            delta.requires_grad_(True)
            loss = row_loss(embeds + delta.to(embeds.dtype)).sum()
            gradient, *_ = torch.autograd.grad(loss, [delta, *extra], allow_unused=True)
            moved = delta.detach() + self._step(gradient * mask[..., None], mask, scale)
            delta = torch.clamp(moved, -self.eps * scale, self.eps * scale)
        return delta.detach()

    def _step(self, gradient: torch.Tensor, mask: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """One step: alpha * g, alpha * sign(g), or alpha * sqrt(n) * g / |g| over the row's n coordinates."""
        if self.step_rule == "raw":
            return self.step_size * gradient
        if self.step_rule == "sign":
            return self.step_size * scale * gradient.sign()
        return (
            self.step_size * scale * gradient / masked_rms(gradient, mask).clamp(min=torch.finfo(gradient.dtype).tiny)
        )

    def _scale(self, embeds: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return masked_rms(embeds, mask) if self.relative else embeds.new_ones(len(embeds), 1, 1)


def masked_rms(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Root mean square of (A, L, D) `values` inside the (A, L) mask, per row: (A, 1, 1)."""
    total = (values.square() * mask[..., None]).sum((1, 2), keepdim=True)
    return (total / (mask.sum(1)[:, None, None] * values.shape[-1]).clamp(min=1)).sqrt()


def _draw(
    sample: Callable[..., torch.Tensor],
    embeds: torch.Tensor,
    mask: torch.Tensor,
    seeds: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Draw inside the mask, on the CPU and token by token, so that neither device nor padding matters."""
    rows = []
    for count, seed in zip(mask.sum(1).tolist(), seeds.tolist(), strict=True):
        generator = torch.Generator().manual_seed(seed)
        rows.append(sample(count, embeds.shape[-1], generator=generator, dtype=dtype))
    noise = embeds.new_zeros(embeds.shape, dtype=dtype)
    noise[mask] = torch.cat(rows).to(embeds.device)
    return noise


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


@dataclass(frozen=True)
class Rows:
    """The rows of a batch with their adversarial copies, clean rows first.

    labels: (R, L). origin: (R,) the row of each row's origin. clean: how many rows are clean.
    """

    labels: torch.Tensor
    origin: torch.Tensor
    clean: int

    @staticmethod
    def of(labels: torch.Tensor, origin: torch.Tensor, attacked: torch.Tensor) -> Rows:
        """Add a copy of the `attacked` rows (A,) to labels (B, L) and origin (B,)."""
        return Rows(torch.cat([labels, labels[attacked]]), torch.cat([origin, origin[attacked]]), len(labels))

    @property
    def compared(self) -> torch.Tensor:
        """(R,) bool: the rows that the consistency compares with their origin."""
        return self.origin != torch.arange(len(self.origin), device=self.origin.device)

    def counts(self) -> torch.Tensor:
        """What the parts of the loss are means over, (3,): answer tokens of clean rows, answer tokens
        of adversarial rows, groups with something to compare."""
        tokens = (self.labels[:, 1:] != -100).sum(1)
        groups = self.origin[self.compared].unique().numel()
        return torch.stack([tokens[: self.clean].sum(), tokens[self.clean :].sum(), tokens.new_tensor(groups)])


def answer_losses(logits: torch.Tensor, tokens: AnswerTokens) -> torch.Tensor:
    """Next-token cross entropy of every answer token: logits (N, V) -> (N,)."""
    return cross_entropy(full_precision(logits), tokens.target, reduction="none")


def consistency_sum(
    kind: str, features: torch.Tensor, tokens: AnswerTokens, rows: Rows, temperature: float
) -> torch.Tensor:
    """Sum over groups of the mean divergence of their rows from the origin.

    features: (N, V) logits for `kl` and `js`, (N, D) last hidden states for `mse`, one per answer
    token in the order of `tokens`.
    """
    lengths = torch.bincount(tokens.row, minlength=len(rows.origin))
    starts = lengths.cumsum(0) - lengths
    other = rows.compared[tokens.row].nonzero()[:, 0]
    row = tokens.row[other]
    origin = starts[rows.origin[row]] + other - starts[row]  # the same answer token in the origin row
    pair = full_precision(features[origin]), full_precision(features[other])
    if kind == "mse":
        return group_sum(mse(*pair), row, rows.origin)
    divergence = kl if kind == "kl" else js
    return group_sum(divergence(*pair, temperature), row, rows.origin)
