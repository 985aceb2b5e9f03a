"""Names of transformers that are private, undocumented or differ from version to version: all of them stand here.

`tests/test_models_compat.py` names the one that another version does not have.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from transformers import DynamicCache, PreTrainedModel, ProcessorMixin
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.utils.chat_template_utils import encode_marked_chat, mark_control_tokens

__all__ = ["FOREIGN", "DynamicLayer", "DynamicSlidingWindowLayer", "encode_marked_chat", "mark_control_tokens"]


class Foreign(NamedTuple):
    """A name, module:name, since which version of its package it is there, and why we take it.

    parameters: what the function takes. mentions: what the source of a class says, of attributes of its instances.
    """

    path: str
    since: str
    why: str
    parameters: tuple[str, ...] = ()
    mentions: str = ""


CHATS, CACHES = "transformers.utils.chat_template_utils", "transformers.cache_utils"
PROCESSOR, IMAGES = "transformers:ProcessorMixin", "transformers.image_processing_utils:BaseImageProcessor"
FOREIGN = (
    Foreign(f"{CHATS}:mark_control_tokens", "5.23", "`</s>` in a question is text", ("obj", "control_tokens_re")),
    Foreign(f"{CHATS}:encode_marked_chat", "5.23", "the ids of a text with such marks", ("tokenizer", "chat")),
    Foreign(f"{PROCESSOR}._merge_kwargs", "5.23", "its own settings for images", ("tokenizer_init_kwargs",)),
    Foreign(f"{PROCESSOR}._process_images", "5.23", "images without text, once each", ("images", "kwargs")),
    Foreign(f"{PROCESSOR}.get_text_with_replacements", "5.23", "text without images", ("text", "images_replacements")),
    Foreign(f"{PROCESSOR}.replace_image_token", "5.23", "implemented by a processor that can do these two apart"),
    Foreign(f"{PROCESSOR}.unused_input_names", "5.23", "what it returns of images and no model takes"),
    Foreign(f"{IMAGES}.valid_kwargs", "5.23", "the settings that it knows; it drops others without a word"),
    Foreign(f"{CACHES}:DynamicLayer", "5.23", "a layer that keeps all keys and values", mentions="self.is_initialized"),
    Foreign(f"{CACHES}:DynamicSlidingWindowLayer", "5.23", "looks back only so far", mentions="self.sliding_window"),
    Foreign(f"{CACHES}:DynamicLayer.is_sliding", "5.23", "tells the one from the other"),
    Foreign(f"{CACHES}:CacheLayerMixin.update", "5.23", "into buffers of ours", ("key_states", "value_states")),
    Foreign(f"{CACHES}:CacheLayerMixin.get_seq_length", "5.23", "how many tokens of a buffer are filled"),
)
"""Since: the lower bound in pyproject.toml, which is the oldest version that was looked at."""

CACHE_NAMES = ("cache", "past_key_values")  # the new name first; the old one is until transformers 5.23


def cache_argument(module: Any) -> str | None:
    """Return the name under which a model or decoder takes its cache of keys and values; None without one."""
    takes = inspect.signature(module.forward).parameters
    return next((name for name in CACHE_NAMES if name in takes), None)


def cache_layers(model: PreTrainedModel) -> list[Any]:
    """Return one empty layer of the model's cache for each layer of its decoder."""
    return DynamicCache(config=model.config).layers


class BufferLayer(DynamicLayer):
    """Keys and values of a batch in buffers with room for tokens to come, which double when they are full.

    keys, values: (B, H, room, D) for H heads of size D, of which the first `length` tokens are filled.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, length: int) -> None:
        super().__init__()
        self.dtype, self.device = keys.dtype, keys.device
        self.keys, self.values, self.length = keys, values, length
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add N tokens of both, (B, H, N, D) each, and return all that are filled, (B, H, length, D) each."""
        start, self.length = self.length, self.length + key_states.shape[-2]
        if self.length > self.keys.shape[-2]:  # a thought is longer than an answer
            self.keys, self.values = (
                torch.cat([kept, torch.zeros_like(kept)], -2) for kept in (self.keys, self.values)
            )
        self.keys[:, :, start : self.length] = key_states
        self.values[:, :, start : self.length] = value_states
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def get_seq_length(self) -> int:
        return self.length


def rewind(inputs: dict[str, Any]) -> None:
    """Let the cache of buffers in `inputs`, if there is one, hold the prompt but for its last token.

    inputs: of `generate`; input_ids (B, L).
    """
    for cache in (inputs[name] for name in CACHE_NAMES if name in inputs):
        for layer in cache.layers:
            layer.length = inputs["input_ids"].shape[1] - 1


def process_images(
    processor: ProcessorMixin, shown: Sequence[Sequence[Image.Image]]
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Return the model's inputs for the images of rows and, for each image, the text that its placeholder becomes.

    Their shapes are the family's: pixel_values (images, 3, H, W), or (patches, D) with a grid of patches (images, 3).
    """
    kwargs = processor._merge_kwargs(tokenizer_init_kwargs={}, return_tensors="pt")["images_kwargs"]
    inputs, texts = processor._process_images([list(own) for own in shown], **kwargs)
    names = set(processor.image_processor.model_input_names) - set(processor.unused_input_names)
    return {name: torch.as_tensor(value) for name, value in inputs.items() if name in names}, texts


def with_images(processor: ProcessorMixin, text: str, expansions: Sequence[str]) -> str:
    """Return a rendered prompt whose images' placeholders have become `expansions`."""
    return processor.get_text_with_replacements([text], list(expansions))[0][0]


def expands_images(processor: ProcessorMixin) -> bool:
    """Whether a processor says what the placeholder of an image becomes."""
    return type(processor).replace_image_token is not ProcessorMixin.replace_image_token


def image_settings(processor: ProcessorMixin) -> set[str]:
    """Return the names of the settings that a processor's image processor knows."""
    return {*getattr(processor.image_processor.valid_kwargs, "__annotations__", ())}
