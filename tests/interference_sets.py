"""Made files with the columns and the layout of other people's interference sets, a few rows each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pillow

TEXT, NUMBER = Value("string"), Value("int64")
SCIENCE = {
    "image": Image(), "question": TEXT, "choices": List(TEXT), "answer": Value("int8"), "hint": TEXT, "task": TEXT,
    "lecture": TEXT, "solution": TEXT,
}  # fmt: skip
SPLITS = {
    "scam": "train", "words_or_vision": "VQAv2", "vlms_are_biased": "main", "naturalbench": "train",
    "scienceqa_whole": "test",
}  # fmt: skip
FEATURES: dict[str, dict[str, Any]] = {
    "scam": {
        "image": Image(), "type": TEXT, "object_label": TEXT, "attack_word": TEXT, "postit_area_pct": Value("float64"),
        "id": TEXT,
    },
    "words_or_vision": {
        "image": Image(), "question": TEXT, "answers": TEXT, "full_prompt": TEXT, "text_type": TEXT,
    },
    "vlms_are_biased": {
        "image": Image(), "ID": TEXT, "image_path": TEXT, "topic": TEXT, "sub_topic": TEXT, "prompt": TEXT,
        "ground_truth": TEXT, "expected_bias": TEXT, "with_title": Value("bool"), "type_of_question": TEXT,
        "pixel": NUMBER, "metadata": TEXT,
    },
    "naturalbench": {
        "Index": NUMBER, "Image_0": Image(), "Image_1": Image(), "Question_0": TEXT, "Image_0_Question_0": TEXT,
        "Image_1_Question_0": TEXT, "Question_1": TEXT, "Image_0_Question_1": TEXT, "Image_1_Question_1": TEXT,
        "Question_Type": TEXT, "Source": TEXT,
    },
    "scienceqa_whole": SCIENCE,
}  # fmt: skip


def picture(shade: int) -> Pillow.Image:
    return Pillow.new("RGB", (24, 24), (shade, 90, 160))


def scam() -> list[dict[str, Any]]:
    kinds = ("SCAM", "SynthSCAM", "NoSCAM")
    words = [("ball", "car"), ("chair", "zebra"), ("keyboard", "taxi")]
    return [
        {"image": picture(40 * place + number), "type": kind, "object_label": label, "attack_word": attack,
         "postit_area_pct": 0.4, "id": f"{kind}_img_{number:04}"}
        for place, kind in enumerate(kinds) for number, (label, attack) in enumerate(words, start=1)
    ]  # fmt: skip


def words_or_vision() -> list[dict[str, Any]]:
    said = {"corrupted": "The ball is blue.", "match": "The ball is red.", "irrelevant": "It rained in May."}
    return [
        {"image": picture(number), "question": "What colour is the ball?", "answers": "['red', 'dark red']",
         "full_prompt": f"Here is a text:\n{text}\n----------\nWhat colour is the ball? Answer in a word.",
         "text_type": kind}
        for kind, text in said.items() for number in (0, 1)
    ]  # fmt: skip


def vlms_are_biased() -> list[dict[str, Any]]:
    asked = "How many {} does this have? Answer with a number in curly brackets, e.g., {{9}}."
    rows = [("dog_5_px384", "legs", "5", "4"), ("dog_5_px768", "legs", "5", "4"), ("logo_4_384", "stripes", "4", "3")]
    return [
        {"image": picture(number), "ID": f"{name}", "image_path": f"images/{name}.png", "topic": "t", "sub_topic": "s",
         "prompt": asked.format(things), "ground_truth": right, "expected_bias": bias, "with_title": False,
         "type_of_question": "Q1", "pixel": 384, "metadata": "{}"}
        for number, (name, things, right, bias) in enumerate(rows)
    ]  # fmt: skip


def naturalbench() -> list[dict[str, Any]]:
    kinds = (("Yes", "No", "yes_no"), ("A", "B", "multiple_choice"))
    return [
        {"Index": number, "Image_0": picture(number), "Image_1": picture(99 + number), "Question_0": "Is it near?",
         "Image_0_Question_0": one, "Image_1_Question_0": two, "Question_1": "Is it far?", "Image_0_Question_1": two,
         "Image_1_Question_1": one, "Question_Type": kind, "Source": "Flickr30K"}
        for number, (one, two, kind) in enumerate(kinds)
    ]  # fmt: skip


def science(shade: int | None, hint: str, question: str = "Which is a mammal?") -> dict[str, Any]:
    image = None if shade is None else picture(shade)
    known = {"task": "closed choice", "lecture": "Mammals have fur.", "solution": f"{question} The cat."}
    return {"image": image, "question": question, "choices": ["eel", "cat"], "answer": 1, "hint": hint, **known}


def originals() -> list[dict[str, Any]]:
    """Three questions; the last two differ in hint and picture alone."""
    return [science(None, "", "Which one purrs?"), science(1, "Look well."), science(2, "Think.")]


def distracted() -> dict[str, list[dict[str, Any]]]:
    """A question of each kind; the second row of AC has no original."""
    return {
        "AC": [science(None, "A cow says moo.", "Which one purrs?"), science(3, "Moo.", "Which one barks?")],
        "AI": [science(77, "", "Which one purrs?")],
        "IC": [science(1, "Look well. A cow says moo.")],
        "II": [science(78, "Think.")],
    }


def save(rows: Sequence[Mapping[str, Any]], features: Mapping[str, Any], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(list(rows), features=Features(features)).to_parquet(str(file))


def write(root: Path, name: str, rows: Sequence[Mapping[str, Any]], without: str = "") -> Path:
    """Write rows as the hub's parquet of a set, perhaps without one column; return its folder."""
    features = {column: kind for column, kind in FEATURES[name].items() if column != without}
    kept = [{column: row[column] for column in features} for row in rows]
    save(kept, features, root / name / "data" / f"{SPLITS[name]}-00000-of-00001.parquet")
    return root / name


def write_distract_bench(root: Path, rows: Sequence[Mapping[str, Any]] | None = None) -> Path:
    """Write questions.jsonl with its pictures, one question without options among them."""
    folder = root / "distract_bench" / "data"
    (folder / "images").mkdir(parents=True)
    for number in (1, 2, 3):
        picture(number).save(folder / "images" / f"{number}.png")
    asked = [("How long?\n<image1>", ["1", "2.5", "3"], "B"), ("Which one?", ["A", "B"], "A"), ("What?", [], "5")]
    made = [
        {"final_id": str(number), "image": f"images/{number}.png", "question": question, "options": options,
         "answer": answer, "level": 2}
        for number, (question, options, answer) in enumerate(asked, start=1)
    ]  # fmt: skip
    lines = (json.dumps(row) + "\n" for row in (made if rows is None else rows))
    (folder / "questions.jsonl").write_text("".join(lines), encoding="utf-8")
    return root / "distract_bench"


def write_all(root: Path) -> Path:
    """Write every set below `root`, which is meant as MMI_DATA_ROOT."""
    rows = {"scam": scam, "words_or_vision": words_or_vision, "vlms_are_biased": vlms_are_biased}
    for name, made in {**rows, "naturalbench": naturalbench, "scienceqa_whole": originals}.items():
        write(root, name, made())
    for kind, made in distracted().items():
        save(made, SCIENCE, root / "d_sqa" / f"D-SQA-{kind}" / "test-00000-of-00001.parquet")
    write_distract_bench(root)
    return root
