"""Training data as researchers have it: conversations, the published file, draws per epoch."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from PIL import Image
from transformers import AutoProcessor, LlavaProcessor

from mmi_plugin import pictures
from mmi_plugin.conditions import Pools, for_family
from mmi_plugin.errors import InputError
from mmi_plugin.item import Item, image_hash
from mmi_plugin.pictures import Picture
from mmi_plugin.trainers import run
from mmi_plugin.trainers.checks import RowCheck
from mmi_plugin.trainers.collator import GroupCollator
from mmi_plugin.trainers.groups import Group
from mmi_plugin.trainers.method import IGNORED
from tests import training
from tests.training_rows import read_records

TEXT_HEAVY = for_family("text_heavy", seen_only=True)


@pytest.fixture(scope="module")
def processor(tiny_llava: Path) -> LlavaProcessor:
    return AutoProcessor.from_pretrained(tiny_llava)


@pytest.mark.parametrize("with_image", [True, False])
@pytest.mark.parametrize("ends", [True, False], ids=["template-writes-end", "template-writes-none"])
def test_every_answer_of_a_conversation_is_learned(processor: LlavaProcessor, with_image: bool, ends: bool) -> None:
    template, end = processor.chat_template, processor.tokenizer.eos_token
    try:
        if not ends:
            processor.chat_template = template.replace("</s>", " ").replace("eos_token", "' '")
        image = Image.new("RGB", (20, 20), (9, 99, 9)) if with_image else None
        turns = (("What is it?", "three dogs"), ("How many?", "three"), ("Why?", "the picture shows three dogs"))
        item = Item("a", "vqa", *turns[2], image=image, history=turns[:2])
        other = Item("b", "vqa", "Which?", "seven", image=image)
        batch = GroupCollator(processor, None, seed=0)([Group("a/0", (item,)), Group("b/0", (other,))])
    finally:
        processor.chat_template = template
    labels, ids = batch["labels"][0], batch["input_ids"][0]
    kept = labels != IGNORED
    ended = [f"{answer}{end if ends else ''}" for _, answer in turns[:-1]] + [f"{turns[-1][1]}{end}"]
    assert processor.tokenizer.decode(labels[kept]).replace(" ", "") == "".join(ended).replace(" ", "")
    assert (kept[1:] & ~kept[:-1]).sum() == 3  # three separate stretches, each after its own question
    text = processor.tokenizer.decode(ids[batch["attention_mask"][0].bool()])
    picture = "<image>" * 4 + "\n" if with_image else ""
    said = [
        f"USER: {{}}Question:\n{question}\nASSISTANT:\n{answer}"
        for (question, _), answer in zip(turns, ended, strict=True)
    ]
    assert "".join(text.split()) == "".join("".join(said).format(picture, "", "").split())
    assert processor.tokenizer.decode(batch["labels"][1][batch["labels"][1] != IGNORED]) == f"seven{end}"
    assert not batch["irrelevant"].any()


PUBLISHED = [
    {
        "id": 0,
        "type": "image_heavy",
        "image": "data/1.png",
        "question": "Question:\nWhat is shown?\nOption:\nA: tabby cat\nB: dog\nC: kit fox\n",
        "answer": "B",
        "facts": {"kit fox": "Kit foxes have large ears.", "tabby cat": "Cats purr."},
    },
    {
        "id": 1,
        "type": "text_heavy",
        "question": "Question:\nWhich one\nburns?\nOption:\nA: a stone\nB: dry\nwood\nC: Ice\n",
        "answer": "B: dry wood",
        "facts": {},
    },
    {"id": 2, "type": "text_heavy", "question": "Which?\n(A) one\n(B) two\nAnswer now.", "answer": "Two"},
    {"id": 3, "type": "VQA", "image": "data/1.png", "question": "<image>\nWhat is it?", "answer": "A green square."},
    {"id": 4, "type": "VQA", "image": "data/1.png", "question": "Choose.\nA. x\nB. y\n<image>", "answer": "A"},
]


def write_published(folder: Path) -> Path:
    (folder / "data").mkdir()
    Image.new("RGB", (20, 20), (9, 99, 9)).save(folder / "data" / "1.png")
    path = folder / "train.json"
    path.write_text(json.dumps(PUBLISHED))
    return path


def test_the_published_rows_are_read(tmp_path: Path) -> None:
    path = write_published(tmp_path)
    items = [item for _, item in read_records(path)]
    assert [(item.id, item.family) for item in items] == [
        ("0", "image_heavy"),
        ("1", "text_heavy"),
        ("2", "text_heavy"),
        ("3", "vqa"),
        ("4", "vqa"),
    ]
    fox, wood, two, square, choice = items
    assert isinstance(fox.picture, Picture)  # not decoded by reading
    assert (fox.question, fox.options, fox.answer) == ("What is shown?", ("tabby cat", "dog", "kit fox"), "dog")
    assert fox.facts == PUBLISHED[0]["facts"]
    assert (wood.question, wood.options) == ("Which one\nburns?", ("a stone", "dry wood", "Ice"))
    assert (wood.answer, wood.gold) == ("dry wood", "B")
    assert (two.question, two.answer) == ("Which?\nAnswer now.", "two")
    assert (square.question, square.options, square.answer) == ("What is it?", (), "A green square.")
    assert (choice.question, choice.options, choice.answer) == ("Choose.\nA. x\nB. y", (), "A")
    away = tmp_path / "elsewhere.json"
    away.write_text(path.read_text().replace("data/1.png", "1.png"))
    assert next(item for _, item in read_records(away, tmp_path / "data")).image.size == (20, 20)


def test_the_published_file_trains_as_it_is(tiny_llava: Path, tmp_path: Path) -> None:
    fields = {"sources": None, "train_file": str(write_published(tmp_path)), "max_steps": 3, **training.OURS}
    trained = run.train(training.config(tiny_llava, tmp_path / "out", **fields))
    assert trained.state.global_step == 3
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert record["data"]["items"] == {"train.json:image_heavy": 1, "train.json:text_heavy": 2, "train.json:vqa": 2}


def test_a_published_file_that_repeats_ids_and_options_trains_and_counts_them(tiny_llava: Path, tmp_path: Path) -> None:
    path = write_published(tmp_path)
    twice = {**PUBLISHED[2], "id": 0, "question": "Which?\n(A) one\n(B) two\n(C) two", "answer": "C"}
    path.write_text(json.dumps([*PUBLISHED, twice, PUBLISHED[3]]))
    fields = {"sources": None, "train_file": str(path), "max_steps": 2, **training.OURS}
    trained = run.train(training.config(tiny_llava, tmp_path / "out", **fields))
    assert trained.state.global_step == 2
    data = json.loads((tmp_path / "out" / "training.json").read_text())["data"]
    assert (data["repeated ids"], data["repeated options"], data["skipped"]) == (2, 1, 0)
    assert sum(data["items"].values()) == len(PUBLISHED) + 2


def test_draws_are_a_function_of_item_round_and_seed(tiny_llava: Path, tmp_path: Path) -> None:
    def drawn(seed: int) -> list[list[tuple]]:
        """Every row of three rounds."""
        args = training.config(tiny_llava, tmp_path, data_seed=seed, mix=[1, 1, 0], per_device_train_batch_size=2)
        groups = training.groups_of(args)
        places = [groups.families.index("image_heavy"), groups.families.index("text_heavy")]
        return [[groups[place, turn].rows for place in places] for turn in range(3)]

    first, again, other = drawn(1), drawn(1), drawn(2)
    assert repr(first) == repr(again) != repr(other)
    contexts = [{rows[0][i].context for rows in (*first, *other)} for i in (1, 2)]
    assert len(contexts[0]) == 6 and len(contexts[1]) > 1  # unrelated sentences, misleading option
    photos = [{image_hash(rows[1][i].image) for rows in (*first, *other)} for i in range(4)]
    assert [len(hashes) > 1 for hashes in photos] == [
        name in ("random_pixels", "irrelevant_image") for name in TEXT_HEAVY
    ]


@pytest.mark.parametrize("number", range(len(PUBLISHED)))
def test_a_row_may_have_max_length_tokens_and_not_one_more(
    processor: LlavaProcessor, tiny_llava: Path, tmp_path: Path, number: int
) -> None:
    """Whatever shortcut the check takes, its limit is the length that the collator makes."""
    item = read_records(write_published(tmp_path))[number][1]
    args = training.config(tiny_llava, tmp_path, sources=["demo_arith"], mix=[0, 0, 1], per_device_train_batch_size=1)
    draw = partial(training.groups_of(args).draw, pools=Pools.default())
    longest = GroupCollator(processor, None, args.data_seed)([draw(item, turn=0)])["input_ids"].shape[1]
    args.max_length = longest
    RowCheck(args, processor).check_draws(item, draw, range(1), "here")
    args.max_length = longest - 1
    with pytest.raises(
        InputError, match=rf"here: field '(question|answer)': .* {longest} tokens, max_length is {longest - 1}"
    ):
        RowCheck(args, processor).check_draws(item, draw, range(1), "here")


def test_a_picture_is_decoded_once_for_all_draws(
    processor: LlavaProcessor, tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = read_records(write_published(tmp_path))[0][1]
    args = training.config(tiny_llava, tmp_path, sources=["demo_arith"], mix=[0, 0, 1], per_device_train_batch_size=1)
    draw = partial(training.groups_of(args).draw, pools=Pools.default())
    opened = []
    monkeypatch.setattr(pictures, "_shown", lambda image, shown=pictures._shown: opened.append(image) or shown(image))
    check = RowCheck(args, processor)
    check.check_item(item, "here")
    for check._most in (1000, 10_000, 300, None):
        check.check_draws(item, draw, range(9), "here")
    assert len(opened) == 1
