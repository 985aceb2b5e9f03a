"""Other people's interference sets in, items with the versions that they came with out: by name, as the public ones."""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from mmi_plugin.answers import LONGEST
from mmi_plugin.errors import InputError, nearest
from mmi_plugin.item import Given, Item, image_hash, stream
from mmi_plugin.sources.local import local_copy
from mmi_plugin.sources.public import SPLITS
from mmi_plugin.sources.published import say_rows
from mmi_plugin.sources.records import option_of
from mmi_plugin.sources.registry import LICENCES, SOURCES, Benchmark, load, source
from mmi_plugin.sources.table import Row, Table, grouped

Pairs = Iterator[tuple[Row, Item]]
UNNAMED = "no licence known"  # none on the page of the data, as far as we could see it

ATTACKS = {"SCAM": "handwritten", "SynthSCAM": "synthetic"}
CLEAN_SCAM = "NoSCAM"


@grouped(
    "image_heavy", "BLISS-e-V/SCAM", splits={"test": "train"}, licence="CC BY-NC 4.0",
    columns={"image": "image", "type": "text", "object_label": "text", "attack_word": "text", "id": "text"},
)  # fmt: skip
def scam(rows: Iterable[Row]) -> Pairs:
    """SCAM: objects beside a note with another word, the same without it, and with it put on by a computer.

    The three pictures of an object have one number in their ids, which alone decides the order of the two options.
    """
    triples: dict[str, dict[str, Row]] = {}
    for row in rows:
        kind, name = row.text("type"), row.text("id")
        if kind not in (CLEAN_SCAM, *ATTACKS):
            raise InputError(f"{row.where}: field 'type' is {kind!r}: {nearest(kind, (CLEAN_SCAM, *ATTACKS))}")
        if not name.startswith(f"{kind}_"):
            raise InputError(f"{row.where}: field 'id' is {name!r}, which does not begin with {kind + '_'!r}")
        if kind in (triple := triples.setdefault(name.removeprefix(f"{kind}_"), {})):
            raise InputError(f"{row.where}: field 'id' is {name!r}, as in row {triple[kind].number + 1}")
        triple[kind] = row
    odd = []
    for key, triple in triples.items():
        row = next(iter(triple.values()))
        words = {(one.text("object_label"), one.text("attack_word")) for one in triple.values()}
        if len(triple) < 1 + len(ATTACKS) or len(words) > 1:
            odd.append(row.number + 1)
            continue
        yield triple[CLEAN_SCAM], _attacked(key, triple)
    say_rows("scam", odd, "pictures have no counterparts with the same words and are left out")


def _attacked(key: str, triple: dict[str, Row]) -> Item:
    """Return the item of the three pictures of one object."""
    clean = triple[CLEAN_SCAM]
    label, attack = clean.text("object_label"), clean.text("attack_word")
    options = [label, attack]
    stream("options", clean.item_id(key)).shuffle(options)
    given = {ATTACKS[kind]: Given(triple[kind].pictures["image"], named=attack) for kind in ATTACKS}
    return clean.item("Which object is shown in the picture?", options, label, key, given=given)


TEXTS = {"corrupted": "corrupted", "irrelevant": "irrelevant", "match": "matching"}
TEXT_ENDS = "\n----------\n"


@grouped(
    "image_heavy", "dal-289/word_or_vision", splits={"test": "VQAv2", "VQAv2": "VQAv2", "DocVQA": "DocVQA"},
    licence=UNNAMED, metric="exact_match",
    columns={"image": "image", "question": "text", "answers": "answers", "full_prompt": "text", "text_type": "text"},
)  # fmt: skip
def words_or_vision(rows: Iterable[Row]) -> Pairs:
    """Words or Vision: free-form questions on pictures, each beside a text that matches, misleads or does not matter.

    The text is what stands before the line of dashes in `full_prompt`, and the clean item what stands behind it.
    """
    questions: dict[tuple[str, str], dict[str, Row]] = {}
    again = []
    for row in rows:
        kind = row.text("text_type")
        if kind not in TEXTS:
            raise InputError(f"{row.where}: field 'text_type' is {kind!r}: {nearest(kind, TEXTS)}")
        versions = questions.setdefault((row.text("question"), row.pictures["image"].digest()), {})
        again += [row.number + 1] if kind in versions else []
        versions.setdefault(kind, row)
    lacking = [min(row.number for row in one.values()) + 1 for one in questions.values() if len(one) < len(TEXTS)]
    for versions in questions.values():
        if len(versions) == len(TEXTS):
            yield versions["match"], _worded(versions)
    say_rows("words_or_vision", again, "rows repeat a question with the same picture and kind of text and are left out")
    say_rows("words_or_vision", lacking, "questions lack one of the three texts and are left out")


