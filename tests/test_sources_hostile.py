"""Other people's files: read in full, or refused in one line that names file and row; never read as something else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset
from PIL import Image
from pyarrow import parquet

from mmi_plugin.errors import BadRows, InputError
from mmi_plugin.item import item_hash
from mmi_plugin.sources import load, pool_images
from mmi_plugin.sources.facts import FactsFile
from mmi_plugin.sources.llava_instruct import readers
from mmi_plugin.sources.shards import MANIFEST, write_shard
from tests.training_rows import read_built, read_records

BREAKS = "one\u2028two\u2029three\x85four\x0bfive\x0csix\x1cseven"  # line breaks to str.splitlines


@pytest.fixture(autouse=True)
def forget() -> None:
    load.cache_clear()


def row(number: int = 1, question: str = "Which?", **more: Any) -> bytes:
    record = {"id": f"r{number}", "type": "text_heavy", "question": question, "options": ["x", "y"], "answer": "x"}
    return json.dumps(record | more, ensure_ascii=False).encode()


def spoilt(number: int, old: bytes, new: bytes) -> bytes:
    """A row in which some bytes are replaced by others."""
    line = row(number)
    assert old in line
    return line.replace(old, new)


BAD_LINES: dict[str, tuple[bytes, str]] = {
    "byte": (spoilt(2, b"Which?", b"Wh\xffch?"), "field 'question'|utf-8"),
    "too deep": (spoilt(2, b'"Which?"', b"[" * 200_000 + b"]" * 200_000), "not JSON: nested too deeply"),
    "deep": (spoilt(2, b'"Which?"', b"[" * 500 + b"]" * 500), "'question' is list"),
    "long integer": (spoilt(2, b'"r2"', b"1" * 5000), "not JSON: .*digits"),
    "surrogate": (spoilt(2, b"Which?", b"Wh\\ud800ch?"), "field 'question' .*lone surrogate"),
    "surrogate in an option": (spoilt(2, b'"y"', b'"\\udfff"'), "field 'options' .*lone surrogate"),
    "surrogate in the id": (spoilt(2, b'"r2"', b'"\\udfff"'), "field 'id' .*lone surrogate"),
    "surrogate in a fact": (row(2, facts={"y": "z@"}).replace(b"@", b"\\ud800"), "field 'facts' .*lone surrogate"),
    "surrogate in the image": (row(2, image="@").replace(b"@", b"\\ud800"), "field 'image'"),
    "NUL in the image": (row(2, image="a\x00b.png"), "field 'image'"),
    "image a pipe": (row(2, image="pipe.png"), "field 'image' 'pipe.png' .*regular file"),
    "image a device": (row(2, image="/dev/zero"), "field 'image' '/dev/zero' .*regular file"),
    "carriage return": (spoilt(2, b"Which?", b"Wh\rch?"), "not JSON: Invalid control character"),
    "half a row": (row(2)[:40], "not JSON"),
    "two records": (row(2) + row(9), "not JSON: Extra data"),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_line_of_a_training_file_spoils_itself_alone(case: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    line, said = BAD_LINES[case]
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"\n".join([row(1), line, b"", row(3, BREAKS)]))
    with pytest.raises(InputError, match=rf"^{file}, row 2: .*({said})") as error:
        read_records(file)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    bad = BadRows(skip=True)
    found = read_records(file, bad=bad)
    assert [(where, item.id) for where, item in found] == [(f"{file}, row 1", "r1"), (f"{file}, row 4", "r3")]
    assert found[1][1].question == BREAKS and len(bad.lines) == 1
    assert len({item_hash(item) for _, item in found}) == 2


LIST_STOPS = {"half a row", "two records"}


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_element_of_a_training_list_is_named_with_its_row(case: str, tmp_path: Path) -> None:
    """Where no JSON is there, nothing says where the next element begins, and none after it is made up."""
    os.mkfifo(tmp_path / "pipe.png")
    line, said = BAD_LINES[case]
    file = tmp_path / "rows.json"
    file.write_bytes(b"[" + b",\n".join([row(1), line, row(3, BREAKS)]) + b"]")
    said = "no ','" if case == "two records" else "not JSON: .*next row" if case in LIST_STOPS else said
    with pytest.raises(InputError, match=rf"^{file}, row 2: .*({said})"):
        read_records(file)
    if case not in LIST_STOPS:
        bad = BadRows(skip=True)
        assert [item.id for _, item in read_records(file, bad=bad)] == ["r1", "r3"] and len(bad.lines) == 1


MANY = 200_000
HALF = [b'{"a": "b', b'{"a": "b\n', b'{"a": [1', b"[" * MANY + b"]" * (MANY - 1), b"[" * MANY + b"}" * MANY, b"{1: 2"]


@pytest.mark.parametrize("half", HALF, ids=["text", "line", "list", "deep", "mixed", "key"])
@pytest.mark.parametrize("count", [1, 2])
def test_what_is_half_there_swallows_no_row(half: bytes, count: int, tmp_path: Path) -> None:
    """Two halves may look like one whole with the rows between them inside."""
    (tmp_path / "rows.json").write_bytes(b"[" + b",\n".join([row(1), *[half, row(2)] * count]) + b"]")
    bad = BadRows(skip=True)
    with pytest.raises(InputError, match=r"rows\.json(, row 2: not JSON|: not JSON: ends after row)"):
        read_records(tmp_path / "rows.json", bad=bad)


def test_rows_that_cannot_be_read_may_be_longer_than_a_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmi_plugin import files

    deep = row(2).replace(b'"Which?"', b'["]", {"\\"}": ' + b"[" * 200_000 + b"]" * 200_000 + b"}]")
    spoilt = [deep, row(3).replace(b"Which?", b"Wh\n?" * 999), row(4).replace(b'"x"', b"1" * 5000)]
    (tmp_path / "rows.json").write_bytes(b"[" + b",".join([row(1), *spoilt, row(5)]) + b"]")
    for piece in (7, 1000, 1 << 20):
        monkeypatch.setattr(files, "CHUNK", piece)
        bad = BadRows(skip=True)
        assert [where[-1] for where, _ in read_records(tmp_path / "rows.json", bad=bad)] == ["1", "5"]
        assert [line.split(": not JSON: ")[0][-5:] for line in bad.lines] == ["row 2", "row 3", "row 4"]


@pytest.mark.parametrize("name", ["rows.jsonl", "ROWS.JSONL", "rows.json", "ROWS.JSON", "a[1]*?/rows.jsonl"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_names_marks_and_ends_of_lines_do_not_matter(name: str, mark: bytes, end: bytes, tmp_path: Path) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    rows = [row(1), row(2, BREAKS, facts=None, history=None, image=None)]
    lines = end.join([*rows, b""]) if name.lower().endswith("jsonl") else b"[" + (b"," + end).join(rows) + b"]"
    file.write_bytes(mark + lines)
    assert [item.question for _, item in read_records(file)] == ["Which?", BREAKS]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b"\n\n", None, b"{}", b"[] x", b"[,]", b"[1 2]", b"[{}"])
def test_a_file_without_rows_is_refused(name: str, content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / name
    if content is None:
        os.mkfifo(file)
    else:
        file.write_bytes(content)
    with pytest.raises(InputError, match=rf"^{file}(:|, row 1:) "):
        read_records(file)


def test_a_long_list_is_read_across_its_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmi_plugin import files

    content = [{"a": "é" * size, "n": [size, -1.5e3, None, True]} for size in range(40)] + [12345, 'x\\"]']
    (tmp_path / "x.json").write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
    for piece in (1, 2, 3, 7, 1000):
        monkeypatch.setattr(files, "CHUNK", piece)
        assert list(files.json_list(tmp_path / "x.json")) == content


def published(folder: Path, *records: bytes | dict[str, Any]) -> Path:
    encoded = [record if isinstance(record, bytes) else json.dumps(record).encode() for record in records]
    file = folder / "data.json"
    file.write_bytes(b"\xef\xbb\xbf[" + b",".join(encoded) + b"]")
    return file


GOOD = {"id": 1, "question": "What?", "multiple_choices": ["a", "b"], "multiple_choices_answer": "a"}


@pytest.mark.parametrize(
    ("choices", "answer", "expected"),
    [
        (["B", "A", "C"], "B", "B"),
        (["B", "A", "C"], "A", "A"),
        (["C", "B", "A"], "C", "C"),
        (["dog", "cat"], "B", "cat"),
        (["dog", "cat"], "dog", "dog"),
        ({"A": "dog", "B": "cat"}, "B", "cat"),
        ({"B": "cat", "A": "dog"}, "dog", "dog"),
        ({"A": "A", "B": "B"}, "B", "B"),
        ({"A": "B", "B": "A"}, "B", None),
        (["dog", "cat"], "C", None),
        (["dog", "cat"], 1, None),
        (["dog", "cat"], ["dog"], None),
        ([1, 2], "1", None),
        (["dog", "cat"], True, None),
    ],
)
def test_the_answer_of_a_published_record_is_never_another_option(
    choices: Any, answer: Any, expected: str | None, tmp_path: Path
) -> None:
    file = published(tmp_path, {**GOOD, "multiple_choices": choices, "multiple_choices_answer": answer})
    if expected is None:
        with pytest.raises(InputError, match=rf"^mmlu: {file}, row 1: field '(multiple_choices|answer)"):
            load("mmlu", "test", path=str(file))
    else:
        (item,) = load("mmlu", "test", path=str(file)).items
        assert item.answer == expected and item.options[ord(item.gold) - ord("A")] == expected
        assert item.options == tuple(choices.values() if isinstance(choices, dict) else choices) or choices != [
            *choices
        ]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b'"What?"', b'"Wh\xfft?"', "field 'question' .*lone surrogate"),
        (b'"What?"', b'"Wh\\ud800t?"', "field 'question' .*lone surrogate"),
        (b'"b"]', b'"\\ud800"]', "field 'options' .*lone surrogate"),
        (b'"What?"', b"[" * 200_000, "not JSON: nested too deeply"),
        (b'"What?"', b'["What?"]', "field 'question' is list, not text"),
        (b'"id": 1', b'"id": ' + b"[" * 500 + b"]" * 500, "field 'id' is list"),
        (b'"id": 1', b'"id": ' + b"1" * 5000, "not JSON: .*digits"),
        (b'"id": 1', b'"image": {"a": 1}, "id": 1', "field 'image' is dict"),
    ],
)
@pytest.mark.parametrize("source", ["mmlu", "food101"])
def test_a_bad_record_of_a_published_file_is_named(
    old: bytes, new: bytes, said: str, source: str, tmp_path: Path
) -> None:
    line = json.dumps({**GOOD, "id": 1}).encode()
    file = published(tmp_path, {**GOOD, "id": 7, "image": "x"}, line.replace(old, new))
    with pytest.raises(InputError, match=rf"^{source}: {file}, row 2: {said}"):
        load(source, "test", path=str(file))


def test_letters_that_are_options_are_never_read_as_places(tmp_path: Path) -> None:
    """In training files with the options in the question, and in facts."""
    question = "Which letter?\nA: B\nB: A\nC: C"
    file = tmp_path / "rows.jsonl"
    file.write_bytes(row(1, question, options=None, answer="B"))
    with pytest.raises(InputError, match=r"row 1: field 'answer' is 'B', .*'A' by its letter .*'B' by its text"):
        read_records(file)
    file.write_bytes(row(1, question, options=None, answer="C") + b"\n" + row(2, question, options=None, answer="A: B"))
    assert [item.answer for _, item in read_records(file)] == ["C", "B"]
    file.write_bytes(row(1, options=["B", "A"], answer="B", facts={"a": "It is first."}))
    assert read_records(file)[0][1].facts == {"A": "It is first."}


def science(question: str | None = "What?", **more: Any) -> dict[str, Any]:
    return {"image": "a.png", "question": question, "choices": ["x", "y"], "answer": 0, "hint": "h"} | more


def science_file(folder: Path, *lines: bytes | dict[str, Any], name: str = "test.jsonl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 2)).save(folder / "a.png")
    encoded = [line if isinstance(line, bytes) else json.dumps(line, ensure_ascii=False).encode() for line in lines]
    (folder / name).write_bytes(b"\n".join(encoded))
    return folder / name


def test_a_table_may_have_a_column_that_is_null_throughout(tmp_path: Path) -> None:
    file = science_file(tmp_path, science(hint=None), science(BREAKS, hint=None))
    assert [item.question for item in load("scienceqa", "test", path=str(file)).items] == ["What?", BREAKS]
    for column in ("question", "choices", "answer"):
        science_file(tmp_path, science(**{column: None}))
        load.cache_clear()
        with pytest.raises(InputError, match=rf"^scienceqa: {file}, row 1: field '{column}' is (null|None)"):
            load("scienceqa", "test", path=str(file))
    science_file(tmp_path, science(image=None))
    load.cache_clear()
    with pytest.raises(InputError, match=rf"^scienceqa: {file}, row 1: field 'image' does not decode: there is no im"):
        _ = load("scienceqa", "test", path=str(file)).items[0].image
    rows = [{"index": None, "image": None, "question": "q", "hint": None, "answer": "A"} | dict.fromkeys("ABCD", "x")]
    Dataset.from_list(rows).to_parquet(tmp_path / "dev.parquet")
    with pytest.raises(InputError, match=r"^mmbench: .*dev\.parquet, row 1: field 'index' is null"):
        load("mmbench", "test", path=str(tmp_path / "dev.parquet"))
    Dataset.from_list([{"image": None, "label": None}]).to_parquet(tmp_path / "validation.parquet")
    with pytest.raises(InputError, match=r"^food101: .*validation\.parquet, row 1: field 'label' is None"):
        load("food101", "test", path=str(tmp_path / "validation.parquet"))


def test_a_column_may_begin_with_many_nulls(tmp_path: Path) -> None:
    """Ten megabytes are read at once, and each must not have types of its own."""
    many = [science("x" * 4000, hint=None)] * 3000
    file = science_file(tmp_path, *many, science(hint="at last"))
    assert load("scienceqa", "test", path=str(file)).items[-1].question == "at last\nWhat?"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (json.dumps(science()).encode().replace(b"What?", b"Wh\xfft?"), "not JSON: 'utf-8'"),
        (json.dumps(science()).encode().replace(b"What?", b"Wh\\ud800t?"), "a text has a lone surrogate"),
        (json.dumps(science()).encode().replace(b'"What?"', b"[" * 200_000), "not JSON: nested too deeply"),
        (json.dumps(science()).encode().replace(b": 0", b": " + b"1" * 5000), "not JSON: .*digits"),
        (json.dumps(science()).encode().replace(b": 0", b": " + b"1" * 30), "an integer of more than 64 bits"),
        (json.dumps(science()).encode()[:20], "not JSON"),
        (b"[1]", "is list, not a record"),
    ],
)
def test_a_bad_line_of_a_table_is_named(line: bytes, said: str, tmp_path: Path) -> None:
    file = science_file(tmp_path, science(), line, science())
    with pytest.raises(InputError, match=rf"^scienceqa: {file}, row 2: {said}") as error:
        load("scienceqa", "test", path=str(file))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["test.jsonl", "test.JSONL", "test.parquet"])
@pytest.mark.parametrize("folder", ["a[1]", "b*?", "c{d,e}", "[!f]"])
def test_a_table_may_stand_in_a_folder_of_any_name(name: str, folder: str, tmp_path: Path) -> None:
    place = tmp_path / folder
    file = science_file(place, science(), name=name)
    if name.endswith("parquet"):
        Dataset.from_list([science()]).to_parquet(file)
    for path in {file, file if name.endswith("JSONL") else place}:
        load.cache_clear()
        (item,) = load("scienceqa", "test", path=str(path)).items
        assert item.image.size == (2, 2)


@pytest.mark.parametrize("name", ["test.jsonl", "test.parquet", "test.json", "multiple_choice_data_test.json"])
@pytest.mark.parametrize("kind", ["empty", "mark", "pipe", "device"])
def test_a_table_without_content_is_refused(name: str, kind: str, tmp_path: Path) -> None:
    file = tmp_path / name
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "device":
        file.symlink_to("/dev/zero")
    else:
        file.write_bytes(b"" if kind == "empty" else b"\xef\xbb\xbf")
    for path in (file, tmp_path):
        load.cache_clear()
        with pytest.raises(InputError, match=rf"^scienceqa: {tmp_path}") as error:
            load("scienceqa", "test", path=str(path))
        assert "\n" not in str(error.value)


def test_labels_that_repeat_lose_no_option(tmp_path: Path) -> None:
    rows = [{"id": "1", "question": "q", "choices": {"text": ["x", "y"], "label": ["A", "A"]}, "answerKey": "A"}]
    Dataset.from_list(rows).to_parquet(tmp_path / "test.parquet")
    with pytest.raises(InputError, match=r"^arc_challenge: .*row 1: field 'choices' is "):
        load("arc_challenge", "test", path=str(tmp_path / "test.parquet"))


def picture_paths(folder: Path) -> dict[str, Callable[[str], Any]]:
    """How a picture's path gets into an item, by each reader of files."""

    def record(path: str) -> Any:
        (folder / "r.jsonl").write_bytes(row(1, type="image_heavy", image=path))
        return read_records(folder / "r.jsonl")[0][1]

    def evaluation(path: str) -> Any:
        return load("food101", "test", path=str(published(folder, {**GOOD, "image": path}))).items[0]

    def table(path: str) -> Any:
        return load("scienceqa", "test", path=str(science_file(folder, science(image=path)))).items[0]

    def cell(path: str) -> Any:
        encoded = science(image={"bytes": None, "path": str(folder / path)})
        schema = Dataset.from_list([science()]).cast_column("image", datasets.Image()).features.arrow_schema
        parquet.write_table(pa.Table.from_pylist([encoded], schema), folder / "test.parquet")
        return load("scienceqa", "test", path=str(folder / "test.parquet")).items[0]

    def talk(path: str) -> Any:
        turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
        (folder / "t.json").write_text(json.dumps([{"image": path, "conversations": turns}]))
        return next(readers(str(folder / "t.json")))()

    return {"record": record, "evaluation": evaluation, "table": table, "cell": cell, "talk": talk}


