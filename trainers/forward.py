"""One forward pass of the model over a batch's rows and their adversarial copies, nothing computed twice."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging

from mmi_plugin.trainers.attack import Attack
from mmi_plugin.trainers.collator import Batch
from mmi_plugin.trainers.config import MMIConfig
from mmi_plugin.trainers.decoder import AnswerTokens, Call, DecoderRows, at_decoder, unwrap
from mmi_plugin.trainers.layout import Layout, Tree, grow_trees, packable, use_trees
from mmi_plugin.trainers.vision import depends_on_prompt, shared_images

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
