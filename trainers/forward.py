"""A batch's rows in, what predicts their answers out: one forward of the model, with the inner loop inside it.

images -> vision encoder, each once (vision) -> embeddings -> [door of the decoder] -> decoder -> [door] -> head
                                                                  |                                |
    the adversary moves copies of rows, in a replay of decoder and head alone       only answer tokens go on
    the copies join the rows; all are laid out in trees (layout)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel
from transformers.utils import logging

from mmi_plugin.models.compat import cache_argument
from mmi_plugin.trainers.collator import OWN_COLUMNS, Batch
from mmi_plugin.trainers.compat import gather, sharded_around
from mmi_plugin.trainers.config import Savings
from mmi_plugin.trainers.decoder import Call, DecoderInputs, at_decoder, evaluating, unwrap
from mmi_plugin.trainers.layout import Layout, Tree, grow_trees, packable, use_trees
from mmi_plugin.trainers.losses import row_losses
from mmi_plugin.trainers.method import IGNORED, Adversary, AnswerTokens, Rows
from mmi_plugin.trainers.vision import depends_on_prompt, shared_images

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

    model: as wrapped for training. inputs: as the collator makes them. rows, tokens: R rows with the copies of those
    that are attacked, and their N answer tokens. adversary: None where this pass has no inner loop.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Batch,
        rows: Rows,
        tokens: AnswerTokens,
        adversary: Adversary | None,
        savings: Savings,
    ) -> None:
        self._model, self._base = model, unwrap(model)
        self._inputs, self._rows, self._tokens = inputs, rows, tokens
        self._adversary, self._savings = adversary, savings
        self._lengths: list[int] = inputs["attention_mask"].sum(1).tolist()
        self._keys = row_keys(self._base, inputs) if lays_out(self._base, savings) else None
        self._layout: Layout | None = None
        self._hidden: torch.Tensor | None = None
        self._delta: torch.Tensor | None = None

    def run(self, image_names: Sequence[str]) -> Prediction:
        """Return what predicts the answer tokens. image_names: the model's image arguments."""
        call = {name: value for name, value in self._inputs.items() if name not in OWN_COLUMNS}
        images = [name for name in image_names if name in call]
        shown = self._inputs.get("image_index"), self._inputs.get("image_tokens")
        with (
            shared_images(self._base, *shown, images, self._savings.share_images),
            at_decoder(self._base.get_decoder(), self._enter, self._leave),
        ):
            logits = self._model(**call, use_cache=False).logits
        logits = logits[0] if self._savings.answer_logits else logits[self._tokens.mask]
        return Prediction(logits, self._hidden, self._delta)

    def _enter(self, rows: DecoderInputs) -> Call:
        """Before the decoder: the copies of attacked rows join the rows (B, L), and all are laid out."""
        if self._adversary:
            rows = rows.join(self.attack(rows))
        if self._keys is None:
            return rows.call()
        attacked = self._rows.attacked.tolist()
        copies = perturbed_keys(self._keys[attacked], self._inputs["irrelevant"][attacked])
        keys, lengths = np.concatenate([self._keys, copies]), self._lengths + [self._lengths[row] for row in attacked]
        trees = grow_trees(keys, lengths) if self._savings.share_prefix else [Tree((r,), 0) for r in range(len(keys))]
        self._layout = Layout.of(trees, lengths, rows.embeds.shape[1], rows.embeds.device)
        return rows.packed(self._layout)

    def attack(self, rows: DecoderInputs) -> DecoderInputs:
        """Return the adversarial copies of the attacked rows (A, L), with delta in their embeddings."""
        replayed = self._replayed()
        found = self._find_delta(rows.take(replayed).detached(), replayed)
        self._delta = found[torch.isin(replayed, self._rows.attacked)]
        copies = rows.take(self._rows.attacked)
        return copies.with_embeds(copies.embeds + self._delta.to(copies.embeds.dtype))

    def _replayed(self) -> torch.Tensor:
        """Return (A',) int64, the rows that go through the inner loop.

        Where weights are sharded, all processes must run the decoder equally often, or those that do wait for ever
        for the others' shards: a process without rows to attack replays another, its shortest, for nothing.
        """
        attacked = self._rows.attacked
        if not self._savings.skip_unattacked:
            return torch.arange(self._rows.clean, device=attacked.device)
        return attacked if len(attacked) else self._inputs["attention_mask"].sum(1).argmin()[None]

    def _find_delta(self, rows: DecoderInputs, replayed: torch.Tensor) -> torch.Tensor:
        """The inner loop (2) of the method over decoder and head alone: rows (A', L) -> (A', L, D)."""
        mask, seeds, labels = (self._inputs[name][replayed] for name in ("irrelevant", "seeds", "labels"))
        decoder, head, tokens = self._base.get_decoder(), self._base.get_output_embeddings(), AnswerTokens.of(labels)
        spared = self._savings.skip_weight_gradients
        extra = [] if spared else [p for p in self._base.parameters() if p.requires_grad]
        sharded = sharded_around(self._model, decoder)
        whole = (self._inputs["labels"][:, 1:] != IGNORED).sum() if self._adversary.pgd_loss == "batch_mean" else None
        # Evaluation mode: dropout would make a step climb on another loss than the last one's, and gradient
        # checkpointing drops the cache that a prefix is kept in.
        with torch.enable_grad(), evaluating(decoder):
            replay = self._replay(decoder, rows, tokens, mask, replayed.tolist())

            def row_loss(moved: torch.Tensor) -> torch.Tensor:
                gather(sharded)  # the backward pass of the step before dropped them
                return row_losses(head(replay(moved)), tokens, whole)

            delta = self._adversary.perturb(rows.embeds, mask, seeds, row_loss, extra)
            gather(sharded)
            return delta

    def _replay(
        self, decoder: nn.Module, rows: DecoderInputs, tokens: AnswerTokens, mask: torch.Tensor, numbers: list[int]
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return the cheapest exact way from embeddings (A', L, D) to the hidden states (N', D) before the head."""
        if self._keys is None:
            return lambda moved: decoder(**rows.with_embeds(moved).call()).last_hidden_state[tokens.mask]
        lengths, width, device = [self._lengths[row] for row in numbers], rows.embeds.shape[1], rows.embeds.device
        if self._savings.reuse_prefix and self._adversary.replays:
            # A row alone keeps what precedes the first position that is moved or predicts an answer.
            fixed = (mask | tokens.mask).int().argmax(1).tolist()
            trees = grow_trees(perturbed_keys(self._keys[numbers], mask), lengths)
            trees = [tree if tree.prefix else Tree(tree.rows, fixed[tree.rows[0]]) for tree in trees]
            return CachedPrefix(decoder, rows, tokens, *Layout.split(trees, lengths, width, device))
        layout = Layout.of([Tree((row,), 0) for row in range(len(numbers))], lengths, width, device)
        call, answers = rows.packed(layout), layout.place[tokens.mask]
        return lambda moved: decoder(**{**call, "inputs_embeds": layout.pack(moved)}).last_hidden_state[0][answers]

    def _leave(self, states: torch.Tensor) -> torch.Tensor:
        """After the decoder: the states that predict answers, (1, N, D), go on to the head; or all, (R, L, D)."""
        if self._layout and self._savings.answer_logits:
            self._hidden = states[0][self._layout.place[self._tokens.mask]]
        else:
            states = self._layout.unpack(states) if self._layout else states
            self._hidden = states[self._tokens.mask]
        return self._hidden[None] if self._savings.answer_logits else states


class CachedPrefix:
    """Replays only what comes after each tree's prefix, whose keys and values are computed once."""

    def __init__(
        self, decoder: nn.Module, rows: DecoderInputs, tokens: AnswerTokens, prefixes: Layout, branches: Layout
    ) -> None:
        cache = DynamicCache(config=decoder.config)
        self._name = cache_argument(decoder)
        known = len(prefixes.source)
        if not known:  # the decoder runs on one token, for nothing: all processes call it equally often
            prefixes = Layout.of([Tree((0,), 0)], [1], rows.embeds.shape[1], rows.embeds.device)
        with torch.no_grad():
            decoder(**{**rows.packed(prefixes), "use_cache": True, self._name: cache})
        # Autocast keeps the bf16 copies of fp32 weights until the outermost forward ends. Those made here have no
        # graph, and up to torch 2.10 the passes after this one take them, so that these weights get no gradient.
        torch.clear_autocast_cache()
        self._decoder, self._branches = decoder, branches
        self._states = [(layer.keys[:, :, :known], layer.values[:, :, :known]) for layer in cache.layers]
        self._call = rows.packed(branches)
        self._answers = branches.place[tokens.mask]

    def __call__(self, moved: torch.Tensor) -> torch.Tensor:
        """(A', L, D) embeddings -> (N', D) last hidden states where answers are predicted."""
        # A call adds its own keys to the cache, even with use_cache=False, so each has a new one.
        cache = DynamicCache(config=self._decoder.config)
        for layer, (keys, values) in enumerate(self._states):
            cache.update(keys, values, layer)
        call = {**self._call, "inputs_embeds": self._branches.pack(moved), self._name: cache}
        return self._decoder(**call).last_hidden_state[0][self._answers]


def lays_out(base: PreTrainedModel, savings: Savings) -> bool:
    """Whether rows are laid out without padding: where the run wants it and it is exact."""
    if not savings.pack_rows:
        return False
    if not packable(base):
        name = type(base.get_decoder()).__name__
        logger.warning_once(f"{name}: rows are padded, its attention allows no other layout")
        return False
    use_trees(base)
    return True


def row_keys(base: PreTrainedModel, inputs: Batch) -> np.ndarray:
    """Return (B, L) int64, equal where rows agree in token and image: what a shared prefix must agree in."""
    keys = inputs["input_ids"].clone()
    if "image_index" in inputs:
        index, tokens = inputs["image_index"], inputs["image_tokens"]
        # Features that depend on the row's prompt are each row's own.
        entry = torch.arange(len(index), device=index.device) if depends_on_prompt(base) else index
        keys[keys == base.config.image_token_id] = -1 - torch.repeat_interleave(entry, tokens[index])
    return keys.cpu().numpy()


def perturbed_keys(keys: np.ndarray, mask: torch.Tensor) -> np.ndarray:
    """Return the keys (A, L) of adversarial copies, which agree with nothing where (A, L) `mask` moves them."""
    return np.where(mask.cpu().numpy(), np.iinfo(np.int64).min + np.arange(len(keys))[:, None], keys)
