"""An item: one question, the one format of its prompt, its hash, and random streams that depend on names alone."""

from __future__ import annotations

import hashlib
import random
import string
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from PIL import Image

from mmi_plugin.errors import InputError
from mmi_plugin.files import is_text
from mmi_plugin.pictures import ImageField, Picture, shown


def stream(*names: object) -> random.Random:
    """Return a generator seeded by the SHA-256 of `names`."""
    digest = hashlib.sha256("\x1f".join(map(str, names)).encode(errors="surrogatepass")).digest()
    return random.Random(int.from_bytes(digest[:8], "big"))


Family = Literal["image_heavy", "text_heavy", "vqa"]
FAMILIES: tuple[str, ...] = get_args(Family)
LETTERS = string.ascii_uppercase


INSTRUCTION = "Answer with the letter of one option."


@dataclass(frozen=True)
class Form:
    """How a prompt is put around an item.

    system: the system turn of items with options. closing: the line after everything else where there are options.
    header: where the line "Question:" stands before the question: with `all` items, those with `choices`, or `none`.
    brief: the line after everything else of a free-form question.
    """

    system: str = ""
    closing: str = INSTRUCTION
    header: str = "all"
    brief: str = field(default="", repr=False)  # in hashes by itself, so that those of other forms stay


@dataclass(frozen=True)
class Given:
    """How a data set itself has an item under a condition: what is None or empty there is as in the item.

    image: in its place. question: in its place. context: a text before it. named: the answer that it is made to draw.
    """

    image: Image.Image | Picture | None = None
    question: str = ""
    context: str = ""
    named: str | None = None


@dataclass(frozen=True)
class Item:
    """One question.

    `options` is empty for a free-form question, which may have a `history`: the (question, answer)
    turns before it, of which the first sees the image; where it is scored, `answers` has all that count, `answer`
    among them. A condition fills `context` or `context_after`
    (text put before or after the question), `named` (the wrong answer which it asserts, or which
    the question is known to draw by itself), replaces
    `image` or puts `added_images` before it, and takes over the `form` of its prompt. An image may be given as a
    Picture, which is decoded whenever the image is read. `place` says which of several options that read as the
    answer does is meant, `in_image` that the image shows the whole prompt, and the text is empty, `cluster`
    which items are no independent ones, as they share a passage or a template; without it, those with the same image.
    `group`: which items count together, right only if all of them are. `given` has the versions of the item that its
    data set came with, by the name of their condition without `given_`.
    """

    id: str
    family: Family
    question: str
    answer: str
    options: tuple[str, ...] = ()
    image: Image.Image | None = ImageField()  # noqa: RUF009
    facts: Mapping[str, str] = field(default_factory=dict)
    context: str = ""
    named: str | None = None
    history: tuple[tuple[str, str], ...] = ()
    context_after: str = ""
    added_images: tuple[Image.Image | Picture, ...] = ()
    form: Form = Form()
    place: int | None = None
    in_image: bool = False
    cluster: str | None = None
    answers: tuple[str, ...] = ()
    given: Mapping[str, Given] = field(default_factory=dict)
    group: str | None = None

    @property
    def gold(self) -> str | None:
        """The letter of the right option; None for a free-form question."""
        if self.place is not None:
            return LETTERS[self.place]
        return self.letter(self.answer) if self.options else None

    @property
    def wrong_options(self) -> tuple[str, ...]:
        return tuple(option for option in self.options if option != self.answer)

    @property
    def picture(self) -> Image.Image | Picture | None:
        """The image as it was given, not decoded."""
        return vars(self)["image"]

    @property
    def pictures(self) -> tuple[Image.Image | Picture, ...]:
        """Every image of the prompt in its order, as it was given, not decoded; the item's own is the last."""
        return self.added_images if self.picture is None else (*self.added_images, self.picture)

    @property
    def images(self) -> tuple[Image.Image, ...]:
        """`pictures`, decoded."""
        return tuple(picture.open() if isinstance(picture, Picture) else shown(picture) for picture in self.pictures)

    def letter(self, option: str) -> str:
        return LETTERS[self.options.index(option)]


def check(item: Item, where: str, repeated_options: bool = False) -> Item:
    """Return `item` without white space around its texts, or raise an InputError that begins with `where` and names
    the field. An answer with a blank before it would be other tokens than the one that is asked for.

    repeated_options: an option may be there twice."""
    item = _stripped(item)
    _check_texts(item, where)
    if not item.id:
        raise InputError(f"{where}: field 'id' is empty")
    if item.family not in FAMILIES:
        raise InputError(f"{where}: field 'type' is {item.family!r}, not one of {', '.join(FAMILIES)}")
    if not item.question:
        raise InputError(f"{where}: field 'question' is empty")
    if not all((item.answer, *item.answers)):
        raise InputError(f"{where}: field 'answer' is empty")
    if item.family != "vqa" and not (item.options or item.answers):
        raise InputError(f"{where}: field 'options' is missing or empty")
    if item.options:
        _check_options(item, where, repeated_options)
        _check_named(item, where)
    if item.family == "image_heavy" and item.picture is None:
        raise InputError(f"{where}: field 'image' is missing")
    if item.history and (item.family != "vqa" or item.options):
        raise InputError(f"{where}: field 'history' is for free-form VQA rows alone")
    if not all(text for turn in item.history for text in turn):
        raise InputError(f"{where}: field 'history' has an empty text")
    return item