@pytest.mark.parametrize("reader", ["record", "evaluation", "table", "cell", "talk"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "postscript"])
def test_no_reader_of_pictures_opens_what_is_no_picture_file(reader: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    said = "cannot identify" if kind == "postscript" else "not a regular file"
    with pytest.raises(InputError, match=rf"row 1: field 'image'.* does not decode: {said}"):
        item_hash(picture_paths(tmp_path)[reader]("x.png"))


def test_a_pool_holds_pictures_alone(tmp_path: Path) -> None:
    for name in ("a.png", "b.JPG"):
        Image.new("RGB", (2, 2)).save(tmp_path / name)
    (tmp_path / "c.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    os.mkfifo(tmp_path / "d.png")
    (tmp_path / "e.png").symlink_to("/dev/zero")
    assert [picture.open().size for picture in pool_images(str(tmp_path))] == [(2, 2)] * 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"id": "b", "facts": {"y": "\xff"}}', "not JSON"),
        (b'{"id": "b", "facts": {"y": "\\ud800"}}', "field 'facts' .*lone surrogate"),
        (b'{"id": "\\ud800", "facts": {}}', "field 'id'"),
        (b'{"id": "b", "facts": ' + b"[" * 200_000, "not JSON: nested too deeply"),
        (b'{"id": "b", "facts": {"y": ' + b"1" * 5000 + b"}}", "not JSON"),
    ],
)
def test_a_bad_line_of_a_facts_file_is_named(line: bytes, said: str, tmp_path: Path) -> None:
    file = tmp_path / "facts.jsonl"
    good = json.dumps({"id": "a", "facts": {"y": BREAKS}}, ensure_ascii=False).encode()
    file.write_bytes(b"\xef\xbb\xbf" + good + b"\n\n")
    assert FactsFile(file).facts == {"a": {"y": BREAKS}}
    file.write_bytes(b"\xef\xbb\xbf" + good + b"\n" + line + b"\n" + good)
    with pytest.raises(InputError, match=rf"^{file}, row 2: {said}"):
        FactsFile(file)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(InputError, match=rf"^{file}: cannot be read: not a regular file"):
        FactsFile(file)


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ("{", "manifest.json: not JSON"),
        ("[]", "manifest.json: "),
        ('{"parts": {"a": {}}}', "manifest.json: "),
        ('{"parts": {"a": {"shards": [{"file": 3, "rows": 1}]}}}', "manifest.json: "),
        ('{"parts": {}}', ": holds no rows"),
    ],
)
def test_a_built_set_with_a_broken_manifest_is_named(manifest: str, said: str, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(manifest)
    with pytest.raises(InputError, match=rf"^{tmp_path}.*{said}"):
        read_built(tmp_path)


def test_a_built_set_may_stand_in_a_folder_of_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "a[1]*"
    folder.mkdir()
    (tmp_path / "r.jsonl").write_bytes(row(1))
    items = [item for _, item in read_records(tmp_path / "r.jsonl")]
    write_shard(items, folder / "0.parquet")
    (folder / MANIFEST).write_text(json.dumps({"parts": {"p": {"shards": [{"file": "0.parquet", "rows": 1}]}}}))
    assert [item_hash(item) for _, item in read_built(folder)] == [item_hash(item) for item in items]
    (folder / "0.parquet").unlink()
    Dataset.from_list([{"id": "a"}]).to_parquet(folder / "0.parquet")
    with pytest.raises(InputError, match=r"0\.parquet: (has 1 rows|column 'type')"):
        read_built(folder)
    (folder / "0.parquet").unlink()
    os.mkfifo(folder / "0.parquet")
    with pytest.raises(InputError, match=r"0\.parquet: cannot be read: not a regular file"):
        read_built(folder)


def not_utf8(*texts: bytes) -> pa.Array:
    """A column of texts, whatever their bytes: Parquet does not look at them."""
    ends = np.cumsum([0, *map(len, texts)], dtype=np.int32)
    return pa.StringArray.from_buffers(len(texts), pa.py_buffer(ends.tobytes()), pa.py_buffer(b"".join(texts)))


def test_a_text_of_a_table_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    options = pa.array([{"text": ["x", "y"], "label": ["A", "B"]}] * 3)
    columns = {"id": pa.array(["1", "2", "3"]), "choices": options, "answerKey": pa.array(["A"] * 3)}
    parquet.write_table(pa.table(columns | {"question": not_utf8(b"a", b"b\xff", b"c")}), tmp_path / "test.parquet")
    with pytest.raises(InputError, match=r"^arc_challenge: .*test\.parquet, row 2: a text is not UTF-8"):
        load("arc_challenge", "test", path=str(tmp_path / "test.parquet"))
    columns = {"image": pa.array([None] * 3, pa.string()), "label": not_utf8(b"a", b"b\xff", b"c")}
    parquet.write_table(pa.table(columns), tmp_path / "validation.parquet")
    with pytest.raises(InputError, match=r"^food101.* row 2: a text is not UTF-8"):
        load("food101", "test", path=str(tmp_path / "validation.parquet"))
