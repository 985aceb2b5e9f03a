"""A processor in, its prompts out, with what is peculiar to its family, said once.

`prompt.Prompts` serves every family without peculiarities; each of the others is one small class, here, in a package
with an entry point `mmi_plugin.families`, or in a folder of `--include_path`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from PIL import Image
from transformers import ProcessorMixin

from mmi_plugin.errors import InputError
from mmi_plugin.models.chats import Chat, content, images_of, texts_alone
from mmi_plugin.models.compat import expands_images
from mmi_plugin.models.prompt import Prompts
from mmi_plugin.models.tokens import Encoder, Tensors, pad
from mmi_plugin.plugins import load_plugins

_PECULIAR: dict[str, type[Prompts]] = {}
Kind = TypeVar("Kind", bound=type[Prompts])


def family(processor: str) -> Callable[[Kind], Kind]:
    """Register a class of prompts, of `Prompts` or `Plain`, for processors whose class is called `processor`.

    It overrides what is peculiar to them. Raises InputError when another class has them.
    """

    def register(kind: Kind) -> Kind:
        if (other := _PECULIAR.get(processor)) is not None and other.__module__ != kind.__module__:
            raise InputError(f"family {processor!r} is registered by {other.__module__}, too")
        _PECULIAR[processor] = kind
        return kind

    return register


@family("Gemma3Processor")
class _Gemma3(Prompts):
    """Knows images, within which attention goes both ways, by `token_type_ids`."""

    def columns(self, chats: Sequence[Chat], ids: torch.Tensor, answer: torch.Tensor) -> Tensors:
        """Return token_type_ids (B, L), 1 for images. ids: (B, L) int64. answer: (B, L) bool, not read."""
        return {"token_type_ids": (ids == self.placeholder_id).long()}


class Plain(Prompts):
    """Prompts without a chat template: the texts of all turns, answers after `own_lead`, a question after an answer on
    a new line.

    Before the model answers it sees all of the prompt at once, so of several answers only the last is trained.
    """

    last_answer_only = True
    own_lead = ""

    def _render(self, chat: Chat, add_generation_prompt: bool = False) -> str:
        text = ""
        for turn in self.with_system(chat):
            between = self.own_lead if turn["role"] == "assistant" else "\n"
            text += f"{between}{content(turn)}" if text else content(turn)
        return text

    def _surroundings(self) -> tuple[str, str]:
        return self.own_lead, self.end_token()


@family("PaliGemmaProcessor")
class _PaliGemma(Plain):
    """Images, start token, text, a line break; the answer is encoded apart, as its processor does with a suffix.

    Attends both ways within the prompt, which `token_type_ids` 0 mark.
    """

    answer_apart = True

    def _render(self, chat: Chat, add_generation_prompt: bool = False) -> str:
        if not add_generation_prompt:
            return f"{self._render(chat[:-1], add_generation_prompt=True)}{content(chat[-1])}"
        shown = sum(part["type"] == "image" for turn in chat for part in turn["content"])
        return f"{self.placeholder * shown}{self.tokenizer.bos_token}{super()._render(chat)}\n"

    def columns(self, chats: Sequence[Chat], ids: torch.Tensor, answer: torch.Tensor) -> Tensors:
        """Return token_type_ids (B, L), 1 for what the model says: `answer`, (B, L) bool. ids: (B, L), not read."""
        return {"token_type_ids": answer.long()}


_BERT_POSITIONS, _SAYS_NOTHING = 512, 1 << 20


@family("InstructBlipProcessor")
class _InstructBlip(Plain):
    """Its image features depend on the prompt, which the Q-Former reads, too, without the answer.

    The tokens of the image come before what the tokenizer makes of the text alone. It takes one image for a prompt:
    several are joined side by side.
    """

    own_lead = " "

    def __init__(self, processor: ProcessorMixin, *more: Any) -> None:
        self._reader = Encoder(processor.qformer_tokenizer, "", ())
        super().__init__(processor, *more)

    def joined(self, images: Sequence[Image.Image]) -> list[Image.Image]:
        if len(images) < 2:
            return list(images)
        self.say_once("InstructBLIP takes one image for a prompt: several are joined side by side")
        return [side_by_side(images)]

    def images(self, shown: Sequence[Sequence[Image.Image]]) -> tuple[Tensors, list[list[str]]]:
        if not any(shown):
            return {}, [[] for _ in shown]
        inputs = self.processor.image_processor([image for own in shown for image in own], return_tensors="pt")
        return {**inputs}, [[self.placeholder * self.processor.num_query_tokens] * len(own) for own in shown]

    def encode(self, texts: Sequence[str], expansions: Sequence[Sequence[str]]) -> list[list[int]]:
        counts = [sum(text.count(self.placeholder) for text in own) for own in expansions]
        plain = self.encoder.encode(texts)
        return [[self.placeholder_id] * count + ids for count, ids in zip(counts, plain, strict=True)]

    def columns(self, chats: Sequence[Chat], ids: torch.Tensor, answer: torch.Tensor) -> Tensors:
        """Return what the Q-Former reads, (rows with an image, tokens): their prompts, padded on the right.

        ids, answer: (B, L) of the decoder, not read.
        """
        prompts = [chat[:-1] if chat[-1]["role"] == "assistant" else chat for chat in chats if images_of(chat)]
        if not prompts:
            return {}
        texts = [self._render(self._reader.mark(texts_alone(chat)), add_generation_prompt=True) for chat in prompts]
        read, inside = pad(list(map(self._cut, self._reader.encode(texts))), self._reader.padding)
        return {"qformer_input_ids": read, "qformer_attention_mask": inside.long()}

    def _cut(self, ids: list[int]) -> list[int]:
        """Return what the Q-Former has positions for, cut at the side at which its tokenizer truncates."""
        most = self.processor.qformer_tokenizer.model_max_length
        most = _BERT_POSITIONS if most > _SAYS_NOTHING else most
        if len(ids) <= most:
            return ids
        self.say_once(f"the Q-Former reads {most} tokens of a prompt: longer ones are cut")
        first, last = self._reader.frame
        text, room = ids[len(first) : len(ids) - len(last)], most - len(first) - len(last)
        left = self.processor.qformer_tokenizer.truncation_side == "left"
        return [*first, *(text[-room:] if left else text[:room]), *last]


def side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    """Return one picture of all `images` from left to right, each scaled to the height of the highest."""
    height = max(image.height for image in images)
    scaled = [image.convert("RGB").resize((max(1, image.width * height // image.height), height)) for image in images]
    whole = Image.new("RGB", (sum(image.width for image in scaled), height))
    for place, image in enumerate(scaled):
        whole.paste(image, (sum(left.width for left in scaled[:place]), 0))
    return whole


def prompts_of(
    processor: ProcessorMixin, system_prompt: str | None = None, template_kwargs: Mapping[str, Any] | None = None
) -> Prompts:
    """Return the prompts of a processor's family.

    Raises:
        InputError: a processor from which prompts cannot be made, with what it lacks; a system prompt that its
            template drops, a variable that it does not know.
    """
    name = type(processor).__name__
    for part in ("image_processor", "tokenizer"):
        if getattr(processor, part, None) is None:
            raise InputError(f"{name} is not supported: it has no {part}")
    if getattr(processor, "image_token", None) is None:
        raise InputError(f"{name} is not supported: it has no image_token, so images have no place in a prompt")
    if name not in _PECULIAR:
        load_plugins("mmi_plugin.families")
    kind = _PECULIAR.get(name, Prompts)
    template = str(getattr(processor, "chat_template", None) or "")
    if not issubclass(kind, Plain) and not template:
        raise InputError(f"{name} is not supported: it has no chat template")
    if kind.images is Prompts.images and not expands_images(processor):
        raise InputError(f"{name} is not supported: it does not implement replace_image_token")
    for key in template_kwargs or {}:
        if issubclass(kind, Plain) or not re.search(rf"\b{re.escape(key)}\b", template):
            raise InputError(f"chat_template_kwargs: the chat template of {name} has no variable {key!r}")
    return kind(processor, system_prompt, template_kwargs)