def _worded(versions: dict[str, Row]) -> Item:
    """Return the item of a question with its three texts."""
    parts = {kind: _parted(row) for kind, row in versions.items()}
    row = versions["match"]
    answers = _answers(row, "answers")
    given = {TEXTS[kind]: Given(question=question, context=text) for kind, (text, question) in parts.items()}
    return row.item(parts["match"][1], (), answers[0], answers=answers, given=given)


def _parted(row: Row) -> tuple[str, str]:
    """Return the text and the question of a prompt."""
    text, dashes, question = row.text("full_prompt").partition(TEXT_ENDS)
    if not dashes or not question.strip():
        raise InputError(
            f"{row.where}: field 'full_prompt' has no line of ten dashes between its text and its question"
        )
    return text.strip(), question.strip()


def _answers(row: Row, column: str) -> tuple[str, ...]:
    """Return all answers that count: of a list, of its text ("['a', 'b']"), or the one."""
    value = row.values[column]
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            value = [str(one) for one in ast.literal_eval(value.strip())]
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            value = [value]
    found = tuple(str(one).strip() for one in (value if isinstance(value, list) else [row.text(column)]))
    if not found or not all(0 < len(one) <= LONGEST for one in found):
        raise InputError(
            f"{row.where}: field {column!r} is empty, or has an answer of more than {LONGEST:,} characters"
        )
    return found


BIASED = ("main", "identification", "withtitle", "original", "remove_background_q1q2", "remove_background_q3")
RESOLUTION = re.compile(r"_(?:px)?\d+(?=\.\w+$)")  # at the end of a picture's name


@grouped(
    "vqa", "anvo25/vlms-are-biased", splits={"test": "main", **{name: name for name in BIASED}}, licence="MIT",
    metric="exact_match",
    columns={"image": "image", "image_path": "text", "prompt": "text", "ground_truth": "text", "expected_bias": "text"},
)  # fmt: skip
def vlms_are_biased(rows: Iterable[Row]) -> Pairs:
    """VLMs are Biased: well-known things that were changed, and the answer that they would have unchanged.

    Free-form. The pictures of one thing at several resolutions are a cluster.
    """
    for row in rows:
        answer = row.text("ground_truth")
        bias = None if row.absent("expected_bias") or row.text("expected_bias") == answer else row.text("expected_bias")
        picture = RESOLUTION.sub("", row.text("image_path"))
        yield row, row.item(row.text("prompt"), (), answer, answers=(answer,), named=bias, cluster=picture)


CHOICES = {"yes_no": ("Yes", "No"), "multiple_choice": ("A", "B")}


@grouped(
    "vqa", "BaiqiL/NaturalBench", splits={"test": "train"}, licence="Apache 2.0",
    columns={"Index": "key", "Image_0": "image", "Image_1": "image", "Question_Type": "text"}
    | dict.fromkeys(["Question_0", "Question_1"], "text")
    | {f"Image_{image}_Question_{question}": "text" for question in (0, 1) for image in (0, 1)},
)  # fmt: skip
def naturalbench(rows: Iterable[Row]) -> Pairs:
    """NaturalBench: two questions on two pictures, whose answers differ from picture to picture: four items a group.

    Its questions with choices name them in their text; the options here are their letters.
    """
    for row in rows:
        kind, key = row.text("Question_Type"), row.text("Index")
        if kind not in CHOICES:
            raise InputError(f"{row.where}: field 'Question_Type' is {kind!r}: {nearest(kind, CHOICES)}")
        for question in (0, 1):
            for image in (0, 1):
                column = f"Image_{image}_Question_{question}"
                if (answer := row.text(column)) not in CHOICES[kind]:
                    raise InputError(f"{row.where}: field {column!r} is {answer!r}, not {' or '.join(CHOICES[kind])}")
                asked = row.text(f"Question_{question}")
                name, picture = f"{key}-q{question}-i{image}", row.pictures[f"Image_{image}"]
                yield row, row.item(asked, CHOICES[kind], answer, name, image=picture, group=key)


