"""A batch's rows in, what predicts their answers out: one forward of the model, with the inner loop inside it.

images -> vision encoder, each once (vision) -> embeddings -> [door of the decoder] -> decoder -> [door] -> head
                                                                  |                                |
    the adversary moves copies of rows, in a replay of decoder and head alone       only answer tokens go on
    the copies join the rows; all are laid out in trees (layout)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging

from mmi_plugin.models.decoder import Call, DecoderInputs, at_decoder, unwrap
from mmi_plugin.models.devices import on_device
from mmi_plugin.models.layout import Layout, gather, packable, use_trees
from mmi_plugin.trainers.collator import OWN_COLUMNS, Batch
from mmi_plugin.trainers.config import Savings
from mmi_plugin.trainers.inner import Attacked, Budget, InnerLoop
from mmi_plugin.trainers.method import IGNORED, Adversary, AnswerTokens, Rows
from mmi_plugin.trainers.plan import Plan
from mmi_plugin.trainers.vision import shared_images

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class Prediction:
    """What predicts the N answer tokens, of clean rows and then of adversarial copies.

    logits: (N, V). hidden: (N, D), last hidden states; where answer tokens are read twice (AnswerTokens), P for N.
    delta: (A, L, D), or None where no inner loop was gone through.
    """

    logits: torch.Tensor
    hidden: torch.Tensor
    delta: torch.Tensor | None


class ForwardPass:
    """One forward over a batch: `run` is called once, and what follows it comes in the order of the pass.

    model: as wrapped for training. inputs: as the collator makes them. rows, tokens: on the host, R rows with copies of
    those that are attacked, and their N answer tokens. adversary: None where this pass has no inner loop. budget: of
    that loop. way: how a layout attends, of layout.WAYS.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Batch,
        rows: Rows,
        tokens: AnswerTokens,
        adversary: Adversary | None,
        savings: Savings,
        budget: Budget,
        way: str = "auto",
    ) -> None:
        self._model, self._base = model, unwrap(model)
        self._inputs, self._rows, self._tokens = inputs, rows, tokens
        self._adversary, self._savings = adversary, savings
        self._plan: Plan = inputs["plan"]
        self._packed, self._budget = lays_out(self._base, savings, way), budget
        self._layout: Layout | None = None
        self._answers: torch.Tensor | None = None
        self._hidden: torch.Tensor | None = None
        self._delta: torch.Tensor | None = None

    def run(self, image_names: Sequence[str]) -> Prediction:
        """Return what predicts the answer tokens. image_names: the model's image arguments."""
        call = {name: value for name, value in self._inputs.items() if name not in OWN_COLUMNS}
        images = [name for name in image_names if name in call]
        shown = self._plan.images or (None, None)
        with (
            shared_images(self._base, *shown, images, self._savings.share_images),
            at_decoder(self._base.get_decoder(), self._enter, self._leave),
        ):
            logits = self._model(**call, use_cache=False).logits
        logits = logits[0] if self._savings.answer_logits else logits[self._read(logits.device)]
        return Prediction(logits, self._hidden, self._delta)

    def _enter(self, rows: DecoderInputs) -> Call:
        """Before the decoder: the copies of attacked rows join the rows (B, L), and all are laid out."""
        if self._adversary:
            rows = rows.join(self.attack(rows))
        if not self._packed:
            return rows.call()
        plan = self._plan if self._adversary else self._plan.still()
        layout, device = plan.layout if self._savings.share_prefix else plan.apart(), rows.embeds.device
        self._answers, self._layout = on_device(layout.place[self._tokens.mask], device), layout.to(device)
        return rows.packed(self._layout)

    def attack(self, rows: DecoderInputs) -> DecoderInputs:
        """Return the adversarial copies of the attacked rows (A, L), with delta in their embeddings."""
        numbers, device = self._replayed(), rows.embeds.device
        at, attacked = (on_device(torch.tensor(n, dtype=torch.long), device) for n in (numbers, self._plan.attacked))
        mask, seeds = (self._inputs[name][at] for name in ("irrelevant", "seeds"))
        plan, lengths = self._plan, [self._plan.lengths[row] for row in numbers]
        trees = (plan.attacked_trees if numbers == plan.attacked else plan.trees(numbers)) if self._packed else None
        loop = InnerLoop(self._model, self._base, self._adversary, self._savings, self._budget)
        whole = (plan.labels[:, 1:] != IGNORED).sum() if self._adversary.pgd_loss == "batch_mean" else None
        labels = plan.labels[numbers]
        found = loop.find(Attacked(rows.take(at).detached(), mask, seeds, labels, lengths, trees, whole))
        self._delta = found if numbers == plan.attacked else found[torch.isin(at, attacked)]
        copies = rows.take(attacked)
        return copies.with_embeds(copies.embeds + self._delta.to(copies.embeds.dtype))

    def _replayed(self) -> list[int]:
        """Return the A' rows that go through the inner loop.

        Where weights are sharded, all processes must run the decoder equally often, or those that do wait for ever
        for the others' shards: a process without rows to attack replays another, its shortest, for nothing.
        """
        if not self._savings.skip_unattacked:
            return list(range(self._rows.clean))
        return self._plan.attacked or [int(np.argmin(self._plan.lengths))]

    def _read(self, device: torch.device) -> tuple[torch.Tensor, ...]:
        """Return where the answer tokens are predicted, row and column, (N,) int64 each."""
        return tuple(on_device(places, device) for places in self._tokens.mask.nonzero(as_tuple=True))

    def _leave(self, states: torch.Tensor) -> torch.Tensor:
        """After the decoder: the states that predict answers, (1, N, D), go on to the head; or all, (R, L, D)."""
        if self._layout and self._savings.answer_logits:
            self._hidden = gather(states[0], self._answers)
        else:
            states = self._layout.unpack(states) if self._layout else states
            self._hidden = states[self._read(states.device)]
        return self._hidden[None] if self._savings.answer_logits else states


def lays_out(base: PreTrainedModel, savings: Savings, way: str = "auto") -> bool:
    """Whether rows are laid out without padding: where the run wants it and it is exact. way: see layout.WAYS."""
    if not savings.pack_rows:
        return False
    if not packable(base):
        name = type(base.get_decoder()).__name__
        logger.warning_once(f"{name}: rows are padded, its attention allows no other layout")
        return False
    use_trees(base, way)
    return True
