"""Names of transformers that are private, undocumented or differ from version to version: all of them stand here.

`tests/test_models_compat.py` names the one that another version does not have.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from PIL import Image
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedModel, ProcessorMixin
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.generation import utils as generation
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.utils.chat_template_utils import _get_control_token_patterns, encode_marked_chat, mark_control_tokens

__all__ = [
    "FOREIGN",
    "DynamicLayer",
    "DynamicSlidingWindowLayer",
    "mark_control_tokens",
    "sdpa_attention_forward",
]


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
VISUAL_PLACES, DEEP_FEATURES = "visual_pos_masks", "deepstack_visual_embeds"
OWN_MASKS = "create_masks_for_generate"
QWEN3_VL, GEMMA3 = "transformers.models.qwen3_vl.modeling_qwen3_vl", "transformers.models.gemma3.modeling_gemma3"
FOREIGN = (
    Foreign(f"{CHATS}:mark_control_tokens", "5.20", "`</s>` in a question is text", ("obj", "control_tokens_re")),
    Foreign(f"{CHATS}:_get_control_token_patterns", "5.20", "what it finds marks by", ("control_tokens",)),
    Foreign(f"{CHATS}:encode_marked_chat", "5.20", "the ids of a text with such marks", ("tokenizer", "chat")),
    Foreign(f"{PROCESSOR}.valid_processor_kwargs", "5.20", "the settings that it knows, by what they are for"),
    Foreign(f"{PROCESSOR}._merge_kwargs", "5.20", "its own settings for images", ("tokenizer_init_kwargs",)),
    Foreign(f"{PROCESSOR}._process_images", "5.20", "images without text, once each", ("images", "kwargs")),
    Foreign(f"{PROCESSOR}.get_text_with_replacements", "5.20", "text without images", ("text", "images_replacements")),
    Foreign(f"{PROCESSOR}.replace_image_token", "5.20", "implemented by a processor that can do these two apart"),
    Foreign(f"{PROCESSOR}.unused_input_names", "5.20", "what it returns of images and no model takes"),
    Foreign(f"{IMAGES}.valid_kwargs", "5.20", "the settings that it knows; it drops others without a word"),
    Foreign(f"{CACHES}:DynamicCache", "5.20", "its layers, of which a prefix is cut out", mentions="self.layers"),
    Foreign(f"{CACHES}:DynamicLayer", "5.20", "a layer that keeps all keys and values", mentions="self.is_initialized"),
    Foreign(f"{CACHES}:DynamicSlidingWindowLayer", "5.20", "looks back only so far", mentions="self.sliding_window"),
    Foreign(f"{CACHES}:DynamicLayer.is_sliding", "5.20", "tells the one from the other"),
    Foreign(f"{CACHES}:CacheLayerMixin.update", "5.20", "into a layer of ours", ("key_states", "value_states")),
    Foreign(f"{CACHES}:CacheLayerMixin.get_seq_length", "5.20", "how many keys there are"),
    Foreign("transformers:PreTrainedConfig._attn_implementation", "5.20", "by what a decoder attends"),
    Foreign("transformers.integrations.sdpa_attention:sdpa_attention_forward", "5.20", "attention of each piece"),
    Foreign("transformers.masking_utils:sdpa_mask", "5.20", "the mask of a decoder whose rows stay padded"),
    Foreign(f"{QWEN3_VL}:Qwen3VLTextModel", "5.20", "rows take what inner layers add along", mentions=DEEP_FEATURES),
    Foreign(f"{GEMMA3}:Gemma3ForConditionalGeneration.{OWN_MASKS}", "5.20", "such a family masks in its own way"),
    Foreign("transformers:PreTrainedModel._can_compile_fullgraph", "5.20", "whether it takes a static cache"),
    Foreign("torch._dynamo.config:recompile_limit", "2.9", "FlexAttention is compiled for each length of the ladder"),
)
"""Since: the lower bound in pyproject.toml, which is the oldest version that was looked at."""

MARK, _END = mark_control_tokens("xx", re.compile("xx")).split("xx")
"""What stands before and after a control token that is text."""
_MARKED = re.compile(f"{MARK}[^{MARK}{_END}]*{_END}")
_BY_PATTERN = "markers_re" in inspect.signature(encode_marked_chat).parameters  # until 5.22
CACHE_NAMES = ("cache", "past_key_values")  # the new name first; the old one is until transformers 5.23


def encode_marked(tokenizer: Any, text: str) -> list[int]:
    """Return the ids of a text with marks, of what is marked as text. Raises ValueError where that cannot be."""
    if not _BY_PATTERN:
        return encode_marked_chat(tokenizer, text)
    _, markers = _get_control_token_patterns(tuple(tokenizer.added_tokens_encoder))
    return encode_marked_chat(tokenizer, text, markers)


def cache_argument(module: Any) -> str | None:
    """Return the name under which a model or decoder takes its cache of keys and values; None without one."""
    takes = inspect.signature(module.forward).parameters
    return next((name for name in CACHE_NAMES if name in takes), None)


def cache_layers(model: PreTrainedModel) -> list[Any]:
    """Return one empty layer of the model's cache for each layer of its decoder."""
    return DynamicCache(config=model.config).layers


