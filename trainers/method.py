"""The method from top to bottom: the rows of a batch in, their loss out. Tensors alone: no model, hooks or trainer.

"Diagnosing and Mitigating Modality Interference in Multimodal Large Language Models" (arXiv 2505.19616); the numbers
of the equations are those of this file, in its order.

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
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from mmi_plugin.items import FAMILIES
from mmi_plugin.trainers.noise import draw

IGNORED = -100
"""The label of a token that is not of the answer; what the cross entropy of torch ignores, too."""


def origins(sizes: torch.Tensor) -> torch.Tensor:
    """The row of each row's origin, (B,) int64: the first of its group. sizes: (G,) int64, the rows of each group."""
    return torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)


def irrelevant(
    family: torch.Tensor,
    image: torch.Tensor,
    prompt: torch.Tensor,
    after_image: bool = False,
    whole_prompt: bool = False,
) -> torch.Tensor:
    """M of (1), (B, L) bool.

    family: (B,) int64, places in FAMILIES. image, prompt: (B, L) bool, tokens of an image and tokens before the
    answer. after_image: of the text, what follows the row's last image. whole_prompt: text and image tokens of
    image-heavy and text-heavy rows alike.
    """
    image_heavy, text_heavy = (family[:, None] == FAMILIES.index(name) for name in ("image_heavy", "text_heavy"))
    if whole_prompt:
        return prompt & (image_heavy | text_heavy)
    text = ~image
    if after_image:
        text &= image.int().flip(1).cumsum(1).flip(1) == 0  # no image token from here on
    return prompt & (image_heavy & text | text_heavy & image)


@dataclass(frozen=True)
class Rows:
    """The R rows of a batch's loss: its clean rows, then the adversarial copies of those that are attacked.

    labels: (R, L) int64, IGNORED outside the answer. origin: (R,) int64, the row of each row's origin, by which rows
    are of one group. attacked: (A,) int64, the clean rows that have a copy.
    """

    labels: torch.Tensor
    origin: torch.Tensor
    attacked: torch.Tensor

    @staticmethod
    def of(labels: torch.Tensor, origin: torch.Tensor, moved: torch.Tensor) -> Rows:
        """Add copies of the rows of which `moved` (B, L), M of (1), has a token to labels (B, L) and origin (B,)."""
        attacked = moved.any(1).nonzero()[:, 0]
        return Rows(torch.cat([labels, labels[attacked]]), torch.cat([origin, origin[attacked]]), attacked)

    @property
    def clean(self) -> int:
        """B: how many of the rows are clean."""
        return len(self.labels) - len(self.attacked)

    @property
    def source(self) -> torch.Tensor:
        """(R,) int64, the clean row that each row is or is a copy of."""
        return torch.cat([torch.arange(self.clean, device=self.attacked.device), self.attacked])

    @property
    def compared(self) -> torch.Tensor:
        """(R,) bool: the rows that (4) compares with their origin, which are all but origins."""
        return self.origin != torch.arange(len(self.origin), device=self.origin.device)

    def counts(self, consistency: str) -> torch.Tensor:
        """What (3) and (4) are means over, (3,) int64: answer tokens of clean rows, answer tokens of adversarial
        rows, groups with something to compare (0 where the consistency is "none")."""
        tokens = (self.labels[:, 1:] != IGNORED).sum(1)
        groups = self.origin[self.compared].unique().numel() if consistency != "none" else 0
        return torch.stack([tokens[: self.clean].sum(), tokens[self.clean :].sum(), tokens.new_tensor(groups)])


@dataclass(frozen=True)
class AnswerTokens:
    """Where the N answer tokens of rows are predicted.

    mask: (R, L) bool, true at t - 1 for an answer token at t. target, row: (N,) int64, the token and its row, in the
    order of `logits[mask]`.
    """

    mask: torch.Tensor
    target: torch.Tensor
    row: torch.Tensor

    @staticmethod
    def of(labels: torch.Tensor) -> AnswerTokens:
        """Read labels (R, L), IGNORED outside the answer."""
        mask = torch.zeros_like(labels, dtype=torch.bool)
        mask[:, :-1] = labels[:, 1:] != IGNORED
        return AnswerTokens(mask, labels[:, 1:][mask[:, :-1]], mask.nonzero()[:, 0])


