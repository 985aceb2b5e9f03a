"""The method: what its parts are, and (1) and (2); `losses` has (3) to (5). Tensors alone: no model, hooks or trainer.

"Diagnosing and Mitigating Modality Interference in Multimodal Large Language Models" (arXiv 2505.19616); the numbers
of the equations are those of this file and of `losses`, in their order. As they stand here they are ours by default;
`objective` has each way in which the paper's own code differs.

    (1) M       what the adversary may move: of the prompt, the modality that must not matter
    (2) PGD     delta ~ U(-eps, eps) M;  K times: delta <- clip(delta + step(M * dl/d delta), -eps, eps)
        RG      delta ~ N(0, sigma^2) M
    (3) l       = -log p(token | what is before it), of one answer token
        L_sft   = mean of l over the answer tokens of clean rows
        L_adv   = mean of l over those of adversarial copies, whose embeddings have delta added
    (4) L_cons  = mean over groups of the mean over their rows of the mean over answer tokens of D(origin, row),
        D       = KL, JS or MSE
    (5) L       = L_sft + w L_adv + lambda L_cons

D_AUG is a batch of groups: an item under every condition of its family, the origin first. One image-heavy group
(rows 0 to 2) with the adversarial copies of its rows (3 to 5):

     row                    origin   s system, i image, t text, a answer, . padding
      0  clean                 0     s s i i i i t t t a a . . .
      1  unrelated_text        0     s s i i i i t t t t t t a a
      2  misleading_text       0     s s i i i i t t t t a a . .
      3  0 + delta             0     s s i i i i t t t a a . . .
      4  1 + delta             0     s s i i i i t t t t t t a a
      5  2 + delta             0     s s i i i i t t t t a a . .

     moved (1)    image-heavy        x x - - - - x x x - - - - -   text of the prompt, never image, answer or padding
                  text-heavy         - - x x x x - - - - - - - -   image tokens alone
                  VQA                - - - - - - - - - - - - - -   nothing: such a row has no copy
     predicted (3), row 0            - - - - - - - - ^ ^ - - - -   the token at t is read at t - 1, in (4) as in (3)
     compared (4)                    rows 1 to 5 with row 0, first answer token with first, second with second

Shapes: G groups; B clean rows, A adversarial copies, R = B + A; L tokens a row; N answer tokens of all R rows, M of
those that are compared; D the width of embeddings and hidden states; V the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from mmi_plugin.attacks.balls import Ball, masked_rms
from mmi_plugin.attacks.noise import draw
from mmi_plugin.models.layout import gather

IGNORED = -100
"""The label of a token that is not of the answer; what the cross entropy of torch ignores, too."""


def origins(sizes: torch.Tensor) -> torch.Tensor:
    """The row of each row's origin, (B,) int64: the first of its group. sizes: (G,) int64, the rows of each group."""
    return torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)


@dataclass(frozen=True)
class Rows:
    """The R rows of a batch's loss: its clean rows, then the adversarial copies of those that are attacked.

    labels: (R, L) int64, IGNORED outside the answer. origin: (R,) int64, the row of each row's origin, by which rows
    are of one group. attacked: (A,) int64, the clean rows that have a copy. still: (B - A,) int64, those that the
    adversary cannot move, whose copies would be themselves; empty without an adversary.
    """

    labels: torch.Tensor
    origin: torch.Tensor
    attacked: torch.Tensor
    still: torch.Tensor

    @staticmethod
    def of(labels: torch.Tensor, origin: torch.Tensor, moved: torch.Tensor | None) -> Rows:
        """Add copies of the rows of which `moved` (B, L), M of (1), has a token to labels (B, L) and origin (B,).
        moved: None without an adversary."""
        if moved is None:
            return Rows(labels, origin, origin[:0], origin[:0])
        attacked, still = (rows.nonzero()[:, 0] for rows in (moved.any(1), ~moved.any(1)))
        return Rows(torch.cat([labels, labels[attacked]]), torch.cat([origin, origin[attacked]]), attacked, still)

    @property
    def clean(self) -> int:
        """B: how many of the rows are clean."""
        return len(self.labels) - len(self.attacked)

    @property
    def copies(self) -> torch.Tensor:
        """(A,) int64, the rows that are copies, in the order of `attacked`."""
        return torch.arange(self.clean, len(self.labels), device=self.attacked.device)

    @property
    def source(self) -> torch.Tensor:
        """(R,) int64, the clean row that each row is or is a copy of."""
        return torch.cat([torch.arange(self.clean, device=self.attacked.device), self.attacked])


