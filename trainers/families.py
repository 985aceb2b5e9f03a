"""What differs between model families on the way from a row to the model's inputs.

`Family` serves every family without peculiarities; each of the others is one small class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from transformers import ProcessorMixin

from mmi_plugin import prompts
from mmi_plugin.errors import InputError
from mmi_plugin.items import Item

Batch = dict[str, Any]


class Family:
    """A processor with a chat template that expands a placeholder per image."""

    def __init__(self, processor: ProcessorMixin) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.placeholder = str(getattr(processor.tokenizer, "image_token", None) or processor.image_token)
        self.placeholder_id = self.tokenizer.convert_tokens_to_ids(self.placeholder)

    def images(self, images: Sequence[Image.Image]) -> tuple[Batch, list[str]]:
        """Return the model's image inputs and, per image, the text that its mark in a prompt becomes."""
        kwargs = self.processor._merge_kwargs(tokenizer_init_kwargs={}, return_tensors="pt")["images_kwargs"]
        inputs, expansions = self.processor._process_images([[image] for image in images], **kwargs)
        names = set(self.processor.image_processor.model_input_names) - set(self.processor.unused_input_names)
        return {name: torch.as_tensor(value) for name, value in inputs.items() if name in names}, expansions

    def render(self, row: Item) -> list[str]:
        """Return, turn by turn, the text up to where the model speaks and that up to the end of its answer.

        Raises:
            InputError: a chat template from which the answer cannot be told apart.
        """
        template, end = self.processor.apply_chat_template, self.tokenizer.eos_token
        chat = prompts.messages(row, prompts.target(row))
        texts, said = [""], ""
        for turn in range(1, len(chat), 2):
            answer = chat[turn]["content"][0]["text"]
            prompt = template(chat[:turn], tokenize=False, add_generation_prompt=True)
            full = template(chat[: turn + 1], tokenize=False)
            reply = full[len(prompt) :]
            if not prompt.startswith(said) or not full.startswith(prompt) or answer not in reply:
                raise InputError(
                    f"item {row.id}: the chat template does not continue the prompt with the answer {answer!r}"
                )
            ended = end in reply
            reply = reply[: reply.index(end) + len(end)] if ended else reply.rstrip()
            texts.append(texts[-1] + prompt[len(said) :])
            texts.append(texts[-1] + reply + ("" if ended else end))
            said = prompt + reply
        return texts[1:]

    def encode(self, texts: list[str], expansions: list[list[str]]) -> list[list[int]]:
        """Return the token ids of texts, whose images become `expansions`, one list per text."""
        flat = [text for own in expansions for text in own]
        expanded = self.processor.get_text_with_replacements(list(texts), flat)[0]
        # As apply_chat_template does: a template that writes the first token itself keeps the tokenizer from it.
        bos = self.tokenizer.bos_token
        special = bos is None or bos not in expanded[0]
        return self.tokenizer(expanded, add_special_tokens=special)["input_ids"]

    def columns(self, rows: Sequence[Item], input_ids: torch.Tensor, answer: torch.Tensor) -> Batch:
        """Return further inputs of the model. input_ids: (B, L) int64. answer: (B, L) bool, answer tokens."""
        if "mm_token_type_ids" not in self.processor.model_input_names:
            return {}
        return {"mm_token_type_ids": (input_ids == self.placeholder_id).long()}


class Gemma3(Family):
    """Knows images, within which attention goes both ways, by `token_type_ids`."""

    def columns(self, rows: Sequence[Item], input_ids: torch.Tensor, answer: torch.Tensor) -> Batch:
        return {"token_type_ids": (input_ids == self.placeholder_id).long()}


class Plain(Family):
    """Without a chat template: images, start token, the user's text, a line break, the answer."""

    def render(self, row: Item) -> list[str]:
        chat = prompts.messages(row, prompts.target(row))
        texts = [f"{self.placeholder * len(row.pictures)}{self.tokenizer.bos_token}"]
        for user, model in zip(chat[::2], chat[1::2], strict=True):
            texts.append(f"{texts[-1]}{user['content'][-1]['text']}\n")
            texts.append(f"{texts[-1]}{model['content'][0]['text']}{self.tokenizer.eos_token}")
        return texts[1:]


class PaliGemma(Plain):
    """Attends both ways within the prompt, which `token_type_ids` 0 mark."""

    def columns(self, rows: Sequence[Item], input_ids: torch.Tensor, answer: torch.Tensor) -> Batch:
        return {"token_type_ids": answer.long()}


class InstructBlip(Plain):
    """Its image features depend on the prompt, which the Q-Former reads too, without the answer."""

    def images(self, images: Sequence[Image.Image]) -> tuple[Batch, list[str]]:
        inputs = self.processor.image_processor(list(images), return_tensors="pt")
        return {**inputs}, [self.placeholder * self.processor.num_query_tokens] * len(images)

    def encode(self, texts: list[str], expansions: list[list[str]]) -> list[list[int]]:
        """As its processor does: the image's tokens, then what the tokenizer makes of the text alone."""
        start = self.tokenizer.bos_token
        plain = self.tokenizer([text[text.index(start) + len(start) :] for text in texts])["input_ids"]
        counts = [sum(text.count(self.placeholder) for text in own) for own in expansions]
        return [[self.placeholder_id] * count + ids for count, ids in zip(counts, plain, strict=True)]

    def columns(self, rows: Sequence[Item], input_ids: torch.Tensor, answer: torch.Tensor) -> Batch:
        read = [f"{prompts.user_text(row)}\n" for row in rows for _ in row.pictures]
        if not read:
            return {}
        tokens = self.processor.qformer_tokenizer(read, padding=True, padding_side="right", return_tensors="pt")
        return {f"qformer_{name}": tokens[name] for name in ("input_ids", "attention_mask")}


PECULIAR: dict[str, type[Family]] = {
    "Gemma3Processor": Gemma3,
    "PaliGemmaProcessor": PaliGemma,
    "InstructBlipProcessor": InstructBlip,
}


def family_of(processor: ProcessorMixin) -> Family:
    """Return what the trainer must know of the processor's family.

    Raises:
        InputError: a processor from which rows cannot be made, with what it lacks.
    """
    name = type(processor).__name__
    for part in ("image_processor", "tokenizer"):
        if getattr(processor, part, None) is None:
            raise InputError(f"{name} is not supported: it has no {part}")
    if getattr(processor, "image_token", None) is None:
        raise InputError(f"{name} is not supported: it has no image_token, so images have no place in a prompt")
    kind = PECULIAR.get(name, Family)
    if not issubclass(kind, Plain) and not processor.chat_template:
        raise InputError(f"{name} is not supported: it has no chat template")
    if kind is not InstructBlip and type(processor).replace_image_token is ProcessorMixin.replace_image_token:
        raise InputError(f"{name} is not supported: it does not implement replace_image_token")
    if processor.tokenizer.eos_token is None:
        raise InputError(f"{name} is not supported: its tokenizer has no end token")
    return kind(processor)
