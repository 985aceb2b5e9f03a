import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmi_plugin.answers import mentions
from mmi_plugin.conditions import CONDITIONS, REFERENCE, Pools, for_family, get
from mmi_plugin.errors import InputError
from mmi_plugin.items import FAMILIES, Item, item_hash
from mmi_plugin.sources import load

POOLS = Pools(images=(Image.new("RGB", (8, 8), (9, 8, 7)), Image.new("L", (5, 4), 3)), canvas=16)
TEXT = ("unrelated_text", "misleading_text", "ocr_text")
IMAGE = ("random_pixels", "black", "white", "irrelevant_image", "screenshot")
words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30).filter(
    str.strip
)


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


@given(st.lists(words, min_size=2, max_size=6, unique=True), words, st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_text_conditions_change_only_the_context(options: list[str], question: str, seed: int) -> None:
    item = image_item(tuple(options), facts={o: f"Here is {o}." for o in options})
    item = replace(item, answer=options[0], question=question)
    for name in TEXT:
        changed = get(name)(item, seed, POOLS)
        assert item_hash(replace(changed, context="", named=None)) == item_hash(item)
        assert changed.image is item.image
        assert changed == get(name)(item, seed, POOLS)


@given(words, st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_image_conditions_change_only_the_image(question: str, seed: int) -> None:
    item = Item("t1", "text_heavy", question, "a b", ("a b", "c"))
    for name in IMAGE:
        changed = get(name)(item, seed, POOLS)
        assert changed.image is not None
        assert replace(changed, image=None) == item
        assert item_hash(changed) == item_hash(get(name)(item, seed, POOLS))


@given(st.lists(words, min_size=2, max_size=5, unique=True), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_added_text_never_asserts_the_right_answer(options: list[str], seed: int) -> None:
    item = replace(image_item(tuple(options), facts={o: f"{o} {options[0]}" for o in options}), answer=options[0])
    for name in ("unrelated_text", "ocr_text"):
        assert not any(mentions(get(name)(item, seed, POOLS).context, option) for option in options)
    misled = get("misleading_text")(item, seed, POOLS)
    assert misled.named in item.wrong_options
    if not any(mentions(option, options[0]) for option in item.wrong_options):
        # The caption's own words aside, nothing that names the answer is left.
        assert not mentions(misled.context.replace("This picture seems to depict", ""), options[0]) or mentions(
            f"a {misled.named}", options[0]
        )


def test_misleading_text_says_what_the_item_knows_of_the_wrong_option() -> None:
    contexts = {get("misleading_text")(image_item(), seed, POOLS).context for seed in range(20)}
    # The fact on "eel" names the answer and is left out.
    assert contexts == {"This picture seems to depict a dog. A dog barks.", "This picture seems to depict an eel."}


def test_unrelated_text_brings_ten_sentences() -> None:
    context = get("unrelated_text")(image_item(), 0, POOLS).context
    assert sum(fact in context for fact in POOLS.facts) == 10


def test_canvases() -> None:
    item = Item("t1", "text_heavy", "q", "a", ("a", "c"))
    assert get("black")(item, 0, POOLS).image.getextrema() == ((0, 0),) * 3
    assert get("white")(item, 0, POOLS).image.getextrema() == ((255, 255),) * 3
    noise = get("random_pixels")(item, 0, POOLS).image
    assert noise.size == (16, 16)
    assert len(set(noise.convert("RGB").tobytes())) > 100
    assert get("irrelevant_image")(item, 0, POOLS).image in POOLS.images


def test_same_in_another_process_with_another_hash_seed() -> None:
    script = (
        "from mmi_plugin.sources import load; from mmi_plugin.conditions import get; "
        "from mmi_plugin.items import item_hash\n"
        "for name in ('demo_digits', 'demo_capitals'):\n"
        "    b = load(name)\n"
        "    print(*[item_hash(get(c)(b.items[7], 3, b.pools)) for c in b.conditions])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    here = []
    for name in ("demo_digits", "demo_capitals"):
        bench = load(name)
        here.append(" ".join(item_hash(get(c)(bench.items[7], 3, bench.pools)) for c in bench.conditions))
    assert outputs == {"\n".join(here) + "\n"}


def test_seed_item_and_condition_each_matter() -> None:
    a, b = image_item(), replace(image_item(), id="i2")
    unrelated = get("unrelated_text")
    assert len({unrelated(a, 0, POOLS).context, unrelated(a, 1, POOLS).context, unrelated(b, 0, POOLS).context}) == 3


def test_errors_name_the_nearest() -> None:
    with pytest.raises(InputError, match="unknown condition 'misleading_txt': did you mean 'misleading_text'"):
        get("misleading_txt")
    with pytest.raises(InputError, match="condition 'black' is for text_heavy, item i1 is image_heavy"):
        get("black")(image_item(), 0, POOLS)
    assert all(name == condition.name for name, condition in CONDITIONS.items())
