"""The public data sets, from the hub or from local copies: the suite's nine benchmarks, and TextCaps for training."""

from __future__ import annotations

from mmi_plugin.item import Item
from mmi_plugin.sources.classification import classes, readable
from mmi_plugin.sources.table import Row, table

SPLITS = {name: name for name in ("train", "validation", "test")}
LABELLED = {"id": "key", "choices": "choices", "answerKey": "text"}
CALTECH_WORDS = {
    "airplanes": "airplane",
    "car_side": "car",
    "cellphone": "cell phone",
    "faces": "face",
    "faces_easy": "face",  # the same photographs, cropped
    "leopards": "leopard",
    "motorbikes": "motorbike",
    "water_lilly": "water lily",
    "yin_yang": "yin and yang symbol",
}


@classes("timm/mini-imagenet", "What is shown in the picture?", splits=SPLITS)
def mini_imagenet(name: str) -> str:
    """Mini-ImageNet: 100 classes, whole photographs; 50 test images per class, named by WordNet ids."""
    return readable(name)


@classes("flwrlabs/caltech101", "What is shown in the picture?", splits={"train": "train", "test": "train"}, cut=True)
def caltech101(name: str) -> str:
    """Caltech-101: 101 kinds of objects. The hub has one split, which we cut: a fifth is for testing."""
    return CALTECH_WORDS.get(name, readable(name))


@classes("ethz/food101", "What food is shown in the picture?", splits={"train": "train", "test": "validation"})
def food101(name: str) -> str:
    """Food-101: 101 dishes, unseen by the published training; the hub's validation split is its test set."""
    return readable(name)


@table("text_heavy", "allenai/openbookqa", "main", splits=SPLITS, columns={"question_stem": "text", **LABELLED})
def openbookqa(row: Row) -> Item:
    """OpenBookQA: elementary science facts."""
    return _lettered(row, "question_stem")


@table(
    "text_heavy", "cais/mmlu", "all", splits={**SPLITS, "train": "auxiliary_train"},
    columns={"question": "text", "subject": "text", "choices": "texts", "answer": "index"},
)  # fmt: skip
def mmlu(row: Row) -> Item:
    """MMLU: 57 subjects. Its training split is the hub's auxiliary_train."""
    options = row.texts("choices")
    return row.item(row.text("question"), options, row.at("answer", options))


@table("text_heavy", "allenai/ai2_arc", "ARC-Challenge", splits=SPLITS, columns={"question": "text", **LABELLED})
def arc_challenge(row: Row) -> Item:
    """ARC-Challenge: grade-school science, unseen by the published training; some have labels 1 to 5."""
    return _lettered(row, "question")


def _lettered(row: Row, question: str) -> Item:
    """Return the item of a row whose answer is the label of one of its choices. question: the column of its text."""
    options = row.choices("choices")
    answer = row.lettered("answerKey", options)
    return row.item(row.text(question), options.values(), answer, key=row.text("id"))


@table(
    "vqa", "lmms-lab-encoder/ScienceQA", "ScienceQA-IMG", splits=SPLITS,
    columns={"image": "image", "question": "text", "choices": "texts", "answer": "index", "hint": "text"},
)  # fmt: skip
def scienceqa(row: Row) -> Item:
    """ScienceQA, the questions with an image, each after its hint."""
    options = row.texts("choices")
    answer = row.at("answer", options)
    return row.item(row.hinted("question", "hint"), options, answer)


@table(
    "vqa", "lmms-lab-encoder/MMBench", "en", splits={"test": "dev"},  # the labels of its test split are hidden
    columns={"index": "index", "image": "image", "question": "text", "hint": "text"}
    | dict.fromkeys([*"ABCD", "answer"], "text"),
)  # fmt: skip
def mmbench(row: Row) -> Item | None:
    """MMBench-EN, each question after its hint; options that are not there read "nan".

    The hub's table holds every question up to four times, its options rotated, under index + k * 10^6
    (CircularEval). Those copies are no further items, and are left out.
    """
    key = row.text("index")
    if int(key) >= 1_000_000:
        return None
    options = {letter: row.text(letter) for letter in "ABCD" if not row.absent(letter)}
    answer = row.lettered("answer", options)
    return row.item(row.hinted("question", "hint"), options.values(), answer, key=key)


@table(
    "vqa", "lmms-lab-encoder/SEED-Bench", splits={"test": "test"},
    columns={"question_id": "key", "data_type": "text", "image": "images", "question": "text"}
    | dict.fromkeys(["choice_a", "choice_b", "choice_c", "choice_d", "answer"], "text"),
)  # fmt: skip
def seedbench(row: Row) -> Item | None:
    """SEED-Bench, the questions about one image; those about videos are no part of it."""
    if row.text("data_type") != "image":
        return None
    options = {letter: row.text(f"choice_{letter.lower()}") for letter in "ABCD"}
    answer = row.lettered("answer", options)
    return row.item(row.text("question"), options.values(), answer, key=row.text("question_id"))


@table(
    "vqa", "lmms-lab/TextCaps", splits={"train": "train", "validation": "val"},
    columns={"image": "image", "caption_str": "texts"},
)  # fmt: skip
def textcaps(row: Row) -> Item:
    """TextCaps: photographs with text in them, each with the first of its captions; free-form, for training alone."""
    question = "Describe the picture in one sentence, with the text that can be read in it."
    return row.item(question, (), row.texts("caption_str")[0])
