"""Malformed training files and sources through both command lines: status 2 and one line that names the file."""

from __future__ import annotations

import gzip
import json
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from mmi_plugin.harness.launcher import main as lmms_eval
from mmi_plugin.sources import load
from mmi_plugin.sources.local import ROOT
from mmi_plugin.trainers.run import main as train
from tests import test_trainers_bad_input
from tests.harness_runs import OUR_MODEL, SCRIPT, arguments, process
from tests.launches import TRAIN

pytestmark = pytest.mark.long
Make = bytes | Callable[[Path], Any]
"""The content of a file, or what makes what stands in its place."""


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("rows.json", "[]")


def table(**columns: list[Any]) -> Callable[[Path], None]:
    return lambda path: parquet.write_table(pa.table(columns), path)


def deep(opened: str = "[", closed: str = "]") -> bytes:
    return (opened * 100_000 + closed * 100_000).encode()


ANYTHING: dict[str, Make] = {
    "empty": b"",
    "mark": b"\xef\xbb\xbf",
    "blank": b" \n\t\r\n",
    "null": b"null",
    "number": b"1",
    "text": b'"x"',
    "prose": b"These are my rows.",
    "half a word": b"[nul",
    "half a row": b'[{"id": "a", "quest',
    "NUL": bytes(4096),
    "binary": bytes(range(256)) * 9,
    "UTF-16": '[{"id": "a"}]'.encode("utf-16"),
    "UTF-32": '[{"id": "a"}]'.encode("utf-32"),
    "Latin-1": '[{"id": "ä"}'.encode("latin-1"),
    "gzip": gzip.compress(b'[{"id": "a"}]'),
    "zip": zipped,
    "parquet": table(id=["a"]),
    "picture": lambda path: Image.new("RGB", (9, 9)).save(path, "PNG"),
    "pickle": b"\x80\x04cos\nsystem\n(S'touch owned'\ntR.",
    "YAML": b"- id: a\n  question: What?\n",
    "CSV": b"id,question,answer\na,What?,x\n",
    "single quotes": b"[{'id': 'a'}]",
    "comment": b'// rows\n[{"id": "a"}]',
    "deep list": deep(),
    "deep record": deep('{"a": ', "}"),
    "deep without end": b"[" * 100_000,
    "long number": b"[" + b"9" * 5000,
    "no rows": b"[]",
    "a record": b"{}",
    "rows in a record": b'{"rows": [{"id": "a"}]}',
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "memory": lambda path: path.symlink_to("/proc/self/mem"),
    "nowhere": lambda path: path.symlink_to("gone"),
    "itself": lambda path: path.symlink_to(path),
    "missing": lambda path: None,
}
LISTS: dict[str, Make] = {
    "comma alone": b"[,]",
    "no comma": b"[{} {}]",
    "no end": b"[{}",
    "more after it": b"[{}] x",
    "two lists": b"[{}][{}]",
    "end alone": b"]",
    "NaN": b"[NaN]",
    "numbers": b"[1, 2]",
    "lists": b"[[]]",
    "texts": b'["x"]',
    "lines": b'{"id": "a"}\n{"id": "b"}\n',
}
LINES: dict[str, Make] = {
    "list": b'[{"id": "a"}]',
    "over lines": b'{\n"id": "a"\n}',
    "commas": b'{"id": "a"},\n{"id": "b"}',
    "carriage returns": b'{"id": "a"}\r{"id": "b"}\r',
    "records in a line": b'{"id": "a"} {"id": "b"}',
    "folder": Path.mkdir,
}
FILES = {f"{name}.json": make for name, make in (ANYTHING | LISTS).items()}
FILES |= {f"{name}.jsonl": make for name, make in LINES.items()}


def put(path: Path, make: Make) -> None:
    if isinstance(make, bytes):
        path.write_bytes(make)
    else:
        make(path)


def the_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Return what is said of an error: one line, with nothing in it that moves a terminal's cursor."""
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in said and len(lines[0]) < 1000
    assert lines[0].isprintable()
    return lines[0]


def training(data: Path, out: Path) -> list[str]:
    fixed = "--mix 0 1 0 --max_steps 1 --per_device_train_batch_size 1 --report_to none --use_cpu true"
    return ["--model_name_or_path", "none", "--train_file", str(data), "--output_dir", str(out), *fixed.split()]