@dataclass(frozen=True)
class Adversary:
    """Makes delta, (2), which moves the embeddings of the irrelevant modality.

    kind: "pgd" or "rg". step_rule: "raw", "sign" or "l2". With `relative`, the lengths eps and sigma, and step_size
    under `sign` and `l2`, are multiples of the root mean square (RMS) of the row's own embeddings inside the mask;
    otherwise they are in the unit of the embeddings.
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
        row_loss: Callable[[torch.Tensor], torch.Tensor],
        extra: Sequence[torch.Tensor] = (),
    ) -> torch.Tensor:
        """Return delta (A, L, D) in single precision or better, zero outside `mask`.

        embeds: (A, L, D), no gradient. mask: (A, L) bool, M of (1). seeds: (A,) int64, one random stream per row, so
        that a row's draw does not depend on its neighbours. row_loss: (A, L, D) embeddings -> (A,) losses; PGD climbs
        on their sum, so that the size of the batch does not change a row's step. Parameters get no gradient.
        extra: tensors whose gradients are computed, too, and dropped: what a plain backward pass costs.
        """
        dtype = torch.promote_types(embeds.dtype, torch.float32)
        scale = masked_rms(embeds.to(dtype), mask) if self.relative else embeds.new_ones(len(embeds), 1, 1, dtype=dtype)
        noise = draw("normal" if self.kind == "rg" else "uniform", mask, seeds, embeds.shape[-1], dtype)
        if self.kind == "rg":
            return self.sigma * scale * noise
        delta = self.eps * scale * (2 * noise - mask[..., None].to(dtype))
        for _ in range(self.steps):
            delta.requires_grad_(True)
            loss = row_loss(embeds + delta.to(embeds.dtype)).sum()
            gradient, *_ = torch.autograd.grad(loss, [delta, *extra], allow_unused=True)
            moved = delta.detach() + self._step(gradient * mask[..., None], mask, scale)
            delta = torch.clamp(moved, -self.eps * scale, self.eps * scale)
        return delta.detach()

    def _step(self, gradient: torch.Tensor, mask: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """One step of (2): alpha g, alpha sign(g), or alpha sqrt(n) g / |g| over the row's n coordinates."""
        if self.step_rule == "raw":
            return self.step_size * gradient
        if self.step_rule == "sign":
            return self.step_size * scale * gradient.sign()
        length = masked_rms(gradient, mask).clamp(min=torch.finfo(gradient.dtype).tiny)
        return self.step_size * scale * gradient / length


def masked_rms(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Root mean square of (A, L, D) `values` inside the (A, L) mask, per row: (A, 1, 1)."""
    total = (values.square() * mask[..., None]).sum((1, 2), keepdim=True)
    return (total / (mask.sum(1)[:, None, None] * values.shape[-1]).clamp(min=1)).sqrt()


def answer_losses(logits: torch.Tensor, tokens: AnswerTokens) -> torch.Tensor:
    """l of (3) for every answer token: logits (N, V) -> (N,)."""
    return cross_entropy(full_precision(logits), tokens.target, reduction="none")


def row_losses(logits: torch.Tensor, tokens: AnswerTokens, over: torch.Tensor | None = None) -> torch.Tensor:
    """The mean of l over each row's answer tokens, on which PGD climbs: logits (N, V) -> (A,). over: (A,), how many
    they are, where that is known."""
    losses, rows = answer_losses(logits, tokens), len(tokens.mask)
    sums = losses.new_zeros(rows).index_add(0, tokens.row, losses)
    return sums / (torch.bincount(tokens.row, minlength=rows).clamp(min=1) if over is None else over)


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


def consistency_sum(
    kind: str, logits: torch.Tensor, hidden: torch.Tensor, tokens: AnswerTokens, rows: Rows, temperature: float
) -> torch.Tensor:
    """L_cons of (4) summed over groups, a scalar: a zero that costs nothing where nothing is compared.

    kind: "kl", "js", "mse" or "none". logits: (N, V), compared by `kl` and `js`; hidden: (N, D), last hidden states,
    compared by `mse`; one per answer token in the order of `tokens`.
    """
    if kind == "none" or not rows.compared.any():
        return logits.new_zeros(())
    features = hidden if kind == "mse" else logits
    lengths = torch.bincount(tokens.row, minlength=len(rows.origin))
    starts = lengths.cumsum(0) - lengths
    other = rows.compared[tokens.row].nonzero()[:, 0]
    row = tokens.row[other]
    origin = starts[rows.origin[row]] + other - starts[row]  # the same answer token in the origin row
    pair = full_precision(features[origin]), full_precision(features[other])
    divergence = mse(*pair) if kind == "mse" else {"kl": kl, "js": js}[kind](*pair, temperature)
    return group_sum(divergence, row, rows.origin)


def group_sum(divergence: torch.Tensor, row: torch.Tensor, origin: torch.Tensor) -> torch.Tensor:
    """Average over a row's tokens, then over a group's rows; sum over the groups: a scalar.

    divergence, row: (M,), one entry per answer token of the rows that are compared. origin: (R,), as in Rows.
    """
    tokens = torch.bincount(row, minlength=len(origin))
    rows = torch.bincount(origin[row.unique()], minlength=len(origin))
    return (divergence / (tokens[row] * rows[origin[row]])).sum()


def weighted_sum(sums: torch.Tensor, counts: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """(5), a scalar: each part's sum (3,) over its count (3,), times its weight (1, w, lambda).

    A part that counts nothing has the sum 0 and stays out. Where counts are those of a whole optimizer step, the
    losses of its micro-batches add up to that of the step.
    """
    return (sums.new_tensor(weights) * sums / counts.clamp(min=1)).sum()


def full_precision(values: torch.Tensor) -> torch.Tensor:
    """Return `values`, (N,) or of any other shape, in single precision or better."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
