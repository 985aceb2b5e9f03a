import re
from dataclasses import replace

import pytest
from PIL import Image, ImageChops

from mmi_plugin.conditions import CONDITIONS, REFERENCE, Pools, check_names, for_family, get
from mmi_plugin.conditions.image import labelled
from mmi_plugin.errors import InputError
from mmi_plugin.item import FAMILIES, Item, messages, user_text

POOLS = Pools(images=(Image.new("RGB", (8, 8), (9, 8, 7)), Image.new("L", (5, 4), 3)), canvas=16)
TEXT = ("unrelated_text", "misleading_text", "ocr_text")
IMAGE = ("random_pixels", "black", "white", "irrelevant_image", "screenshot")


def image_item(options: tuple[str, ...] = ("cat", "dog", "eel"), **fields: object) -> Item:
    values = {"facts": {"dog": "A dog barks.", "eel": "An eel is no cat."}, "image": Image.new("RGB", (6, 6))}
    return Item("i1", "image_heavy", "What is it?", "cat", options, **{**values, **fields})


def test_every_family_has_its_published_conditions() -> None:
    assert for_family("image_heavy") == ("clean", *TEXT)
    assert for_family("text_heavy") == IMAGE
    assert for_family("vqa") == ("clean",)
    assert for_family("image_heavy", seen_only=True) == ("clean", "unrelated_text", "misleading_text")
    assert for_family("text_heavy", seen_only=True) == ("random_pixels", "black", "white", "irrelevant_image")
    assert all(for_family(family)[0] == REFERENCE[family] for family in FAMILIES)


def test_misleading_text_says_what_the_item_knows_of_the_wrong_option() -> None:
    contexts = {get("misleading_text")(image_item(), seed, POOLS).context for seed in range(20)}
    # The fact on "eel" names the answer and is left out.
    assert contexts == {"This picture seems to depict a dog. A dog barks.", "This picture seems to depict an eel."}


def test_unrelated_text_brings_ten_sentences() -> None:
    context = get("unrelated_text")(image_item(), 0, POOLS).context
    assert sum(fact in context for fact in POOLS.sentences) == 10


def test_canvases() -> None:
    item = Item("t1", "text_heavy", "q", "a", ("a", "c"))
    assert get("black")(item, 0, POOLS).image.getextrema() == ((0, 0),) * 3
    assert get("white")(item, 0, POOLS).image.getextrema() == ((255, 255),) * 3
    noise = get("random_pixels")(item, 0, POOLS).image
    assert noise.size == (16, 16)
    assert len(set(noise.convert("RGB").tobytes())) > 100
    assert get("irrelevant_image")(item, 0, POOLS).image in POOLS.images


def test_seed_item_and_condition_each_matter() -> None:
    a, b = image_item(), replace(image_item(), id="i2")
    unrelated = get("unrelated_text")
    assert len({unrelated(a, 0, POOLS).context, unrelated(a, 1, POOLS).context, unrelated(b, 0, POOLS).context}) == 3


def added_box(item: Item, name: str) -> tuple[int, int, int, int]:
    """Where `name` changes the item's image."""
    box = ImageChops.difference(item.image, get(name)(item, 0, POOLS).image).getbbox()
    assert box
    return box


def test_typographic_writes_the_named_option_larger_with_size() -> None:
    item = image_item(image=Image.new("RGB", (200, 120), (90, 10, 10)))
    changed = get("typographic")(item, 0, POOLS)
    assert changed.named in item.wrong_options
    boxes = [added_box(item, name) for name in ("typographic@size=6", "typographic", "typographic@size=30")]
    heights = [bottom - top for _, top, _, bottom in boxes]
    assert heights == sorted(heights) and len(set(heights)) == 3
    assert all(bottom == 120 for _, _, _, bottom in boxes)
    other = next(option for option in item.wrong_options if option != changed.named)
    assert labelled(item.image, changed.named, 12).tobytes() == changed.image.tobytes()
    assert labelled(item.image, other, 12).tobytes() != changed.image.tobytes()


def test_a_label_that_is_too_wide_is_wrapped_or_shrunk() -> None:
    blank = Image.new("RGB", (100, 100), (90, 10, 10))
    wrapped, shrunk = (labelled(blank, text, 20) for text in ("grey fox on ice", "a" * 40))
    boxes = [ImageChops.difference(blank, made).getbbox() for made in (wrapped, shrunk)]
    assert boxes[0][3] - boxes[0][1] > 2 * 20 > 20 > boxes[1][3] - boxes[1][1]
    assert all(left >= 0 and right <= 100 for left, _, right, _ in boxes)