@pytest.mark.parametrize("name", FILES)
def test_a_malformed_training_file(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"rows{Path(name).suffix}"
    put(path, FILES[name])
    assert train(training(path, tmp_path / "out")) == 2
    assert str(path) in the_line(capsys)
    assert not (tmp_path / "owned").exists()


def test_rows_and_files_are_as_many_as_the_campaign_asks_for() -> None:
    """Each of the bad rows is tried in a list and in lines."""
    assert len(FILES) + len(test_trainers_bad_input.BAD_ROWS) >= 100


GOOD = {"question": "What?", "subject": "s", "choices": ["a", "b", "c", "d"], "answer": 0}
PUBLISHED = {"id": 1, "question": "What?", "multiple_choices": ["a", "b"], "multiple_choices_answer": "a"}
ROWS: dict[str, dict[str, Any]] = {
    "question null": {"question": None},
    "question a number": {"question": 3},
    "question empty": {"question": " "},
    "choices a text": {"choices": "abcd"},
    "choices numbers": {"choices": [1, 2, 3, 4]},
    "choices null": {"choices": None},
    "choices with null": {"choices": ["a", None, "c", "d"]},
    "choices with an empty one": {"choices": ["a", "", "c", "d"]},
    "choices none": {"choices": []},
    "choices too many": {"choices": list(map(str, range(27)))},
    "answer beyond": {"answer": 4},
    "answer negative": {"answer": -1},
    "answer null": {"answer": None},
    "answer a fraction": {"answer": 0.5},
    "answer huge": {"answer": 10**30},
    "surrogate": {"question": "\ud800"},
}
RECORDS: dict[str, dict[str, Any]] = {
    "id missing": {"id": None},
    "id a list": {"id": [1]},
    "question missing": {"question": None},
    "question a list": {"question": ["What?"]},
    "question empty": {"question": ""},
    "options a number": {"multiple_choices": 4},
    "options one": {"multiple_choices": ["a"]},
    "options numbers": {"multiple_choices": [1, 2]},
    "answer missing": {"multiple_choices_answer": None},
    "answer a number": {"multiple_choices_answer": 1},
    "answer beyond": {"multiple_choices_answer": "C"},
    "answer two options": {"multiple_choices": {"A": "B", "B": "A"}, "multiple_choices_answer": "B"},
    "facts a list": {"facts": ["x"]},
    "image a record": {"image": {"a": 1}},
    "surrogate": {"question": "\udfff"},
}
SOURCES: dict[str, tuple[str, Make, str]] = {}
"""Name -> the file of a copy of MMLU, what it is, what the line says besides its path."""
for key, make in ANYTHING.items():
    if key != "missing":
        SOURCES[f"{key}, published"] = ("multiple_choice_data_test.json", make, "")
for key, make in {
    **LINES,
    "deep list": deep(),
    "prose": b"prose",
    "NUL": bytes(99),
    "empty": b"",
    "pipe": os.mkfifo,
}.items():
    SOURCES[f"{key}, lines"] = ("test.jsonl", make, "")
for key, change in ROWS.items():
    content = "\n".join(map(json.dumps, [GOOD, GOOD | change, GOOD])).encode()
    SOURCES[f"{key}, a row"] = ("test.jsonl", content, "row 2: |row 1: |cannot be read|column ")
for key, change in RECORDS.items():
    content = json.dumps([PUBLISHED, PUBLISHED | {"id": 2} | change]).encode()
    SOURCES[f"{key}, a record"] = ("multiple_choice_data_test.json", content, "row 2: ")
for key, make in {
    "no parquet": b"PAR1 but not really PAR1",
    "half a parquet": lambda path: (table(id=["a"] * 999)(path), path.write_bytes(path.read_bytes()[:300])),
    "other columns": table(id=["a"]),
    "numbers for texts": table(question=[1], choices=[["a", "b", "c", "d"]], answer=[0]),
    "texts for lists": table(question=["q"], choices=["abcd"], answer=[0]),
    "no row": table(
        question=pa.array([], pa.string()), choices=pa.array([], pa.list_(pa.string())), answer=pa.array([], pa.int64())
    ),
    "null": table(question=pa.array([None], pa.string()), choices=[["a", "b", "c", "d"]], answer=[0]),
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
}.items():
    SOURCES[f"{key}, parquet"] = ("test-00000-of-00001.parquet", make, "")


@pytest.mark.parametrize("name", SOURCES)
def test_a_malformed_source(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """None is read before the model is loaded: there is no model."""
    place = tmp_path / "mmlu"
    place.mkdir()
    file, make, said = SOURCES[name]
    put(place / file, make)
    monkeypatch.setenv(ROOT, str(tmp_path))
    load.cache_clear()
    assert lmms_eval([*OUR_MODEL, *arguments(tmp_path / "none", "mmi_mmlu", tmp_path / "out", limit=None)]) == 2
    line = the_line(capsys)
    assert str(place) in line and any(part in line for part in said.split("|")), line
    load.cache_clear()


def test_sources_are_as_many_as_the_campaign_asks_for() -> None:
    assert len(SOURCES) >= 80


@pytest.mark.parametrize("name", ["half a row.json", "deep record.json", "pipe.json", "over lines.jsonl"])
def test_the_scripts_end_with_the_same_status(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{Path(name).suffix}"
    put(path, FILES[name])
    done = process([sys.executable, str(TRAIN), *training(path, tmp_path / "out")])
    assert done.returncode == 2 and str(path) in done.stderr.splitlines()[-1]
    place = tmp_path / "mmlu"
    place.mkdir()
    put(place / "multiple_choice_data_test.json", FILES[name])
    command = [SCRIPT, *OUR_MODEL, *arguments(tmp_path / "none", "mmi_mmlu", tmp_path / "out", limit=None)]
    done = process(["env", f"{ROOT}={tmp_path}", *command])
    assert done.returncode == 2 and str(place) in done.stderr.splitlines()[-1]
