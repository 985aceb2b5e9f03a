"""Images of a batch in, their features in the rows that show them out: each distinct one is encoded once."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from mmi_plugin.errors import InputError
from mmi_plugin.models.devices import on_device
from mmi_plugin.models.layout import gather
from mmi_plugin.trainers.compat import ENCODED_IMAGES

Features = torch.Tensor | Sequence[torch.Tensor]
SCALED_LOGITS = ("logit_scale", "logits_scaling", "final_logit_softcapping")


def check_support(base: PreTrainedModel, placeholder_id: int) -> None:
    """Raise an InputError that says what the model lacks for the method.

    placeholder_id: the token that the processor writes where image features go.
    """
    name = type(base).__name__
    if ENCODED_IMAGES not in inspect.signature(_taker(base).forward).parameters:
        raise InputError(f"{name} is not supported: its forward lacks {ENCODED_IMAGES!r}")
    if base.get_decoder() in (base, base.base_model) or base.get_output_embeddings() is None:
        raise InputError(f"{name} is not supported: it has no decoder with output embeddings")
    expected = getattr(base.config, "image_token_id", None)
    if expected != placeholder_id:
        raise InputError(
            f"{name} is not supported with this processor: image_token_id is {expected}, "
            f"and the processor writes token {placeholder_id}"
        )
    text = base.config.get_text_config()
    for field in SCALED_LOGITS:
        if getattr(text, field, None) not in (None, 1.0):
            raise InputError(f"{name} is not supported: {field} changes logits after the output embeddings")


def freeze(base: PreTrainedModel, what: str) -> None:
    """Stop the vision encoder from learning, or also the Q-Former and its queries where there is one; the projector
    goes on. what: "vision", "vision_and_qformer" or "none".

    Raises:
        InputError: the model has no vision encoder.
    """
    if what == "none":
        return
    _vision_encoder(base).requires_grad_(False)
    if what == "vision_and_qformer" and depends_on_prompt(base):
        base.qformer.requires_grad_(False)
        base.query_tokens.requires_grad_(False)


@contextmanager
def shared_images(
    base: PreTrainedModel, index: torch.Tensor | None, tokens: torch.Tensor | None, names: Sequence[str], share: bool
) -> Iterator[None]:
    """Within, the model takes one entry per distinct image and shows it wherever `index` says.

    index: (I,) int64, the images as the rows show them; None where there is no image. tokens: (distinct images,)
    int64, how many placeholders each fills. Both are on the host. names: the model's image arguments.
    Without `share`, an image is encoded anew each time it is shown. Images that no row shows are encoded all the
    same: where weights are sharded or gradients averaged, all processes must run all parts of the model.
    """

    def hook(module: nn.Module, args: tuple[Any, ...], call: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        images = {name: call[name] for name in names}
        if index is None:
            # A Q-Former model asks for features even where no row has an image: none are given.
            changed = {"pixel_values": None, "qformer_input_ids": None}
            encoded = BaseModelOutputWithPooling(pooler_output=module.query_tokens.new_zeros(0))
            encoded.qformer_outputs = encoded.vision_outputs = None
        elif not len(index):
            changed = dict.fromkeys(names)
            encoded = _repeat(_encode_unseen(module, images), index, tokens)
        else:
            shown = {name: _take(value, index, tokens) for name, value in images.items()}
            changed = {**shown, "pixel_values": None}
            order, fills = index, tokens
            if not share:  # each showing is an image of its own
                images, order, fills = shown, torch.arange(len(index), device=index.device), tokens[index]
            if "qformer_input_ids" in call:
                encoded = _encode_with_prompts(module, call, images, order)
            else:
                encoded = _repeat(module.get_image_features(**images, return_dict=True), order, fills)
        return args, {**call, **changed, ENCODED_IMAGES: {"image": encoded}}

    if index is None and not depends_on_prompt(base):
        yield
        return
    handle = _taker(base).register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def depends_on_prompt(base: PreTrainedModel) -> bool:
    """Whether the features of an image depend on the text of its row, through a Q-Former."""
    return hasattr(base, "qformer")


def _taker(base: PreTrainedModel) -> nn.Module:
    """The module whose forward puts image features in their places."""
    return base if depends_on_prompt(base) else base.base_model


def _vision_encoder(base: PreTrainedModel) -> nn.Module:
    encoder = base.vision_model if depends_on_prompt(base) else base.get_encoder(modality="image")
    if encoder in (base, base.base_model):
        raise InputError(f"field 'freeze': no vision encoder found in {type(base).__name__}")
    return encoder


def _take(values: torch.Tensor, index: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return the entries of the images shown. An image has one entry, or as many as it has tokens or patches."""
    if len(values) == len(tokens):
        return gather(values, on_device(index, values.device))
    sizes = tokens * len(values) // tokens.sum()
    parts = values.split(sizes.tolist())
    return torch.cat([parts[i] for i in index.tolist()])


def _repeat(encoded: Any, index: torch.Tensor, tokens: torch.Tensor) -> Any:
    """Return the features of distinct images as the rows show them, deep ones of inner layers too."""
    encoded.pooler_output = _repeat_features(encoded.pooler_output, index, tokens)
    if getattr(encoded, "deepstack_features", None) is not None:
        encoded.deepstack_features = [_repeat_features(layer, index, tokens) for layer in encoded.deepstack_features]
    return encoded


def _repeat_features(features: Features, index: torch.Tensor, tokens: torch.Tensor) -> Features:
    """(images, tokens, D) or a list of (tokens, D) -> in the same form, one after the other as shown."""
    whole = features if isinstance(features, torch.Tensor) else torch.cat(list(features))
    parts = whole.flatten(0, -2).split(tokens.tolist())
    shown = [parts[i] for i in index.tolist()] or [parts[0][:0]]
    return torch.cat(shown)[None] if isinstance(features, torch.Tensor) else shown


def _encode_with_prompts(
    module: nn.Module, call: dict[str, Any], images: dict[str, torch.Tensor], index: torch.Tensor
) -> Any:
    """Features of a Q-Former, which reads each row's prompt with what `index` repeats of the vision encoder."""

    def repeat(encoder: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        states = output.last_hidden_state
        output.last_hidden_state = states[on_device(index, states.device)]
        return output

    prompts = {name: call[name] for name in ("qformer_input_ids", "qformer_attention_mask")}
    handle = module.vision_model.register_forward_hook(repeat)
    try:
        return module.get_image_features(**images, **prompts, return_dict=True)
    finally:
        handle.remove()


def _encode_unseen(module: nn.Module, images: dict[str, torch.Tensor]) -> Any:
    """Features of images that no row shows; a Q-Former reads a token with each."""
    prompts = {}
    if depends_on_prompt(module):
        pixels = images["pixel_values"]
        prompts["qformer_input_ids"] = torch.zeros(len(pixels), 1, dtype=torch.long, device=pixels.device)
    return module.get_image_features(**images, **prompts, return_dict=True)
