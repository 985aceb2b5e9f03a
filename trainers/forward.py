"""One forward pass of the model over a batch's rows and their adversarial copies, nothing computed twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import DynamicCache, PreTrainedModel
from transformers.utils import logging

from mmi_plugin.models.compat import cache_argument
from mmi_plugin.trainers.collator import Batch
from mmi_plugin.trainers.config import MMIConfig
from mmi_plugin.trainers.decoder import (
    AnswerTokens,
    Call,
    DecoderRows,
    at_decoder,
    evaluating,
    full_precision,
    row_means,
    shards_around,
    unwrap,
)
from mmi_plugin.trainers.layout import Layout, Tree, grow_trees, packable, use_trees
from mmi_plugin.trainers.method import Adversary
from mmi_plugin.trainers.vision import depends_on_prompt, shared_images

Replay = Callable[[torch.Tensor], torch.Tensor]


@dataclass
class Attack:
    """Adversarial copies of some rows of a batch.

    rows: (A,) int64, which rows; `replayed` (A',) int64, those that go through the inner loop, which
    may be more: where weights are sharded, all processes must run the decoder equally often, so that one
    without rows to attack replays another. mask: (A', L) bool, seeds: (A',) int64 as Adversary takes
    them. labels: (A', L).
    keys: (A', L) int64 as grow_trees takes them; None where the decoder needs padded rows.
    `delta` (A, L, D) is there after `move`.
    """

    adversary: Adversary
    rows: torch.Tensor
    replayed: torch.Tensor
    mask: torch.Tensor
    seeds: torch.Tensor
    labels: torch.Tensor
    lengths: list[int]
    keys: np.ndarray | None
    reuse_prefix: bool
    weight_gradients: bool
    delta: torch.Tensor = field(init=False)

    def move(self, model: nn.Module, rows: DecoderRows) -> DecoderRows:
        """Return the adversarial copies of the batch's rows. model: as wrapped for training."""
        copies = rows.take(self.replayed)
        copies.deep = [layer.detach() for layer in copies.deep]
        found = self._find_delta(model, copies.with_embeds(copies.embeds.detach()))
        self.delta = found[torch.isin(self.replayed, self.rows)]
        attacked = rows.take(self.rows)
        return attacked.with_embeds(attacked.embeds + self.delta.to(attacked.embeds.dtype))

    def _find_delta(self, model: nn.Module, rows: DecoderRows) -> torch.Tensor:
        base = unwrap(model)
        decoder, head = base.get_decoder(), base.get_output_embeddings()
        shards = shards_around(model, decoder)
        rows.rest["use_cache"] = False
        extra = [p for p in base.parameters() if p.requires_grad] if self.weight_gradients else []
        tokens = AnswerTokens.of(self.labels)
        with torch.enable_grad(), evaluating(decoder):
            replay = self._replay(decoder, rows, tokens)

            def row_loss(moved: torch.Tensor) -> torch.Tensor:
                shards.gather()
                logits = full_precision(head(replay(moved)))
                return row_means(cross_entropy(logits, tokens.target, reduction="none"), tokens.row, len(moved))

            delta = self.adversary.perturb(rows.embeds, self.mask, self.seeds, row_loss, extra)
            shards.gather()
            return delta

    def _fixed(self) -> list[int]:
        """How many positions before the first that the adversary moves or that predicts an answer, per row."""
        ends = self.mask | AnswerTokens.of(self.labels).mask
        return ends.int().argmax(1).tolist()

    def _replay(self, decoder: nn.Module, rows: DecoderRows, tokens: AnswerTokens) -> Replay:
        if self.keys is None:
            return lambda moved: decoder(**rows.with_embeds(moved).call()).last_hidden_state[tokens.mask]
        width, device = rows.embeds.shape[1], rows.embeds.device
        trees = [Tree((row,), 0) for row in range(len(self.lengths))]
        if self.reuse_prefix and self.adversary.replays:
            fixed = self._fixed()
            trees = [t if t.prefix else Tree(t.rows, fixed[t.rows[0]]) for t in grow_trees(self.keys, self.lengths)]
            return CachedPrefix(decoder, rows, tokens, *Layout.split(trees, self.lengths, width, device))
        layout = Layout.of(trees, self.lengths, width, device)
        call = rows.packed(layout)
        answers = layout.place[tokens.mask]

        def replay(moved: torch.Tensor) -> torch.Tensor:
            return decoder(**{**call, "inputs_embeds": layout.pack(moved)}).last_hidden_state[0][answers]

        return replay


class CachedPrefix:
    """Replays only what comes after each tree's prefix, whose keys and values are computed once.

    Without any prefix the decoder runs on one token, for nothing: all processes call it equally often.
    """

    def __init__(
        self, decoder: nn.Module, rows: DecoderRows, tokens: AnswerTokens, prefixes: Layout, branches: Layout
    ) -> None:
        cache = DynamicCache(config=decoder.config)
        self._name = cache_argument(decoder)
        known = len(prefixes.source)
        if not known:
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
        """(A, L, D) embeddings -> (N, D) last hidden states where answers are predicted."""
        cache = DynamicCache(config=self._decoder.config)  # a call adds to its cache, so each has a new one
        for layer, (keys, values) in enumerate(self._states):
            cache.update(keys, values, layer)
        call = {**self._call, "inputs_embeds": self._branches.pack(moved), self._name: cache}
        return self._decoder(**call).last_hidden_state[0][self._answers]


OWN_COLUMNS = ("items", "labels", "irrelevant", "origin", "seeds", "image_index", "image_tokens")
logger = logging.get_logger(__name__)


def answers(
    model: nn.Module, inputs: Batch, attack: Attack | None, tokens: AnswerTokens, args: MMIConfig, images: Sequence[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits (N, V) and last hidden states (N, D) that predict the answer tokens.

    tokens: those of the clean rows and, after them, of their adversarial copies. images: names of
    the model's image arguments.
    """
    base = unwrap(model)
    hidden: list[torch.Tensor] = []
    layouts: list[Layout] = []

    def before(rows: DecoderRows) -> Call:
        if attack:
            rows = rows.join(attack.move(model, rows))
        if not lays_out(base, args):
            return rows.call()
        layouts.append(_layout(base, inputs, attack, rows, args))
        return rows.packed(layouts[0])

    def after(states: torch.Tensor) -> torch.Tensor:
        if layouts and args.answer_logits:
            states = states[0][layouts[0].place[tokens.mask]]
        elif layouts:
            states = layouts[0].unpack(states)
        hidden.append(states if states.ndim == 2 else states[tokens.mask])
        return hidden[0][None] if args.answer_logits else states

    call = {name: value for name, value in inputs.items() if name not in OWN_COLUMNS}
    names = [name for name in images if name in call]
    with ExitStack() as hooks:
        shown = inputs.get("image_index"), inputs.get("image_tokens")
        hooks.enter_context(shared_images(base, *shown, names, args.share_images))
        hooks.enter_context(at_decoder(base.get_decoder(), before, after))
        logits = model(**call, use_cache=False).logits
    return (logits[0] if args.answer_logits else logits[tokens.mask]), hidden[0]


def lays_out(base: PreTrainedModel, args: MMIConfig) -> bool:
    """Whether rows are laid out without padding: where the run wants it and it is exact."""
    decoder = base.get_decoder()
    if args.pack_rows and not packable(base):
        logger.warning_once(f"{type(decoder).__name__}: rows are padded, its attention allows no other layout")
    if not (args.pack_rows and packable(base)):
        return False
    use_trees(base)
    return True


def row_keys(base: PreTrainedModel, inputs: Batch) -> np.ndarray:
    """Return (B, L) int64, equal where rows agree in token and image: what a shared prefix must agree in."""
    keys = inputs["input_ids"].clone()
    if "image_index" in inputs:
        index, tokens = inputs["image_index"], inputs["image_tokens"]
        entry = torch.arange(len(index), device=index.device) if depends_on_prompt(base) else index
        keys[keys == base.config.image_token_id] = -1 - torch.repeat_interleave(entry, tokens[index])
    return keys.cpu().numpy()


def perturbed_keys(keys: np.ndarray, mask: torch.Tensor) -> np.ndarray:
    """Return the keys of adversarial copies, which agree with nothing where (A, L) `mask` moves them."""
    return np.where(mask.cpu().numpy(), np.iinfo(np.int64).min + np.arange(len(keys))[:, None], keys)


def _layout(base: PreTrainedModel, inputs: Batch, attack: Attack | None, rows: DecoderRows, args: MMIConfig) -> Layout:
    keys, lengths = row_keys(base, inputs), inputs["attention_mask"].sum(1).tolist()
    if attack:
        attacked = attack.rows.tolist()
        copies = perturbed_keys(keys[attacked], inputs["irrelevant"][attack.rows])
        keys, lengths = np.concatenate([keys, copies]), lengths + [lengths[row] for row in attacked]
    trees = grow_trees(keys, lengths) if args.share_prefix else [Tree((row,), 0) for row in range(len(lengths))]
    return Layout.of(trees, lengths, rows.embeds.shape[1], rows.embeds.device)
