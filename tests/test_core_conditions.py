import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageChops

from mmi_plugin.conditions import CONDITIONS, REFERENCE, Pools, check_names, for_family, get
from mmi_plugin.conditions.image import labelled
from mmi_plugin.errors import InputError
from mmi_plugin.item import FAMILIES, Item, item_hash, messages, user_text
from mmi_plugin.results import Record
from mmi_plugin.results.measures import Measure, per_item
from mmi_plugin.results.outcomes import Outcomes

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


def ink(image: Image.Image) -> tuple[int, int, int, int]:
    """The box of all that is not white."""
    box = ImageChops.invert(image.convert("L")).getbbox()
    assert box
    return box


@pytest.mark.parametrize("side", [32, 224, 336])
def test_a_slip_names_a_wrong_option_by_a_large_letter_and_its_text(side: int) -> None:
    options = ("Lima", "Quito", "a capital whose name takes more than one line of this slip", "Bogotá")
    item, pools = Item("t1", "text_heavy", "Of Peru?", "Lima", options), Pools(canvas=side)
    slips = [get("misleading_image")(item, seed, pools) for seed in range(12)]
    assert {slip.named for slip in slips} == set(options[1:])
    right = get("matching_image")(item, 0, pools)
    by_option = {slip.named: slip.image for slip in slips} | {"Lima": right.image}
    assert right.named is None and len({image.tobytes() for image in by_option.values()}) == 4
    for image in by_option.values():
        left, top, over, under = ink(image)
        assert image.size == (side, side) and top > 0 and under < side and 0 <= left < over <= side
        _, above, _, below = ink(image.crop((0, 0, side, side // 2 + side // 10)))
        assert below - above > 0.3 * side, "the letter can be read where the picture is shrunk"
    moved = replace(item, options=(*options[1:], "Lima"))
    letters = [get("matching_image")(one, 0, pools).image.crop((0, 0, side, side // 2)) for one in (item, moved)]
    assert letters[0].tobytes() != letters[1].tobytes(), "the letter is the option's place"


def test_matching_text_names_the_right_option_and_can_stand_alone() -> None:
    item = image_item(image=Image.new("RGB", (6, 6), "red"))
    assert get("matching_text")(item, 0, POOLS).context == "This picture seems to depict a cat."
    assert get("matching_text")(item, 0, POOLS).image is item.image
    alone = get("matching_text@picture=black")(item, 0, POOLS)
    assert alone.image.getextrema() == ((0, 0),) * 3 and alone.context == "This picture seems to depict a cat."


@pytest.mark.parametrize("question", ["why", "why " * 60, "why " * 1500, "秘鲁的首都是哪里" * 200])
def test_a_rendered_question_is_all_on_the_page_and_nowhere_else(question: str) -> None:
    item = Item("t1", "text_heavy", question, "Lima", ("Lima", "Quito"))
    asked, other = (get("rendered_question")(one, 0, POOLS) for one in (item, replace(item, options=("Lima", "Rome"))))
    assert [part["text"] for part in messages(asked)[0]["content"] if part["type"] == "text"] == [""]
    left, top, over, under = ink(asked.image)
    assert min(left, top) >= 20 and max(over, under) <= asked.image.width - 20, "nothing is cut off"
    assert ImageChops.difference(asked.image.convert("L"), other.image.convert("L")).getbbox()
    assert item_hash(asked) != item_hash(replace(asked, in_image=False))


def test_what_does_not_interfere_is_in_no_worst_case_or_mean() -> None:
    apart = {"asked_again", "text_only", "matching_text", "matching_image", "rendered_question", "given_matching"}
    assert {name for name, made in CONDITIONS.items() if made.role != "interferes"} == apart
    answers = {"clean": "AAA", "misleading_text": "ABA", "matching_text": "AAB"}
    records = [
        Record(f"i{item}", condition, 0, "A", letter, letter, None)
        for condition, letters in answers.items()
        for item, letter in enumerate(letters)
    ]
    found = per_item(Outcomes.of("t", "image_heavy", tuple(answers), records))
    assert found[Measure("worst_case")].values.tolist() == [1, 0, 1]
    assert found[Measure("flip_rate")].values.tolist() == [0, 1, 0]
    assert found[Measure("flip_rate", "matching_text")].values.tolist() == [0, 0, 1]


def test_ignoring_is_the_share_of_wrong_answers_that_the_right_text_does_not_mend() -> None:
    """Five items, by hand: right; mended; not mended, twice; and spoilt, which is no ignoring."""
    answers = {"clean": "ABCBA", "matching_text": "AACCB"}
    records = [
        Record(f"i{item}", condition, 0, "A", letter, letter, None)
        for condition, letters in answers.items()
        for item, letter in enumerate(letters)
    ]
    found = per_item(Outcomes.of("t", "image_heavy", tuple(answers), records))
    ignoring = found[Measure("ignoring", "matching_text")].values
    assert np.array_equal(ignoring, [np.nan, 0, 1, 1, np.nan], equal_nan=True)
    assert Measure("ignoring", "clean") not in found


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
