"""Rows to be attacked in, their delta out: the inner loop (2) of the method over decoder and head alone.

Rows do not depend on each other and no gradient of weights is wanted, so the loop runs over chunks of rows: each goes
through all its steps, and its activations are gone before the next begins.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging

from mmi_plugin.models.decoder import DecoderInputs, evaluating
from mmi_plugin.models.devices import Arithmetic, free_memory, on_device
from mmi_plugin.models.layout import Tree
from mmi_plugin.models.replay import replay
from mmi_plugin.trainers.compat import most_of_all
from mmi_plugin.trainers.config import Savings
from mmi_plugin.trainers.losses import row_losses
from mmi_plugin.trainers.method import Adversary, AnswerTokens
from mmi_plugin.trainers.shards import Shards

logger = logging.get_logger(__name__)
AT_ONCE = 2560
"""Tokens of a chunk at most where a device has its own memory: 3,000 cost 4% of a step's time at 7B, and so many stay
below the outer pass's peak (docs/gpu.md)."""
SHARE_OF_FREE = 0.8


class Budget:
    """How many tokens the inner loop keeps activations of at once; half of it where memory did not suffice. And whether
    it keeps all weights of a decoder that is sharded.

    tokens: of the user, 0 for all; None for what the free memory of a device can hold, and all on a CPU.
    gather: of the user; None for whether free memory can hold the weights, too, and yes on a CPU.
    """

    def __init__(self, tokens: int | None = None, gather: bool | None = None) -> None:
        self._tokens, self._chosen, self.failures = tokens, tokens is not None, 0
        self._gather, self._told = gather, False

    def tokens(self, decoder: nn.Module, device: torch.device) -> int | None:
        """Return the tokens of a chunk at most, None for all of them."""
        if not self._chosen:
            free, each = free_memory(device), Arithmetic.of(decoder).activations
            self._tokens = None if free is None else max(1, min(AT_ONCE, int(SHARE_OF_FREE * free / each)))
            self._chosen = True
        return self._tokens or None

    def gathers(self, decoder: nn.Module, shards: Shards, device: torch.device) -> bool:
        """Return whether the weights are gathered once around the loop, on all processes or on none."""
        if self._gather is None:
            free, chunk = free_memory(device), (self._tokens or AT_ONCE) * Arithmetic.of(decoder).activations
            fits = free is None or shards.size + shards.later + chunk <= SHARE_OF_FREE * free
            self._gather = not most_of_all(not fits, device)
        if not self._told and torch.distributed.get_rank() == 0:
            how = "once" if self._gather else "anew in each of its passes"
            logger.warning(f"inner loop: {shards.size / 1e9:.3g} GB of sharded weights are gathered {how}")
        self._told = True
        return self._gather

    def halve(self, used: int) -> None:
        """Go on with half of the tokens that were `used` when memory did not suffice."""
        self._tokens, self._chosen, self.failures = max(1, used // 2), True, self.failures + 1
        logger.warning(
            f"out of memory in the inner loop ({self.failures} so far): from here on at most {self._tokens} tokens at"
            " once; 'inner_tokens' sets how many from the start"
        )


def cut(trees: list[Tree], lengths: list[int], most: int | None) -> list[list[Tree]]:
    """Cut trees into chunks of at most `most` tokens after their prefixes, and of one row or more."""
    if most is None:
        return [trees]
    chunks: list[list[Tree]] = [[]]
    room = most
    for tree in trees:
        rows: list[int] = []
        for row in tree.rows:
            size = lengths[row] - tree.prefix
            if size > room and (rows or chunks[-1]):
                chunks[-1] += [Tree(tuple(rows), tree.prefix)] if rows else []
                chunks.append([])
                rows, room = [], most
            rows.append(row)
            room -= size
        chunks[-1].append(Tree(tuple(rows), tree.prefix))
    return chunks


@dataclass(frozen=True)
class Attacked:
    """A' rows of length L for the inner loop.

    rows: as the decoder is given them, without a way back for gradients. mask: (A', L) bool, M of (1). seeds: (A',)
    int64. labels: (A', L) int64, on the host. lengths: A' numbers of tokens. trees: what each row keeps before the
    first position that is moved or read; None where rows stay padded. whole: a scalar, over which the losses of all
    rows are a mean; None where each row's are one over its own tokens.
    """

    rows: DecoderInputs
    mask: torch.Tensor
    seeds: torch.Tensor
    labels: torch.Tensor
    lengths: list[int]
    trees: list[Tree] | None
    whole: torch.Tensor | None = None

    def sizes(self) -> tuple[list[Tree], list[int]]:
        """Return trees and, for each row, how many tokens it has; padded rows keep nothing and are all as long."""
        if self.trees is None:
            return [Tree((row,), 0) for row in range(len(self.mask))], [self.mask.shape[1]] * len(self.mask)
        return self.trees, self.lengths

    def take(self, trees: list[Tree]) -> tuple[Attacked, torch.Tensor]:
        """Return the rows of some trees and their places among these, (A'',) int64."""
        places = sorted(row for tree in trees for row in tree.rows)
        at = on_device(torch.tensor(places), self.mask.device)
        if len(places) == len(self.mask):
            return self, at
        number = {row: new for new, row in enumerate(places)}
        kept = [Tree(tuple(number[row] for row in tree.rows), tree.prefix) for tree in trees]
        lengths = [self.lengths[row] for row in places]
        part = self.rows.take(at), self.mask[at], self.seeds[at], self.labels[places], lengths
        return Attacked(*part, None if self.trees is None else kept, self.whole), at


class InnerLoop:
    """Finds delta. model: as wrapped for training. base: the transformers model in it."""

    def __init__(
        self, model: nn.Module, base: PreTrainedModel, adversary: Adversary, savings: Savings, budget: Budget
    ) -> None:
        self._decoder, self._head = base.get_decoder(), base.get_output_embeddings()
        self._adversary, self._budget = adversary, budget
        self._extra = [] if savings.skip_weight_gradients else [p for p in base.parameters() if p.requires_grad]
        self._reuse = savings.reuse_prefix and adversary.replays > 0
        self._shards = Shards(model, self._decoder, self._head)

    def find(self, attacked: Attacked) -> torch.Tensor:
        """Return delta (A', L, D) in single precision or better.

        Raises:
            torch.OutOfMemoryError: one row does not fit or, where weights are sharded, a chunk: the other processes
                would wait for this one for ever.
        """
        shards, device = self._shards, attacked.mask.device
        once = shards and self._adversary.replays and self._budget.gathers(self._decoder, shards, device)
        # Evaluation mode: dropout would make a step climb on another loss than the last one's, and gradient
        # checkpointing drops the cache that a prefix is kept in.
        with shards.kept() if once else nullcontext(), torch.enable_grad(), evaluating(self._decoder):
            return self._find(attacked)

    def _find(self, attacked: Attacked) -> torch.Tensor:
        embeds, (trees, lengths) = attacked.rows.embeds, attacked.sizes()
        dtype = torch.promote_types(embeds.dtype, torch.float32)
        found = torch.zeros(embeds.shape, dtype=dtype, device=embeds.device)
        most = self._budget.tokens(self._decoder, embeds.device)
        chunks = cut(trees, lengths, most)
        if self._shards and most is not None:  # all processes run the decoder equally often
            chunks += chunks[:1] * (most_of_all(len(chunks), embeds.device) - len(chunks))
        while chunks:
            part, places = attacked.take(chunks[0])
            delta = self._climb(part, fails=len(places) == 1 or bool(self._shards))
            if delta is None:
                self._budget.halve(sum(lengths[row] - tree.prefix for tree in chunks[0] for row in tree.rows))
                most = self._budget.tokens(self._decoder, embeds.device)
                chunks = cut([tree for chunk in chunks for tree in chunk], lengths, most)
            elif part is attacked and len(chunks) == 1:
                return delta
            else:
                found[places] = delta
                del chunks[0]
        return found

    def _climb(self, part: Attacked, fails: bool) -> torch.Tensor | None:
        """Return the delta of one chunk; None if memory does not suffice, unless that `fails`."""
        try:
            return self._perturb(part)
        except torch.OutOfMemoryError:
            if fails:
                raise
        # Outside of the exception, whose traceback would keep what was computed so far.
        if part.mask.is_cuda:
            torch.cuda.empty_cache()
        return None

    def _perturb(self, part: Attacked) -> torch.Tensor:
        tokens = AnswerTokens.of(part.labels)
        each = torch.bincount(tokens.row, minlength=len(part.labels)).clamp(min=1)
        over = each if part.whole is None else part.whole
        replay = self._replay(part, tokens)
        tokens, over = (on_device(known, part.mask.device) for known in (tokens, over))

        def row_loss(moved: torch.Tensor) -> torch.Tensor:
            self._shards.gather()  # the backward pass of the step before dropped them
            return row_losses(self._head(replay(moved)), tokens, over)

        delta = self._adversary.perturb(part.rows.embeds, part.mask, part.seeds, row_loss, self._extra)
        self._shards.gather()
        return delta

    def _replay(self, part: Attacked, tokens: AnswerTokens) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return the cheapest exact way from embeddings (A', L, D) to the hidden states (N', D) before the head."""
        always = bool(self._shards)  # all processes have to run the decoder equally often
        return replay(self._decoder, part.rows, tokens.mask, part.lengths, part.trees, self._reuse, always)
