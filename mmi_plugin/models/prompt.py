"""An item or a chat and a processor in, what a model reads and what it is to say out: the one way there.

Training, length checks, evaluation and the scoring of options all come through here, so that what is trained, what
is asked and what is scored are the same tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jinja2 import TemplateError
from loguru import logger
from PIL import Image
from transformers import ProcessorMixin

from mmi_plugin.errors import InputError
from mmi_plugin.item import Item, messages
from mmi_plugin.models.chats import Chat, content, images_of, texts_alone, turn_of
from mmi_plugin.models.compat import process_images, with_images
from mmi_plugin.models.tokens import Encoder, Tensors, pad

_PROBE = "\ue0a0"  # stands for an answer where only its surroundings are looked at


@dataclass(frozen=True)
class Rendered:
    """A rendered chat. `spans`: from where to where in `text` the model speaks, its end token included."""

    text: str
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class TrainingRow:
    """`ids` of a whole row, and `answer`, of the same length: which of them the model is to say."""

    ids: list[int]
    answer: list[bool]


class Prompts:
    """Prompts of a processor whose chat template writes a placeholder for each image.

    system_prompt: a system turn before every chat that has none. template_kwargs: variables of the chat template,
    as `enable_thinking`. What is peculiar to a family stands in `families`, whose `prompts_of` makes these.
    """

    last_answer_only = False  # of a chat of several turns, as the model sees earlier answers before it gives them
    answer_apart = False  # encoded by itself, also where its tokens could merge with the prompt
    ends_answers = True  # in rows to train on; otherwise no answer has its end as a part of it

    def __init__(
        self,
        processor: ProcessorMixin,
        system_prompt: str | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.processor, self.tokenizer = processor, processor.tokenizer
        self.placeholder = str(getattr(self.tokenizer, "image_token", None) or processor.image_token)
        self.placeholder_id = self.tokenizer.convert_tokens_to_ids(self.placeholder)
        self._system, self._template_kwargs = system_prompt, dict(template_kwargs or {})
        template = getattr(processor, "chat_template", None) or ""
        self.encoder = Encoder(self.tokenizer, str(template), (self.placeholder, str(processor.image_token)))
        self._options: dict[tuple[str, ...], list[list[int]] | None] = {}
        self._warned: set[str] = set()
        self._check_system()
        self.lead, self.end = self._surroundings()

    def chat(self, item: Item, answer: str | None = None) -> Chat:
        """Return an item as a chat, up to where the model speaks or with `answer`."""
        return messages(item, answer)

    def text(self, chat: Chat) -> str:
        """Return the prompt, up to where the model speaks, as the chat template writes it. Users' texts are marked.

        Raises InputError where the template drops a system turn.
        """
        marked = self.encoder.mark(texts_alone(chat))
        text = self._render(marked, add_generation_prompt=True)
        if marked[0]["role"] == "system" and content(marked[0]).strip() not in text:
            raise InputError(f"the chat template of {type(self.processor).__name__} has no place for a system prompt")
        return text

    def said(self, chat: Chat, name: str = "a chat") -> Rendered:
        """Return a chat whose last turn is the model's. The last answer ends (`ends_answers`) as the template ends it
        or, where that does not, with the end token; `name` begins errors.

        Raises InputError for a chat template from which an answer cannot be told apart.
        """
        marked = self.encoder.mark(texts_alone(chat))
        answer, prompt = content(marked[-1]), self.text(chat[:-1])
        full = self._render(marked)
        if not full.startswith(f"{prompt}{self.lead}{answer}"):
            raise InputError(f"{name}: the chat template does not continue the prompt with the answer {answer!r}")
        text = f"{prompt}{self.lead}{answer}{self.end * self.ends_answers}"
        return Rendered(text, (*self._earlier(marked[:-1], prompt, name), (len(prompt), len(text))))

    def _earlier(self, marked: Chat, prompt: str, name: str) -> list[tuple[int, int]]:
        """Return where in `prompt` the model's earlier answers stand, as this template writes them there."""
        answers = [content(turn) for turn in marked if turn["role"] == "assistant"]
        if not answers or self.last_answer_only:
            return []
        probed = [turn_of("assistant", _PROBE) if turn["role"] == "assistant" else turn for turn in marked]
        first, *rest = self._render(probed, add_generation_prompt=True).split(_PROBE)
        if len(rest) != len(answers) or first + "".join(a + r for a, r in zip(answers, rest, strict=True)) != prompt:
            raise InputError(f"{name}: field 'history': the chat template rewrites earlier answers")
        spans, place, before = [], 0, first
        for answer, after in zip(answers, rest, strict=True):
            place += len(before)
            start = place - len(self.lead) if before.endswith(self.lead) else place
            place += len(answer)
            spans.append((start, place + (len(self.end) if self.ends_answers and after.startswith(self.end) else 0)))
            before = after
        return spans

    def _render(self, chat: Chat, add_generation_prompt: bool = False) -> str:
        """Return a chat of texts as the chat template writes it."""
        try:
            return self.processor.apply_chat_template(
                self.with_system(chat),
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **self._template_kwargs,
            )
        except TemplateError as error:
            raise InputError(f"the chat template refuses the chat: {error}") from error

    def with_system(self, chat: Chat) -> Chat:
        """Return a chat with the system turn, where there is one to put before it."""
        if self._system is None or chat[0]["role"] == "system":
            return chat
        return [turn_of("system", self._system), *chat]

    def end_token(self) -> str:
        """Return the tokenizer's end token. Raises InputError without one."""
        if self.tokenizer.eos_token is None:
            raise InputError(f"{type(self.processor).__name__} is not supported: its tokenizer has no end token")
        return str(self.tokenizer.eos_token)

    def _check_system(self) -> None:
        """Raise InputError for a system prompt that is empty or leaves no trace in the prompt."""
        if self._system is None:
            return
        if not self._system.strip():
            raise InputError("the system prompt is empty")
        self.text(self.with_system([turn_of("user", "?")]))
        self._system = self.encoder.mark(self._system.strip())

    def _surroundings(self) -> tuple[str, str]:
        """Return what the template writes between a prompt and its answer, and what ends the answer."""
        chat = [turn_of("user", "?"), turn_of("assistant", _PROBE)]
        prompt, full = self._render(chat[:-1], add_generation_prompt=True), self._render(chat)
        lead, probe, tail = full[len(prompt) :].partition(_PROBE)
        if not full.startswith(prompt) or not probe:
            raise InputError(
                f"the chat template of {type(self.processor).__name__} does not continue a prompt with an answer"
            )
        end = self.encoder.first_special(tail)
        ended = end is not None and not tail[: end.start()].strip()
        return lead, tail[: end.end()] if ended else self.end_token()

    def say_once(self, message: str) -> None:
        """Warn of what is done to prompts of this kind, once."""
        if message not in self._warned:
            self._warned.add(message)
            logger.warning(message)

    def images(self, shown: Sequence[Sequence[Image.Image]]) -> tuple[Tensors, list[list[str]]]:
        """Return the model's inputs for the images of rows and, per row and image, the text its mark becomes."""
        if not any(shown):
            return {}, [[] for _ in shown]
        tensors, texts = process_images(self.processor, shown)
        found = iter(texts)
        return tensors, [[next(found) for _ in own] for own in shown]

    def joined(self, images: Sequence[Image.Image]) -> list[Image.Image]:
        """Return the images of one prompt as the model takes them."""
        return list(images)

    def encode(self, texts: Sequence[str], expansions: Sequence[Sequence[str]]) -> list[list[int]]:
        """Return the ids of prompts, whose images' placeholders become `expansions`, one list per prompt."""
        pairs = zip(texts, expansions, strict=True)
        return self.encoder.encode([with_images(self.processor, text, own) for text, own in pairs])

    def columns(self, chats: Sequence[Chat], ids: torch.Tensor, answer: torch.Tensor) -> Tensors:
        """Return further inputs of the model. ids: (B, L) int64. answer: (B, L) bool, what the model says."""
        if "mm_token_type_ids" not in self.processor.model_input_names:
            return {}
        return {"mm_token_type_ids": (ids == self.placeholder_id).long()}

    def inputs(self, chats: Sequence[Chat], said: Sequence[int] = (), left: bool = True) -> Tensors:
        """Return the model's inputs for a batch of prompts, padded on the left. said: what all answers begin with."""
        tensors, expansions = self.images([self.joined(images_of(chat)) for chat in chats])
        rows = self.encode([self.text(chat) for chat in chats], expansions)
        return {**tensors, **self.tokens(chats, rows, said, left)}

    def tokens(
        self, chats: Sequence[Chat], rows: Sequence[list[int]], said: Sequence[int] = (), left: bool = True
    ) -> Tensors:
        """Return `inputs` without those for images. rows: the ids of each prompt."""
        answers = [[False] * len(row) + [True] * len(said) for row in rows]
        ids, inside = pad([[*row, *said] for row in rows], self.encoder.padding, left=left)
        batch = {"input_ids": ids, "attention_mask": inside.long()}
        return batch | self.columns(chats, ids, pad(answers, False, left=left)[0].bool())

    def rows(
        self, chats: Sequence[Chat], expansions: Sequence[Sequence[str]], names: Sequence[str], most: int | None = None
    ) -> list[TrainingRow]:
        """Return chats that end with the model's turn as rows to train on; `names` begin errors.

        The tokens before the last answer are those that `inputs` gives for the chat without it.
        Raises InputError for more than `most` tokens, or an earlier answer that merges with what is around it.
        """
        said = [self.said(chat, name) for chat, name in zip(chats, names, strict=True)]
        texts = [text for one in said for text in (one.text[: one.spans[-1][0]], one.text)]
        encoded = iter(self.encode(texts, [own for own in expansions for _ in range(2)]))
        rows = []
        for one, own, name in zip(said, expansions, names, strict=True):
            prompt, whole = next(encoded), next(encoded)
            if self.answer_apart or whole[: len(prompt)] != prompt or len(whole) == len(prompt):
                start, end = one.spans[-1]
                whole = prompt + self._continuation(prompt, one.text[:start], one.text[start:end])
            if most and len(whole) > most:
                raise InputError(f"{name}: a row has {len(whole)} tokens, max_length is {most}")
            answer, ends = [False] * len(whole), [*self._ends(one, own, prompt, name), len(prompt), len(whole)]
            for start, end in zip(ends[::2], ends[1::2], strict=True):
                answer[start:end] = [True] * (end - start)
            rows.append(TrainingRow(whole, answer))
        return rows

    def _ends(self, said: Rendered, expansions: Sequence[str], prompt: list[int], name: str) -> list[int]:
        """Return how many tokens of the `prompt` precede the begin and the end of each earlier answer."""
        *earlier, (start, _) = said.spans
        cuts = [place for span in earlier for place in span]
        if not cuts:
            return []
        places = None
        if self.placeholder not in said.text[cuts[0] : start]:
            # One look at the whole: as many looks as turns would take minutes for a thousand of them.
            whole = with_images(self.processor, said.text[:start], expansions)
            places = self.encoder.places(whole, [cut + len(whole) - start for cut in cuts], prompt)
        if places is None:
            stages = (self.encode([said.text[:cut]], [expansions])[0] for cut in cuts)
            places = [len(before) if prompt[: len(before)] == before else -1 for before in stages]
        if -1 in places:
            raise InputError(f"{name}: field 'history': the tokens of an answer merge with the text around it")
        return places

    def _continuation(self, before: list[int], text: str, more: str) -> list[int]:
        if self.answer_apart:
            return self.encoder.encode([more], special=False)[0]
        return self.encoder.continuation(before, text, more)

    def option_tokens(self, chat: Chat, options: tuple[str, ...]) -> list[list[int]] | None:
        """Return the tokens of each option as an answer to `chat`: those that `rows` trains, without the end.

        None where the template has the model say something else first, as an empty thought.
        """
        if options not in self._options:
            text = self.text(chat)
            (before,) = self.encoder.encode([text])
            self._options[options] = (
                None
                if self.lead.strip()
                else [self._continuation(before, text, self.lead + option) for option in options]
            )
        return self._options[options]

    def opened(self, thoughts: Sequence[tuple[str, str]]) -> str:
        """Return the end of every prompt from where the template opens a thought; empty where it does not."""
        prompt = self._render([turn_of("user", "?")], add_generation_prompt=True)
        begun = [prompt[prompt.rindex(tag) :] for tag, _ in thoughts if prompt.rstrip().endswith(tag)]
        return max(begun, key=len, default="")

    @property
    def stops(self) -> list[int]:
        """The token that ends an answer in training, which is a stop at evaluation."""
        return self.encoder.encode([self.end.strip()], special=False)[0][-1:]
