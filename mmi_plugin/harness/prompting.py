"""From chats to the tensors that a model takes, and the tokens of each option."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from loguru import logger
from PIL import Image

from mmi_plugin.errors import InputError

Chat = list[dict[str, Any]]
Tensors = dict[str, Any]

TOKENWISE = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
"""The inputs of shape (rows, tokens)."""


class Prompts:
    """Renders chats with a processor. Raises InputError for one that cannot place images in a text.

    A processor without a chat template is good if it puts the image tokens in itself
    (InstructBLIP's does); the prompt is then the text as it is, and several images of a prompt are
    joined side by side, as such a processor takes one for each text. That is said once.
    """

    def __init__(self, processor: Any, image_token: int | None, name: str = "the processor") -> None:
        self._processor, self._tokenizer = processor, processor.tokenizer
        self._template = bool(getattr(processor, "chat_template", None))
        self._name, self._said = name, False
        self._choices: dict[tuple[str, ...], list[list[int]]] = {}
        if not self._template and not self._places_images(image_token):
            raise InputError(f"{name}: its processor has no chat template, which mmi_hf needs")

    def inputs(self, chats: Sequence[Chat]) -> Tensors:
        """Return the model's inputs for a batch, padded on the left."""
        if not self._template:
            images = [self._one_image(images_of(chat)) for chat in chats if images_of(chat)]
            texts = list(map(_text, chats))
            return pad_left(dict(self._processor(images=images or None, text=texts, padding=True, return_tensors="pt")))
        rendered = self._processor.apply_chat_template(
            list(chats),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )
        return pad_left(dict(rendered))

    def _one_image(self, images: Sequence[Image.Image]) -> Image.Image:
        if len(images) > 1 and not self._said:
            logger.warning(f"{self._name} takes one image for each prompt: several are joined side by side")
            self._said = True
        return images[0] if len(images) == 1 else side_by_side(images)

    def choice_tokens(self, chat: Chat, choices: tuple[str, ...]) -> list[list[int]]:
        """Return the tokens of each choice as an answer to `chat`.

        They are those that follow the prompt when the answer is written as the chat template writes
        it (after a blank in "ASSISTANT: A"), and the choice's own where the two do not merge cleanly.
        """
        if choices not in self._choices:
            prompt = self._render(chat)
            before = self._encode(prompt)
            lead = self._lead(chat, choices[0])
            self._choices[choices] = [self._continuation(prompt, before, lead + choice) for choice in choices]
        return self._choices[choices]

    def _continuation(self, prompt: str, before: list[int], answer: str) -> list[int]:
        both = self._encode(prompt + answer)
        if both[: len(before)] == before and len(both) > len(before):
            return both[len(before) :]
        return self._tokenizer(answer, add_special_tokens=False)["input_ids"]

    def _lead(self, chat: Chat, choice: str) -> str:
        """Return the white space that the template puts between the prompt and an answer."""
        if not self._template:
            return " "
        answered = [*chat, {"role": "assistant", "content": [{"type": "text", "text": choice}]}]
        prompt, whole = self._render(chat), self._processor.apply_chat_template(answered, tokenize=False)
        rest = whole[len(prompt) :] if whole.startswith(prompt) else ""
        space = rest[: len(rest) - len(rest.lstrip())]
        return space if rest[len(space) :].startswith(choice) else ""

    def _render(self, chat: Chat) -> str:
        if not self._template:
            return _text(chat)
        return self._processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]

    def _places_images(self, image_token: int | None) -> bool:
        try:
            probe = self._processor(images=Image.new("RGB", (32, 32)), text="x", return_tensors="pt")
        except ValueError:  # a processor that counts the placeholders in the text
            return False
        return image_token is not None and bool((probe["input_ids"] == image_token).any())


def images_of(chat: Chat) -> list[Image.Image]:
    """Return the images of a chat, in order."""
    return [part["image"] for turn in chat for part in turn["content"] if part["type"] == "image"]


def side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    """Return one picture of all `images` from left to right, each scaled to the height of the highest."""
    height = max(image.height for image in images)
    scaled = [image.convert("RGB").resize((max(1, image.width * height // image.height), height)) for image in images]
    whole = Image.new("RGB", (sum(image.width for image in scaled), height))
    for place, image in enumerate(scaled):
        whole.paste(image, (sum(left.width for left in scaled[:place]), 0))
    return whole


def pad_left(inputs: Tensors) -> Tensors:
    """Return `inputs` with the masked tokens of each row before all others, and no useless column.

    A processor that puts image tokens before an already padded text leaves the padding in between.
    The text of a Q-Former, which counts positions from the first column, is padded on the right.
    """
    mask = inputs["attention_mask"]
    order = mask.argsort(dim=1, stable=True)[:, mask.shape[1] - int(mask.sum(1).max()) :]
    moved = {name: inputs[name].gather(1, order) for name in TOKENWISE if inputs.get(name) is not None}
    if "qformer_attention_mask" in inputs:
        order = inputs["qformer_attention_mask"].argsort(dim=1, stable=True, descending=True)
        moved.update({name: inputs[name].gather(1, order) for name in ("qformer_input_ids", "qformer_attention_mask")})
    return {**inputs, **moved}


def to_model(inputs: Tensors, device: torch.device, dtype: torch.dtype) -> Tensors:
    """Return `inputs` on `device`, floating point values as `dtype`."""
    return {
        name: value.to(device, dtype if value.is_floating_point() else None) if torch.is_tensor(value) else value
        for name, value in inputs.items()
    }


def _text(chat: Chat) -> str:
    return "".join(part["text"] for turn in chat for part in turn["content"] if part["type"] == "text")