def kept_tokens(call: Mapping[str, Any]) -> int:
    """Return of how many tokens a decoder's cache has the keys after a call; 0 without one that keeps them all."""
    cache = next((call[name] for name in CACHE_NAMES if call.get(name) is not None), None)
    layers = getattr(cache, "layers", ())
    return layers[0].get_seq_length() if layers and isinstance(layers[0], DynamicLayer) else 0


class BranchLayer(DynamicLayer):
    """Keys and values of `rows` branches as one sequence of T tokens, and of N tokens that came after it in each row.

    known: keys and values of prefixes, (H, L, D) each, which are in no copy of this.
    """

    def __init__(self, rows: int, known: Sequence[tuple[torch.Tensor, torch.Tensor]] = ()) -> None:
        super().__init__()
        self._rows, self._known = rows, known
        self._own: tuple[torch.Tensor, torch.Tensor] | None = None
        self._later: list[torch.Tensor] = []

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take both of the sequence, (1, H, T, D) each, and return them after those of all prefixes; then take both
        of the next token of each row, (1, H, rows, D) each, and return these, to be looked up with `between`."""
        new = key_states, value_states
        if self._own is None:
            self._own, self.is_initialized = new, True
            self.keys, self.values, self.dtype, self.device = *new, key_states.dtype, key_states.device
            keys, values = ([states[side][None] for states in self._known] for side in (0, 1))
            return torch.cat([*keys, key_states], 2), torch.cat([*values, value_states], 2)
        new = [states.unsqueeze(2) for states in new]
        self._later = [torch.cat(pair, 2) for pair in zip(self._later, new, strict=True)] if self._later else new
        return key_states, value_states

    def between(self, start: int, stop: int, first: int, last: int) -> list[list[torch.Tensor]]:
        """Return keys and values, (1, H, tokens, D) each, in two parts: those of tokens `start` to `stop` of the
        sequence, and those that came after it in rows `first` to `last`, step by step."""
        own = [[states[:, :, start:stop]] for states in self._own]
        if self._later:
            for parts, states in zip(own, self._later, strict=True):
                parts.append(states[:, :, :, first:last].flatten(2, 3))
        return own

    def rewind(self) -> None:
        """Forget what came after the sequence."""
        self._later = []

    def get_seq_length(self) -> int:
        """Return how many keys there are."""
        after = self._later[0].shape[2] * self._rows if self._later else 0
        return 0 if self._own is None else self._own[0].shape[2] + after


def waits_less(model: PreTrainedModel) -> bool:
    """Whether `generate` can be told not to wait for the device at every token; a CPU is not waited for."""
    static = getattr(model, "_can_compile_fullgraph", False) and "flash" not in attention_of(model)
    return static and model.device.type != "cpu"


@contextmanager
def deferred(model: PreTrainedModel) -> Iterator[dict[str, Any]]:
    """Within, `generate` with these options does not wait for the device at every token.

    It would at two places. In the mask, which it makes without a look at values where keys and values are in tensors
    of a fixed size: then they are not copied for every token, either. They are as long as this batch's need alone: it
    would keep to the longest so far, so that an answer depended on what was asked before. And in asking whether all
    rows have ended: it does so one token late for mps alone, since 5.24.
    """
    check = getattr(generation, "DeferredStopCheck", None)
    supported = check and check.is_supported

    def anywhere(device: torch.device, *told: Any, **named: Any) -> bool:
        return supported(torch.device("mps"), *told, **named)

    if check:
        check.is_supported = staticmethod(anywhere)
    try:
        # Not compiled: that takes longer than the few tokens of an answer, for each batch size and length.
        yield {"cache_implementation": "static", "disable_compile": True, "return_dict_in_generate": False}
    finally:
        vars(model).pop("_previous_max_cache_length", None)
        if check:
            check.is_supported = staticmethod(supported)


def attention_of(module: PreTrainedModel) -> str:
    """Return the name of the attention that a model computes with."""
    return module.config._attn_implementation


def use_attention(module: PreTrainedModel, name: str, attend: Callable[..., Any]) -> None:
    """Let a model attend by `attend`, which is told of what a call has besides, with masks as sdpa takes them."""
    if attention_of(module) != name:
        AttentionInterface.register(name, attend)
        AttentionMaskInterface.register(name, sdpa_mask)
        module.set_attn_implementation(name)


def compile_often(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that is compiled for each of the few shapes it meets; torch gives up after 8."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    return torch.compile(function, dynamic=False)


@contextmanager
def attending(module: PreTrainedModel, name: str, attend: Callable[..., Any]) -> Iterator[None]:
    """Within, a model attends by `attend`, which is told of what a call has besides, whatever it attends by else."""
    before = attention_of(module)
    use_attention(module, name, attend)
    try:
        yield
    finally:
        module.set_attn_implementation(before)


def process_images(
    processor: ProcessorMixin, shown: Sequence[Sequence[Image.Image]]
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Return the model's inputs for the images of rows and, for each image, the text that its placeholder becomes.

    Their shapes are the family's: pixel_values (images, 3, H, W), or (patches, D) with a grid of patches (images, 3).
    """
    known = processor.valid_processor_kwargs
    kwargs = processor._merge_kwargs(known, tokenizer_init_kwargs={}, return_tensors="pt")["images_kwargs"]
    inputs, texts = processor._process_images([list(own) for own in shown], **kwargs)
    names = set(processor.image_processor.model_input_names) - set(processor.unused_input_names)
    return {name: torch.as_tensor(value) for name, value in inputs.items() if name in names}, texts


def with_images(processor: ProcessorMixin, text: str, expansions: Sequence[str]) -> str:
    """Return a rendered prompt whose images' placeholders have become `expansions`; those that are marked stay."""
    marked = iter(_MARKED.findall(text))
    bare = _MARKED.sub(MARK + _END, text)  # until 5.22, it would look into marks
    expanded = processor.get_text_with_replacements([bare], list(expansions))[0][0]
    return re.sub(MARK + _END, lambda _: next(marked), expanded)


def expands_images(processor: ProcessorMixin) -> bool:
    """Whether a processor says what the placeholder of an image becomes."""
    return type(processor).replace_image_token is not ProcessorMixin.replace_image_token


def image_settings(processor: ProcessorMixin) -> set[str]:
    """Return the names of the settings that a processor's image processor knows."""
    return {*getattr(processor.image_processor.valid_kwargs, "__annotations__", ())}