def test_both_adds_sentences_and_photographs_that_are_not_the_items_own() -> None:
    own = POOLS.images[0]
    item = Item("v1", "vqa", "How many?", "two", ("two", "six"), own)
    changed = get("both@sentences=3")(item, 0, POOLS)
    assert sum(fact in changed.context for fact in POOLS.sentences) == 3
    assert changed.images == (POOLS.images[1], own)
    shown = [part["image"] for part in messages(changed)[0]["content"] if part["type"] == "image"]
    assert shown == [POOLS.images[1], own]
    with pytest.raises(InputError, match="condition 'both' needs 2 irrelevant images, and the pool has 1"):
        get("both@images=2")(item, 0, POOLS)


@pytest.mark.parametrize(
    ("fewer", "more"),
    [
        ("unrelated_text@sentences=4", "unrelated_text"),
        ("ocr_text@snippets=3", "ocr_text"),
        ("ocr_text", "ocr_text@snippets=30"),
    ],
)
def test_less_of_a_condition_is_the_beginning_of_more(fewer: str, more: str) -> None:
    short, long = get(fewer)(image_item(), 0, POOLS).context, get(more)(image_item(), 0, POOLS).context
    assert short and long.startswith(short) and len(long) > len(short)


def test_position_moves_the_text_behind_the_options() -> None:
    for name in ("unrelated_text", "misleading_text", "ocr_text"):
        before, after = (get(n)(image_item(), 0, POOLS) for n in (name, f"{name}@position=after"))
        assert (after.context, after.context_after) == ("", before.context)
        assert user_text(after).index("C: eel") < user_text(after).index(before.context)


def test_a_strength_has_one_name_and_counts_as_not_trained_on() -> None:
    same = ("unrelated_text@position=after@sentences=4", "unrelated_text@sentences=4@position=after")
    assert {get(name).name for name in same} == {same[1]}
    assert get("unrelated_text@sentences=10@position=before") is get("unrelated_text")
    assert get("unrelated_text").seen and not get(same[0]).seen
    assert not any(made.seen or made.published for made in CONDITIONS.values() if made.name.startswith("instructed_"))


def test_more_sentences_than_the_pool_has_are_refused() -> None:
    with pytest.raises(InputError, match="151 unrelated sentences are asked for, and the pool has 150"):
        get("unrelated_text@sentences=151")(image_item(), 0, POOLS)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("unrelated_txt@sentences=4", "unknown condition 'unrelated_txt': did you mean 'unrelated_text'?"),
        ("unrelated_text@sentnces=4", "strength 'sentnces' is unknown: did you mean 'sentences'?"),
        ("unrelated_text@sentences=-1", "strength 'sentences' is '-1', not an integer from 0 to 1000"),
        ("unrelated_text@sentences", "strength 'sentences' is ''"),
        ("unrelated_text@position=afte", "strength 'position' is 'afte': did you mean 'after'?"),
        ("unrelated_text@sentences=1@sentences=2", "strength 'sentences' is given twice"),
        ("black@size=3", "strength 'size': black has no strengths"),
        ("instructed_clean", "unknown condition 'instructed_clean'"),
    ],
)
def test_a_bad_name_or_strength_is_named(name: str, said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        get(name)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["clean", "blakc"], "unknown condition 'blakc': did you mean 'black'?"),
        (["clean", "both"], "condition 'both' is not for image_heavy"),
        (["unrelated_text", "unrelated_text@sentences=10"], "one or more different ones are needed"),
        ([], "one or more different ones are needed"),
        ("clean", "conditions are 'clean', not a list of names"),
    ],
)
def test_a_bad_list_of_conditions_is_named(names: list[str] | str, said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        check_names(names, "image_heavy")


def test_errors_name_the_nearest() -> None:
    with pytest.raises(InputError, match="unknown condition 'misleading_txt': did you mean 'misleading_text'"):
        get("misleading_txt")
    with pytest.raises(InputError, match="condition 'black' is for text_heavy, item i1 is image_heavy"):
        get("black")(image_item(), 0, POOLS)
    assert all(name == condition.name for name, condition in CONDITIONS.items())
