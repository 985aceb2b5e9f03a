"""Items in, an error for each that training would stop at: what tokenizer, template, processor or decoder refuses."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from PIL import Image
from transformers import ProcessorMixin

from mmi_plugin.errors import InputError
from mmi_plugin.item import Form, Item, target, user_text
from mmi_plugin.models.families import prompts_of
from mmi_plugin.models.prompt import Prompts
from mmi_plugin.pictures import Picture, Size
from mmi_plugin.trainers.config import MMIConfig
from mmi_plugin.trainers.groups import Group

SEAM = 4  # tokens by which those around an image may differ from text without it
REFUSALS = (ValueError, ArithmeticError, RuntimeError, LookupError, TypeError)  # of processors, for some sizes
_HALF = re.compile("[\ud800-\udfff]")
_PLACE = Image.new("RGB", (1, 1))


class ImageTexts:
    """What the prompt has for images of some sizes, found without processing an image twice of one size."""

    def __init__(self, prompts: Prompts) -> None:
        self._prompts = prompts
        self._texts: dict[tuple[Size, ...], list[str]] = {}
        self._made: dict[Size, str | InputError] = {}

    def of(self, sizes: tuple[Size, ...]) -> list[str]:
        """Return what the places of a prompt's images become. Raises InputError for a size that is refused."""
        if sizes not in self._texts:
            blank = [Image.new("RGB", size) for size in sizes]
            self._texts[sizes] = [self._text(image) for image in self._prompts.joined(blank)]
        return self._texts[sizes]

    def _text(self, image: Image.Image) -> str:
        if image.size not in self._made:
            try:
                self._made[image.size] = self._prompts.images([[image]])[1][0][0]
            except REFUSALS as error:
                reason = " ".join(str(error).split()) or type(error).__name__
                width, height = image.size
                refused = f"the processor refuses an image of {width} x {height} pixels: {reason}"
                self._made[image.size] = InputError(refused)
        made = self._made[image.size]
        if isinstance(made, InputError):
            raise InputError(str(made))
        return made


class RowCheck:
    """Holds items to what training does with them, draw by draw, without processing an image twice of one size.

    Most rows need no tokenizer for it: a text has no more tokens than bytes.
    """

    def __init__(self, args: MMIConfig, processor: ProcessorMixin) -> None:
        self._most = args.max_length
        self._prompts = prompts_of(processor, args.system_prompt, args.chat_template_kwargs)
        self._prompts.ends_answers = args.end_token
        self._conditions = args.conditions_of
        self._turn = len(self._prompts.said(self._prompts.chat(Item("", "vqa", "", ""), "")).text.encode())
        self._images = ImageTexts(self._prompts)
        self._tokens: dict[str, int] = {}  # of what an image becomes

    def check_form(self, form: Form) -> None:
        """Raise an InputError where the chat template has no place for the form's system turn."""
        self._prompts.text(self._prompts.chat(Item("", "vqa", "?", "a", ("a", "b"), form=form)))

    def check_item(self, item: Item, where: str) -> None:
        """Raise an InputError that begins with `where`, and names the field, for an item that cannot be a row:
        half characters or what stands for an image in a text, an image that does not decode or whose size the
        processor refuses, a text that the chat template refuses or rewrites."""
        _check_texts(item, self._prompts.placeholder, where)
        try:
            sizes = tuple(picture.size for picture in item.pictures)
        except InputError as error:
            raise InputError(_placed(error, where)) from error
        try:
            self._images.of(sizes)
        except InputError as error:
            raise InputError(f"{where}: field 'image': {error}") from error
        if item.history:
            return  # each draw of it is encoded
        try:
            self._prompts.said(self._prompts.chat(_blank(item), target(item)), f"item {item.id}")
        except InputError as error:
            raise InputError(f"{where}: {error}") from error

    def check_draws(self, item: Item, draw: Callable[..., Group], rounds: Iterable[int], where: str) -> None:
        """Raise an InputError that begins with `where` for a draw of the item that has too many tokens or cannot be
        encoded. draw: from the item and, by name, a `turn` to its group."""
        size = item.picture.size if item.picture is not None else None
        # Conditions look at an item's image for its size alone, and would decode it.
        light = replace(item, image=Image.new("RGB", size)) if size and isinstance(item.picture, Picture) else item
        seen: set[tuple[object, ...]] = set()
        for number in rounds:
            rows = draw(light, turn=number).rows
            for row, name in zip(rows, self._conditions(item.family), strict=True):
                try:
                    self._check_row(row, seen)
                except InputError as error:
                    place = f"{where}: field '{_longest(item)}'" if "max_length" in str(error) else where
                    raise InputError(f"{_placed(error, place)} (condition {name}, round {number + 1})") from error

    def _check_row(self, row: Item, seen: set[tuple[object, ...]]) -> None:
        sizes = tuple(picture.size for picture in row.pictures)
        text = user_text(row)
        if (text, sizes) in seen:
            return
        seen.add((text, sizes))
        images = self._images.of(sizes)
        system = [row.form.system] if row.options else []
        texts = [text, target(row), *system, *(part for turn in row.history for part in turn)]
        at_most = (
            sum(map(_bytes, texts))
            + self._turn * (1 + len(system) + len(row.history))
            + sum(map(self._image_tokens, images))
        )
        shown = _blank(row)
        if self._most is None or at_most <= self._most:
            # Answers of earlier turns may merge with what is around them, a control token have no other spelling.
            if not row.history and not any(map(self._prompts.encoder.marks, texts)):
                return
            shown, images = replace(row, image=None, added_images=()), []
        self._prompts.rows([self._prompts.chat(shown, target(row))], [images], [f"item {row.id}"], self._most)

    def _image_tokens(self, text: str) -> int:
        """The tokens of an image at most."""
        if text not in self._tokens:
            self._tokens[text] = len(self._prompts.encoder.encode([text], special=False)[0]) + SEAM
        return self._tokens[text]


def _longest(item: Item) -> str:
    """The field with most of the text."""
    history = sum(len(text) for turn in item.history for text in turn)
    sizes = {"answer": len(item.answer), "question": len(item.question), "history": history}
    return max(sizes, key=lambda name: sizes[name])


def _placed(error: InputError, where: str) -> str:
    """An error after its place, which those about a file's own pictures have."""
    return str(error) if str(error).startswith(where) else f"{where}: {error}"


def _blank(row: Item) -> Item:
    """The row with places for its images instead of them."""
    added = (_PLACE,) * len(row.added_images)
    return replace(row, image=None if row.picture is None else _PLACE, added_images=added)


def _bytes(text: str) -> int:
    """The bytes of a text, or of its longest normal form, which some tokenizers encode instead."""
    return len(text) if text.isascii() else max(len(text.encode()), len(unicodedata.normalize("NFKD", text).encode()))


def _check_texts(item: Item, placeholder: str, where: str) -> None:
    """Raise an InputError if a text holds half a character, or what stands for an image in the prompt."""
    texts: dict[str, Sequence[str]] = {
        "id": [item.id],
        "question": [item.question],
        "answer": [item.answer],
        "options": item.options,
        "facts": [text for fact in item.facts.items() for text in fact],
        "history": [text for turn in item.history for text in turn],
    }
    for name, parts in texts.items():
        for part in parts:
            if half := _HALF.search(part):
                raise InputError(f"{where}: field '{name}' has half a character (U+{ord(half[0]):04X})")
            if placeholder in part and name != "id":
                raise InputError(f"{where}: field '{name}' contains {placeholder!r}")
