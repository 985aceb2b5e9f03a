"""What must hold of every registered condition, at default and at other strengths."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops

from mmi_plugin.answers import normalise
from mmi_plugin.conditions import CONDITIONS, Pools, get
from mmi_plugin.conditions.given import PREFIX
from mmi_plugin.errors import InputError
from mmi_plugin.item import INSTRUCTION, Item, check, item_hash, stream, user_text

POOLS = Pools(images=(Image.new("RGB", (8, 8), (9, 8, 7)), Image.new("L", (5, 4), 3)), canvas=16, draws=3)
OTHER_STRENGTHS = (
    "unrelated_text@sentences=0",
    "unrelated_text@sentences=150@position=after",
    "instructed_unrelated_text@position=after",
    "misleading_text@position=after",
    "ocr_text@snippets=25@position=after",
    "typographic@size=1",
    "typographic@size=100",
    "both@sentences=0@images=2",
    "both@images=0",
    "matching_text@position=after",
)
NAMES = (*(name for name in CONDITIONS if not name.startswith(PREFIX)), *OTHER_STRENGTHS)  # which any item has
SIZES = ((1, 1), (8000, 10), (10, 8000), (33, 17))

texts = st.one_of(
    st.text(max_size=20),
    st.text(min_size=1, max_size=5).map(lambda text: text * 4000),
    st.sampled_from(["cat", "a", "the sun", "0", "FORM", "Ωж دج 猫", "\u202eright to left", "tab\there", "a\nb", " "]),
)


@st.composite
def images(draw: st.DrawFn) -> Image.Image:
    """Noise in any mode and size."""
    mode, size = draw(st.sampled_from(["RGB", "RGBA", "L", "P", "1"])), draw(st.sampled_from(SIZES))
    noise = stream(draw(st.integers(0, 9))).randbytes(3 * size[0] * size[1])
    return Image.frombytes("RGB", size, noise).convert(mode)


@st.composite
def items(draw: st.DrawFn) -> Item:
    """An item of any family that `check` accepts; its family is to be set."""
    options = tuple(draw(st.lists(texts.filter(str.strip), min_size=2, max_size=5, unique_by=str.strip)))
    answer = draw(st.sampled_from(options))
    question = draw(texts)
    assume(question.strip())
    facts = {option: draw(texts) for option in options if option != answer}
    item = Item("i", "image_heavy", question, answer, options, draw(images()), facts)
    assume(any(normalise(option) != normalise(answer) for option in item.wrong_options))
    return check(item, "item")


def of_family(item: Item, name: str) -> Item:
    """The item as `name` takes it."""
    family = get(name).families[0]
    return replace(item, family=family, image=None if family == "text_heavy" else item.image)


every_condition = pytest.mark.parametrize("name", NAMES)


@every_condition
@given(items(), st.integers(0, 3))
@settings(max_examples=12, deadline=None)
def test_a_pure_function_of_item_and_seed(name: str, item: Item, seed: int) -> None:
    item = of_family(item, name)
    before = item_hash(item)
    once, again = get(name)(item, seed, POOLS), get(name)(item, seed, POOLS)
    assert item_hash(once) == item_hash(again)
    assert item_hash(item) == before, "the item itself stays as it was"


@every_condition
@given(items(), st.integers(0, 3))
@settings(max_examples=12, deadline=None)
def test_only_what_is_irrelevant_changes(name: str, item: Item, seed: int) -> None:
    condition, item = get(name), of_family(item, name)
    changed = condition(item, seed, POOLS)
    for field in ("id", "family", "question", "answer", "options", "facts", "history"):
        assert getattr(changed, field) == getattr(item, field)
    if item.family == "text_heavy":
        assert changed.context == condition.instruction and not changed.context_after
        assert len(changed.images) == (name != "text_only")
        return
    if condition.kind == "typographic":
        assert changed.context == condition.instruction and not changed.context_after
        _changed_in_one_box_below(item.image, changed.images)
        return
    assert changed.images[-1] is item.image
    assert len(changed.images) == 1 + (condition.strength.get("images", 1) if condition.kind == "both" else 0)
    assert all(image in POOLS.images for image in changed.images[:-1])


def _changed_in_one_box_below(before: Image.Image, after: tuple[Image.Image, ...]) -> None:
    """The one image differs only within the box of a label in black and white, in the middle below."""
    (made,) = after
    assert made.size == before.size
    box = ImageChops.difference(before.convert("RGB"), made).getbbox()
    if box:
        inside = made.crop(box)
        assert all(max(pixel) - min(pixel) == 0 for _, pixel in inside.getcolors(maxcolors=1 << 24)), "shades of grey"


@every_condition
@given(items(), st.integers(0, 3))
@settings(max_examples=12, deadline=None)
def test_question_and_options_stand_in_the_prompt_as_they_are(name: str, item: Item, seed: int) -> None:
    item = of_family(item, name)
    changed = get(name)(item, seed, POOLS)
    if name == "rendered_question":
        assert user_text(changed) == ""
        return
    listed = "".join(f"\n{letter}: {option}" for letter, option in zip("ABCDE", item.options, strict=False))
    question = f"Question:\n{item.question}\nOption:{listed}"
    before = f"{changed.context}\n" if changed.context else ""
    after = f"\n{changed.context_after}" if changed.context_after else ""
    assert user_text(changed) == f"{before}{question}{after}\n{INSTRUCTION}"


@every_condition
@given(items(), st.integers(0, 3))
@example(Item("i", "image_heavy", "q", "cat", ("cat", "Dog", "eel"), Image.new("L", (9, 9)), {"Dog": "No CAT."}), 0)
@example(Item("i", "image_heavy", "q", "Dust", ("Dust", "sun"), Image.new("L", (9, 9))), 0)
@example(Item("i", "image_heavy", "q", ":", ("sun", "", "!", ":"), Image.new("L", (9, 9))), 0)
@example(Item("i", "image_heavy", "q", ":", ("sun", "", "!", ":"), Image.new("L", (9, 9))), 1)
@settings(max_examples=20, deadline=None)
def test_the_right_answer_is_never_asserted(name: str, item: Item, seed: int) -> None:
    condition, item = get(name), of_family(item, name)
    changed = condition(item, seed, POOLS)
    added = f"{changed.context}\n{changed.context_after}".replace(condition.instruction, "", 1)
    if name.startswith("matching_"):
        assert changed.named is None, "it asserts no wrong option"
        return
    if changed.named is None:
        assert not any(_says(added, option) for option in item.options)
        return
    assert changed.named in item.wrong_options and normalise(changed.named) != normalise(item.answer)
    said = added.replace("This picture seems to depict an ", "").replace("This picture seems to depict a ", "")
    assert not _says(said.replace(changed.named, "", 1), item.answer)


def _says(text: str, phrase: str) -> bool:
    """Slow and obvious: whether the phrase stands in the text between ends of words."""
    text, phrase = normalise(text), normalise(phrase)

    def is_word(character: str) -> bool:
        return character.isalnum() or character == "_"

    starts = [at for at in range(len(text)) if phrase and text.startswith(phrase, at)]
    return any(
        not (at and is_word(text[at - 1])) and not is_word((text[at + len(phrase) :] or " ")[0]) for at in starts
    )


def test_refuses_when_every_wrong_option_reads_like_the_answer() -> None:
    item = Item("i7", "image_heavy", "q", "cat", ("cat", "Cat.", "CAT"), Image.new("L", (9, 9)))
    for name in ("misleading_text", "typographic", "misleading_image"):
        item = replace(item, family=get(name).families[0])
        with pytest.raises(InputError, match="item i7: every wrong option reads like the answer 'cat'"):
            get(name)(item, 0, POOLS)


@pytest.mark.parametrize("name", [name for name in CONDITIONS if CONDITIONS[name].instruction])
@given(items(), st.integers(0, 3))
@settings(max_examples=10, deadline=None)
def test_an_instructed_condition_is_its_plain_one_under_one_more_line(name: str, item: Item, seed: int) -> None:
    item, plain = of_family(item, name), get(name.removeprefix("instructed_"))
    expected = plain(item, seed, POOLS)
    changed = get(name)(item, seed, POOLS)
    line, _, rest = changed.context.partition("\n")
    assert "gnore" in line and rest == expected.context
    assert item_hash(replace(changed, context=rest)) == item_hash(expected)


@every_condition
def test_text_of_a_megabyte(name: str) -> None:
    huge = "long word " * 100_000
    item = Item(
        "i", "image_heavy", huge, "cat", ("cat", huge, "猫" * 300_000), Image.new("RGB", (40, 30)), {huge: huge}
    )
    if name == "rendered_question":
        with pytest.raises(InputError, match="item i: its prompt has 2,300,071 characters, and a page holds"):
            get(name)(of_family(item, name), 0, POOLS)
        return
    changed = get(name)(of_family(item, name), 0, POOLS)
    assert huge in user_text(changed)


SCRIPT = """
from PIL import Image
from mmi_plugin.conditions import get
from mmi_plugin.item import Item, item_hash
from mmi_plugin.sources import load
names = {names!r}
for name in names:
    source = {{"image_heavy": "demo_digits", "text_heavy": "demo_capitals", "vqa": "demo_arith"}}[get(name).families[0]]
    bench = load(source)
    print(name, *[item_hash(get(name)(bench.items[i], i, bench.pools)) for i in (0, 7, 50)])
"""


def test_the_same_in_other_processes_with_other_hash_seeds() -> None:
    script = SCRIPT.format(names=NAMES)
    outputs = [
        subprocess.run(
            [sys.executable, "-c", script], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    hashes = [line.split()[1:] for line in outputs[0].splitlines()]
    assert [line.split()[0] for line in outputs[0].splitlines()] == list(NAMES)
    assert all(len(set(row)) == 3 for row in hashes), "items differ"