@dataclass(frozen=True)
class AnswerTokens:
    """Where the N answer tokens of rows are read.

    mask: (R, L) bool, true at the P positions that are read: at t - 1 for an answer token at t, which is predicted
    there, and with `late` also at t. target, row: (N,) int64, the token and its row, row by row. late: None, or (N,)
    int64, the places of t among the positions that are read; then those of t - 1 are the ones before.
    """

    mask: torch.Tensor
    target: torch.Tensor
    row: torch.Tensor
    late: torch.Tensor | None = None

    @staticmethod
    def of(labels: torch.Tensor, compared_at: str = "prediction") -> AnswerTokens:
        """Read labels (R, L), IGNORED outside the answer. compared_at: where (4) looks, "prediction" or "label", which
        is the position of the token itself, one too late."""
        answer = labels != IGNORED
        answer[:, 0] = False  # nothing predicts it
        mask = answer.roll(-1, 1)
        target, row = labels[answer], answer.nonzero()[:, 0]
        if compared_at == "prediction":
            return AnswerTokens(mask, target, row)
        mask = mask | answer
        return AnswerTokens(mask, target, row, (mask.flatten().cumsum(0) - 1)[answer.flatten()])

    def predicting(self, values: torch.Tensor) -> torch.Tensor:
        """What predicts the answer tokens: values (P, ...) -> (N, ...)."""
        return values if self.late is None else gather(values, self.late - 1)

    def compared(self, values: torch.Tensor) -> torch.Tensor:
        """What (4) compares: values (P, ...) -> (N, ...)."""
        return values if self.late is None else gather(values, self.late)


@dataclass(frozen=True)
class Adversary:
    """Makes delta, (2), which moves the embeddings of the irrelevant modality.

    kind: "pgd" or "rg". step_rule: "raw", "sign" or "l2". pgd_loss: l of (2), the sum of each row's mean over its
    answer tokens or, "batch_mean", the mean over the answer tokens of all clean rows. With `relative`, the lengths
    eps and sigma, and step_size under `sign` and `l2`, are multiples of the root mean square (RMS) of the row's own
    embeddings inside the mask; otherwise they are in the unit of the embeddings.
    """

    kind: str = "pgd"
    step_rule: str = "sign"
    step_size: float = 0.5
    eps: float = 0.05
    steps: int = 2
    sigma: float = 0.05
    relative: bool = False
    pgd_loss: str = "row_sum"

    @property
    def replays(self) -> int:
        """How often the loss of perturbed rows is asked for."""
        return self.steps if self.kind == "pgd" else 0

    def perturb(
        self,
        embeds: torch.Tensor,
        mask: torch.Tensor,
        seeds: torch.Tensor,
        row_loss: Callable[[torch.Tensor], torch.Tensor],
        extra: Sequence[torch.Tensor] = (),
    ) -> torch.Tensor:
        """Return delta (A, L, D) in single precision or better, zero outside `mask`.

        embeds: (A, L, D), no gradient. mask: (A, L) bool, M of (1). seeds: (A,) int64, one random stream per row, so
        that a row's draw does not depend on its neighbours. row_loss: (A, L, D) embeddings -> (A,) losses; PGD climbs
        on their sum, so that with means over rows the size of the batch does not change a row's step. Parameters get
        no gradient.
        extra: tensors whose gradients are computed, too, and dropped: what a plain backward pass costs.
        """
        dtype = torch.promote_types(embeds.dtype, torch.float32)
        scale = masked_rms(embeds.to(dtype), mask) if self.relative else embeds.new_ones(len(embeds), 1, 1, dtype=dtype)
        if self.kind == "rg":
            return self.sigma * scale * draw("normal", mask, seeds, embeds.shape[-1], dtype)
        ball = Ball("linf", self.eps * scale, mask)
        delta = ball.random(seeds, embeds.shape[-1])
        for _ in range(self.steps):
            delta.requires_grad_(True)
            loss = row_loss(embeds + delta.to(embeds.dtype)).sum()
            gradient, *_ = torch.autograd.grad(loss, [delta, *extra], allow_unused=True)
            delta = ball.project(delta.detach() + self._step(gradient * mask[..., None], mask, scale))
        return delta.detach()

    def _step(self, gradient: torch.Tensor, mask: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """One step of (2): alpha g, alpha sign(g), or alpha sqrt(n) g / |g| over the row's n coordinates."""
        if self.step_rule == "raw":
            return self.step_size * gradient
        if self.step_rule == "sign":
            return self.step_size * scale * gradient.sign()
        length = masked_rms(gradient, mask).clamp(min=torch.finfo(gradient.dtype).tiny)
        return self.step_size * scale * gradient / length