@grouped(
    "vqa", "EthanSun/Distract-Bench", splits={"test": "questions"}, licence="MIT",
    columns={"final_id": "key", "image": "image", "question": "text", "options": "texts", "answer": "text"},
)  # fmt: skip
def distract_bench(rows: Iterable[Row]) -> Pairs:
    """Distract-Bench: mathematical questions on pictures into which a distraction was drawn; those with options.

    The pictures without it are not in the data set, so that there is nothing to compare with. A local copy alone: its
    questions are a file beside the hub's table.
    """
    free = []
    for row in rows:
        if not row.values["options"]:
            free.append(row.number + 1)
            continue
        options = row.texts("options")
        question = re.sub(r"<image\d*>", "", row.text("question"))
        answer = option_of(row.text("answer"), options, row.where)
        yield row, row.item(question, options, answer, row.text("final_id"))
    say_rows("distract_bench", free, "questions have no options and are left out")


SCIENCE = {
    "image": "image or none", "question": "text", "choices": "texts", "answer": "index", "hint": "text",
    "lecture": "text", "solution": "text",
}  # fmt: skip
KINDS = ("AC", "AI", "IC", "II")  # a context or an image, added or inserted


@grouped("vqa", "derek-thomas/ScienceQA", splits=SPLITS, licence="CC BY-SA 4.0", columns=SCIENCE)
def scienceqa_whole(rows: Iterable[Row]) -> Pairs:
    """ScienceQA with the questions that have no image: what D-SQA is a distracted version of."""
    for row in rows:
        options = row.texts("choices")
        answer = row.at("answer", options)
        known = (row.text("question"), *options, answer, str(row.values["lecture"]), str(row.values["solution"]))
        same = hashlib.sha256("\x1f".join(known).encode()).hexdigest()[:16]
        yield row, row.item(row.hinted("question", "hint"), options, answer, cluster=same)


@source
def d_sqa(split: str, *, path: str | None = None, kind: str | None = None, originals: str | None = None) -> Benchmark:
    """D-SQA: questions of ScienceQA with a distracting hint or picture, each beside its original.

    kind: of one configuration alone: AC, IC (a context that is added, or inserted into the hint), AI, II (the same of
    images). originals: a local copy of ScienceQA, in place of $MMI_DATA_ROOT/scienceqa_whole and of the hub. Raises
    InputError as `Table` does; a question that has no one original is named and left out.
    """
    if kind is not None and kind not in KINDS:
        raise InputError(f"d_sqa: key 'kind' is {kind!r}: {nearest(kind, KINDS)}")
    if split != "test":
        raise InputError(f"d_sqa: unknown split {split!r}: {nearest(split, ['test'])}")
    place = local_copy("d_sqa", path)
    lacking = [one for one in KINDS if place and not any((place / at / f"D-SQA-{one}").is_dir() for at in ("", "data"))]
    if lacking and kind is None:
        raise InputError(f"d_sqa: {place} holds no folder 'D-SQA-{lacking[0]}': key 'kind' asks one kind alone")
    known: dict[str, list[Item]] = {}
    for item in load("scienceqa_whole", split, path=originals).items:
        known.setdefault(str(item.cluster), []).append(item)
    found, odd = [], []
    for one in KINDS if kind is None else (kind,):
        table = Table("d_sqa", "vqa", "pkulium/D-SQA", f"D-SQA-{one}", {"test": "test"}, SCIENCE, items_of=_science)
        for number, distracted in enumerate(table(split, path=path).items, start=1):
            fits = _originals(distracted, known.get(str(distracted.cluster), []))
            odd += [] if len(fits) == 1 else [number]
            found += [_distracted(one, distracted, original) for original in fits if len(fits) == 1]
    say_rows("d_sqa", odd, "questions have no one original in ScienceQA and are left out")
    if not found:
        raise InputError("d_sqa: no question has its original in scienceqa_whole")
    return Benchmark("d_sqa", "vqa", tuple(found))


LICENCES["d_sqa"] = f"pkulium/D-SQA, {UNNAMED}"
_science = SOURCES["scienceqa_whole"].items_of


def _originals(distracted: Item, known: Sequence[Item]) -> list[Item]:
    """Return the questions that a distracted one can come from: of several those whose text or image it still has."""
    if len(known) < 2:
        return list(known)
    own = image_hash(distracted.picture)
    return [one for one in known if (one.question == distracted.question) != (image_hash(one.picture) == own)]


def _distracted(kind: str, item: Item, original: Item) -> Item:
    """Return the original under a name of its own, with its distracted version."""
    name = f"d_sqa-{kind}-{item.id.removeprefix('d_sqa-')}"
    version = Given(item.picture, item.question)
    return replace(original, id=name, image=original.picture, given={"distraction": version})