def _check_texts(item: Item, where: str) -> None:
    texts = {
        "id": (item.id,),
        "question": (item.question,),
        "answer": (item.answer, *item.answers),
        "options": item.options,
        "facts": (text for fact in item.facts.items() for text in fact),
        "history": (text for turn in item.history for text in turn),
        "given": (text for one in item.given.values() for text in (one.question, one.context, one.named or "")),
        "named": (item.named or "",),
        "cluster": (item.cluster or "",),
        "group": (item.group or "",),
    }
    for name, parts in texts.items():
        if not all(map(is_text, parts)):
            raise InputError(f"{where}: field {name!r} is not UTF-8, or has a lone surrogate")


def _stripped(item: Item) -> Item:
    return replace(
        item,
        image=item.picture,  # as it was given, not decoded
        question=item.question.strip(),
        answer=item.answer.strip(),
        options=tuple(option.strip() for option in item.options),
        answers=tuple(answer.strip() for answer in item.answers),
        facts={option.strip(): fact.strip() for option, fact in item.facts.items()},
        history=tuple((question.strip(), answer.strip()) for question, answer in item.history),
    )


def _check_options(item: Item, where: str, repeated: bool) -> None:
    if not 2 <= len(item.options) <= len(LETTERS):
        raise InputError(f"{where}: field 'options' has {len(item.options)} entries, not 2 to {len(LETTERS)}")
    if not all(item.options):
        raise InputError(f"{where}: field 'options' has an empty option: {list(item.options)}")
    if len(set(item.options)) != len(item.options) and not repeated:
        raise InputError(f"{where}: field 'options' repeats an option: {list(item.options)}")
    if item.answer not in item.options:
        raise InputError(f"{where}: field 'answer' is {item.answer!r}, not among the options {list(item.options)}")


def _check_named(item: Item, where: str) -> None:
    for named in (item.named, *(one.named for one in item.given.values())):
        if named is not None and named not in item.options:
            raise InputError(f"{where}: field 'named' is {named!r}, not among the options {list(item.options)}")


def image_hash(image: Image.Image | Picture | None) -> str:
    """SHA-256 of mode, size and pixels, or of a Picture's encoded bytes, which are not decoded for it."""
    if image is None:
        return "none"
    if isinstance(image, Picture):
        return image.digest()
    head = f"{image.mode}:{image.size}:".encode()
    return hashlib.sha256(head + image.tobytes()).hexdigest()


def first_turn(item: Item) -> Item:
    """Return a conversation cut after its first answer."""
    if not item.history:
        return item
    (question, answer), *_ = item.history
    return replace(item, image=item.picture, question=question, answer=answer, history=())


def item_hash(item: Item, image: str | None = None) -> str:
    """SHA-256 of everything in `item` that a model or a scorer can see. image: the hash of its image, where known."""
    parts = [item.id, item.family, item.question, item.answer, *item.options, item.context, repr(item.named)]
    parts += [text for turn in item.history for text in turn]
    parts += [f"{option}={fact}" for option, fact in sorted(item.facts.items())]
    parts += [f"after={item.context_after}"] if item.context_after else []
    parts += [f"added={image_hash(image)}" for image in item.added_images]
    parts += [repr(item.form)] if repr(item.form) != repr(Form()) else []
    parts += [f"brief={item.form.brief}"] if item.form.brief else []
    parts += [f"accepted={answer}" for answer in item.answers]
    parts += [] if item.place is None else [f"place={item.place}"]
    parts += ["in_image"] if item.in_image else []
    parts += [f"cluster={item.cluster}"] if item.cluster else []
    parts += [f"group={item.group}"] if item.group else []
    for name, one in sorted(item.given.items()):
        parts += [f"given={name}", one.question, one.context, repr(one.named), image_hash(one.image)]
    parts.append(image or image_hash(item.picture))
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()


def user_text(item: Item) -> str:
    """Return the user's turn: question, lettered options, and before or after them what a condition added."""
    if item.in_image:
        return ""
    listed = [f"{letter}: {option}" for letter, option in zip(LETTERS, item.options, strict=False)]
    options, closing = (["Option:", *listed], item.form.closing) if listed else ([], item.form.brief)
    header = "Question:" if item.form.header in ("all", "choices" if listed else "all") else ""
    parts = [item.context, header, item.question, *options, item.context_after, closing]
    return "\n".join(filter(None, parts))


def target(item: Item) -> str:
    """Return what the model should answer: the gold letter, or the free-form answer."""
    return item.gold or item.answer


def messages(item: Item, answer: str | None = None) -> list[dict[str, Any]]:
    """Return the chat in the form that `processor.apply_chat_template` takes, images first, earlier turns before."""
    chat = []
    for question, reply in item.history:
        chat += [_turn("user", user_text(replace(item, question=question))), _turn("assistant", reply)]
    chat.append(_turn("user", user_text(item)))
    chat[0]["content"][:0] = [{"type": "image", "image": image} for image in item.images]
    if item.form.system and item.options:
        chat.insert(0, _turn("system", item.form.system))
    if answer is not None:
        chat.append(_turn("assistant", answer))
    return chat


def _turn(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}]}
