"""What is checked before training is checked once: kept as long as nothing changes, by one process for all."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image
from transformers import AutoProcessor, ProcessorMixin

from mmi_plugin.conditions import Pools, get
from mmi_plugin.conditions.pools import folder_photos
from mmi_plugin.errors import BadRows, InputError
from mmi_plugin.files import json_hash
from mmi_plugin.item import Item, item_hash
from mmi_plugin.pictures import Picture
from mmi_plugin.sources import Benchmark, stored
from mmi_plugin.sources.shards import MANIFEST as BUILT
from mmi_plugin.sources.shards import write_shard
from mmi_plugin.trainers import once, run
from mmi_plugin.trainers.checks import RowCheck
from mmi_plugin.trainers.config import MMIConfig
from mmi_plugin.trainers.data import SETTINGS, check_rows, data_hash, load_benchmarks
from tests import launches, training
from tests.test_trainers_checks import short_idat
from tests.training_rows import read_built, read_records

RANK = Path(__file__).with_name("start_rank.py")
LONG = {"type": "VQA", "question": "Which?", "answer": "dogs and " * 2000}
WRONG: list[Any] = [{"id": "x", "type": "text_heavy"}, []]
WRONG += [{"id": "y", "type": "VQA", "question": "?", "answer": "a", "image": name} for name in ("gone.png", ".")]
WRONG += [{**LONG, "id": "z"}, {"id": "half", "type": "VQA", "question": "?", "answer": "a", "image": "half.png"}]


@pytest.fixture(scope="module")
def processor(tiny_llava: Path) -> ProcessorMixin:
    return AutoProcessor.from_pretrained(tiny_llava)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A training file with nothing kept of it."""
    monkeypatch.setenv("MMI_CACHE", str(tmp_path / "cache"))
    return launches.write_data(tmp_path)


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was looked at: parts of the file, images, rows."""
    seen: list[str] = []

    def noting(kind: type, name: str, what: str) -> None:
        theirs = getattr(kind, name)
        monkeypatch.setattr(kind, name, lambda self, *given: seen.append(what) or theirs(self, *given))

    noting(stored.Part, "__init__", "part")
    noting(Picture, "_measured", "image")
    noting(RowCheck, "check_item", "row")
    return seen


def config(data: Path, **fields: Any) -> MMIConfig:
    fields = {**launches.FIELDS, **launches.ALONE, "sources": None, "train_file": str(data), **fields}
    return training.config(Path("none"), data.parent / "out", **fields)


def started(args: MMIConfig, processor: ProcessorMixin, skip: bool = True) -> tuple[list[Benchmark], list[str]]:
    bad = BadRows(skip)
    return check_rows(args, load_benchmarks(args, bad), processor, bad), bad.lines


def spoil(data: Path) -> Path:
    """Add rows of every kind of fault."""
    image = data.parent / "half.png"
    Image.effect_noise((64, 64), 50).convert("RGB").save(image)
    image.write_bytes(short_idat(image.read_bytes()))
    rows = json.loads(data.read_text())
    data.write_text(json.dumps([*rows[:3], *WRONG, *rows[3:]]))
    return data


# --- the same as without


def fields_of(item: Item) -> dict[str, Any]:
    return {**vars(item), "facts": dict(item.facts), "image": item.picture and item.picture.digest()}


def test_items_that_are_kept_are_those_that_are_read(data: Path, processor: ProcessorMixin, looked: list[str]) -> None:
    bad = BadRows(skip=True)
    plain = dict((item.id, (where, item)) for where, item in read_records(spoil(data), bad=bad))
    first, lines = started(config(data), processor)
    assert looked.count("part") == 1 and "image" in looked and "row" in looked
    del looked[:]
    second, again = started(config(data), processor)
    assert looked == [] and lines == again
    assert lines[: len(bad.lines)] == bad.lines and len(lines) == len(bad.lines) + 2 == len(WRONG)
    assert "max_length" in lines[-2] and "half.png" in lines[-1]
    for benchmarks in (first, second):
        assert [bench.family for bench in benchmarks] == ["image_heavy", "text_heavy", "vqa"]
        for bench in benchmarks:
            wanted = [one for one in plain.values() if one[1].family == bench.family and one[1].id not in ("z", "half")]
            assert [fields_of(item) for item in bench.items] == [fields_of(item) for _, item in wanted]
            assert [bench.items.place(number) for number in range(len(bench.items))] == [where for where, _ in wanted]
            assert list(bench.hashes) == [item_hash(item) for _, item in wanted]
            for item in bench.items:
                assert item.picture is None or item.picture.size == item.image.size
    assert "image" not in looked


def test_the_hash_of_the_data_is_what_it_was_before_rows_were_kept(data: Path, processor: ProcessorMixin) -> None:
    """So that checkpoints of earlier versions go on."""
    args = config(data)
    digests = []
    for family in ("image_heavy", "text_heavy", "vqa"):
        hashes = [item_hash(item) for _, item in read_records(data) if item.family == family]
        versions = [f"{name}@{get(name).version}" for name in args.conditions_of(family)]
        parts = [f"data.json:{family}", *hashes, Pools.default().digest(), *versions, str(args.data_seed)]
        digests.append(hashlib.sha256("\x1f".join(parts).encode()).hexdigest())
    wanted = hashlib.sha256("\n".join(digests).encode()).hexdigest()
    for _ in range(2):
        assert data_hash(args, started(args, processor)[0]) == wanted


def test_a_built_folder_is_kept_too(data: Path, processor: ProcessorMixin, looked: list[str], tmp_path: Path) -> None:
    items = [item for _, item in read_records(data)]
    folder = tmp_path / "built"
    folder.mkdir()
    files = [{"file": f"{n}.parquet", "rows": write_shard(items[n::2], folder / f"{n}.parquet")} for n in range(2)]
    (folder / BUILT).write_text(json.dumps({"parts": {"p": {"shards": files}}}))
    plain = read_built(folder)
    for _ in range(2):
        (one, *others), lines = started(config(folder), processor)
        wanted = [(where, item) for where, item in plain if item.family == "image_heavy"]
        assert [fields_of(item) for item in one.items] == [fields_of(item) for _, item in wanted]
        assert [one.items.place(number) for number in range(len(one.items))] == [where for where, _ in wanted]
        assert len(others) == 2 and lines == []
    assert looked.count("part") == 1
    stamp = (folder / "1.parquet").stat()
    os.utime(folder / "1.parquet", ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
    started(config(folder), processor)
    assert looked.count("part") == 2


def test_many_rows_in_processes_are_as_in_one(data: Path, processor: ProcessorMixin, tmp_path: Path) -> None:
    good = json.loads(data.read_text())
    rows = [{**good[n % len(good)], "id": f"r{n}"} for n in range(2500)]
    for place in (700, 1300, 2100):
        rows[place] = {**LONG, "id": f"r{place}"}
        rows[place + 1] = {"id": "r0", "type": "VQA", "question": "?", "answer": ""}
        rows[place + 2] = {**good[0], "id": "r0"}
    data.write_text(json.dumps(rows))
    (one, lines), (two, others) = (
        started(config(data, dataset_num_proc=number), processor) for number in (1, 2) if _forget(tmp_path)
    )
    assert lines == others and [line.split(":")[0].split("row ")[1] for line in lines] == [
        *("702", "1302", "2102", "701", "1301", "2101")
    ]
    assert [list(bench.hashes) for bench in one] == [list(bench.hashes) for bench in two]
    assert {f"r0#{number}" for number in (2, 3, 4)} <= {item.id for bench in one for item in bench.items}
    for number in (1, 2):
        _forget(tmp_path)
        with pytest.raises(InputError) as error:
            started(config(data, dataset_num_proc=number), processor, skip=False)
        assert str(error.value) == lines[0]


LISTED = "Which?\nA: cat\nB: dog\nC: dog"
ODD: list[dict[str, Any]] = [{"id": "i1", "type": "VQA", "question": "What?", "answer": "a", "image": "1.png"}]
ODD += [{"id": "i0", "type": "text_heavy", "question": LISTED, "answer": answer} for answer in ("C", "B: dog", "dog")]


def test_odd_rows_are_kept_and_counted_as_when_they_are_read(data: Path, processor: ProcessorMixin) -> None:
    """Ids and options that repeat, an image in the file, conversations of which the first turn is trained on."""
    rows = json.loads(data.read_text())
    inside = {**rows[0], "id": "i0", "image": b64encode((data.parent / rows[0]["image"]).read_bytes()).decode()}
    talk = {"id": "talk", "type": "VQA", "question": "Big?", "answer": "No.", "history": [["What?", "A cat."]]}
    data.write_text(json.dumps([*rows, *ODD, inside, talk]))
    bad = BadRows()
    plain = {item.id: item for _, item in read_records(data, bad=bad)}
    assert bad.counts == {"repeated ids": 5, "repeated options": 3}
    assert [plain[f"i0#{number}"].gold for number in (2, 3, 4)] == ["C", "B", "B"]
    for turns in ("all", "first", "first", "all"):
        args, heard = config(data, vqa_turns=turns), BadRows()
        benchmarks = check_rows(args, load_benchmarks(args, heard), processor, heard)
        assert heard.counts == bad.counts
        found = {item.id: item for bench in benchmarks for item in bench.items}
        cut = replace(plain["talk"], question="What?", answer="A cat.", history=())
        wanted = {**plain, "talk": cut if turns == "first" else plain["talk"]}
        assert {name: fields_of(item) for name, item in found.items()} == {
            name: fields_of(item) for name, item in wanted.items()
        }
        for bench in benchmarks:
            assert list(bench.hashes) == [item_hash(wanted[item.id]) for item in bench.items]


def _forget(folder: Path) -> bool:
    subprocess.run(["rm", "-rf", str(folder / "cache")], check=True)
    return True


def test_what_was_left_out_stops_a_run_that_leaves_nothing_out(data: Path, processor: ProcessorMixin) -> None:
    _, lines = started(config(spoil(data)), processor)
    with pytest.raises(InputError) as error:
        started(config(data), processor, skip=False)
    assert str(error.value) == lines[0]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_size_is_that_of_the_decoded_image_and_so_is_a_fault(mode: str, progressive: bool) -> None:
    """JPEGs are decoded at an eighth of their size for it: whole, turned, cut, spoilt."""
    rng, faults = np.random.default_rng(0), 0
    for width, height, orientation in ((40, 60, 1), (33, 20, 6), (8, 8, 8), (300, 3, 5), (1, 2, 3)):
        file, exif = BytesIO(), Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(file, "JPEG", progressive=progressive, exif=exif)
        whole = file.getvalue()
        cut = [whole[: int(rng.integers(20, len(whole)))] for _ in range(6)]
        for data in (whole, *cut, *(one + b"\xff\xd9" for one in cut), *(_spoilt(whole, rng) for _ in range(12))):
            found = [_outcome(look, data) for look in (lambda one: one.open().size, lambda one: one.size)]
            assert found[0] == found[1]
            faults += isinstance(found[0], str)
        assert _outcome(lambda one: one.size, whole) == (
            (height, width) if orientation in (5, 6, 8) else (width, height)
        )
    assert 20 < faults < 110


def _spoilt(data: bytes, rng: np.random.Generator) -> bytes:
    places = set(rng.integers(2, len(data), 4).tolist())
    return bytes(int(rng.integers(256)) if place in places else byte for place, byte in enumerate(data))


def _outcome(look: Callable[[Picture], tuple[int, int]], data: bytes) -> tuple[int, int] | str:
    try:
        return look(Picture(lambda: data, "here"))
    except InputError as error:
        return str(error).split("0x")[0]  # an address


# --- looked at again


def test_lines_name_the_rows_of_this_file(data: Path, processor: ProcessorMixin, looked: list[str]) -> None:
    """Where rows before them are gone, and where the same rows are in another place."""
    args = config(data, max_length=20)
    _, lines = started(args, processor)
    assert lines and all(f"{data}, row " in line for line in lines)
    rows = json.loads(data.read_text())
    data.write_text(json.dumps([{}, *rows]))
    _, (bad, *later) = started(args, processor)
    assert "row 1: field 'id' is missing" in bad
    assert [_number(line) for line in later] == [_number(line) + 1 for line in lines]
    other = data.parent / "folder" / data.name
    other.parent.mkdir()
    other.write_text(json.dumps(rows))
    _, moved = started(config(other, max_length=20, image_folder=str(data.parent)), processor)
    assert moved == [line.replace(str(data), str(other)) for line in lines]


def _number(line: str) -> int:
    return int(line.split(", row ")[1].split(":")[0])


def _touch(data: Path) -> None:
    stamp = (data.parent / "0.png").stat()
    os.utime(data.parent / "0.png", ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))


def _another_size(data: Path) -> None:
    stamp = (data.parent / "0.png").stat()
    (data.parent / "0.png").write_bytes((data.parent / "0.png").read_bytes() + b" ")
    os.utime(data.parent / "0.png", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


def _another_row(data: Path) -> None:
    data.write_text(data.read_text().replace("Say 3?", "Say 4?"))


def _mended(data: Path) -> None:
    Image.new("RGB", (9, 9)).save(data.parent / "gone.png")


@pytest.mark.parametrize("change", [_touch, _another_size, _another_row, _mended])
def test_a_change_of_a_file_is_seen(
    data: Path, processor: ProcessorMixin, looked: list[str], change: Callable[[Path], None]
) -> None:
    before = data_hash(config(data), started(config(spoil(data)), processor)[0])
    del looked[:]
    change(data)
    again, lines = started(config(data), processor)
    assert "part" in looked and "image" in looked
    assert ("row" in looked) == (change is not _touch)  # whose image is what it was
    assert (data_hash(config(data), again) == before) == (change is _touch)
    assert any("gone.png" in line for line in lines) == (change is not _mended)


@pytest.mark.parametrize(
    "fields",
    [
        {"max_length": 300},
        {"vqa_conditions": ["clean", "both"]},
        {"data_seed": 7},
        {"max_steps": 9},
        {"template": "{# another #}"},
        {"mix": [0, 1, 1]},
        {"end_token": False},
        {"epoch": "shortest"},
        {"canvas": 64},
        {"fact_text": "as_given"},
        {"question_header": "choices"},
        {"closing_text": "Say a letter."},
        {"unrelated_texts": "Water is wet."},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_another_setting_is_checked_without_decoding_images_again(
    data: Path, processor: ProcessorMixin, looked: list[str], fields: dict[str, Any]
) -> None:
    started(config(data), processor)
    del looked[:]
    started(config(data, learning_rate=0.5, output_dir="elsewhere"), processor)
    assert looked == []
    processor = copy(processor)
    processor.chat_template += fields.get("template", "")
    own = {name: value for name, value in fields.items() if name != "template"}
    for name in {"closing_text", "unrelated_texts"} & {*own}:
        started(config(data, **{name: _file(data, "Say it.")}), processor)
        assert set(looked) == {"row"}
        del looked[:]
        own[name] = _file(data, own[name])  # the same file, of other content
    started(config(data, **own), processor)
    assert set(looked) == {"row"}


def _file(data: Path, text: str) -> str:
    (data.parent / "text.txt").write_text(text)
    return str(data.parent / "text.txt")


def test_another_photograph_of_a_pool_is_checked(data: Path, processor: ProcessorMixin, looked: list[str]) -> None:
    pool = data.parent / "pool"
    pool.mkdir()
    args = config(data, pool=str(pool))
    for size in ((40, 30), (30, 40)):
        Image.new("RGB", size).save(pool / "one.png")
        folder_photos.cache_clear()  # as another process begins
        for wanted in ({"row"}, set()):
            del looked[:]
            started(args, processor)
            assert set(looked) - {"part", "image"} == wanted


def test_checks_depend_on_no_other_setting(
    data: Path, processor: ProcessorMixin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they read of a config is what a change of it brings them back for."""
    args, read = config(data), set()
    benchmarks = load_benchmarks(args)

    class Noting(MMIConfig):
        def __getattribute__(self, name: str) -> Any:
            read.add(name)
            return super().__getattribute__(name)

    args.__class__ = Noting
    check_rows(args, benchmarks, processor)
    fields = read & {*MMIConfig.__dataclass_fields__, "world_size", "n_gpu"}
    in_digests = {f"{family}_conditions" for family in ("image_heavy", "text_heavy", "vqa")} | {"data_seed"}
    assert fields >= {"max_length", "mix", "vqa_conditions", "world_size"}
    assert fields - {*SETTINGS, *in_digests} <= {"train_file", "image_folder", "disable_tqdm", "dataset_num_proc"}


@pytest.mark.parametrize("damage", ["torn", "foreign", "rows", "forged", "sealed", "gone"])
def test_what_is_not_as_it_was_written_is_ignored_in_one_line(
    data: Path, processor: ProcessorMixin, looked: list[str], capsys: pytest.CaptureFixture, damage: str
) -> None:
    first, _ = started(config(data), processor)
    wanted = data_hash(config(data), first)
    (folder,) = {bench.items.file.parent for bench in first}
    file = folder / "manifest.json"
    if damage == "torn":
        file.write_bytes(file.read_bytes()[:-9])
    elif damage == "foreign":
        file.write_text('["\\u202e"]')
    elif damage == "forged":
        file.write_text(file.read_text().replace('"lines": []', '"lines": ["no"]'))
    elif damage == "sealed":
        content = {**json.loads(file.read_text()), "facts": {"lines": 3}}
        del content["seal"]
        file.write_text(json.dumps({**content, "seal": json_hash(content)}))
    elif damage == "gone":
        file.unlink()
    else:
        content = (folder / "rows.arrow").read_bytes()
        (folder / "rows.arrow").write_bytes(content.replace(b"Say 3?", b"Say 4?"))
    del looked[:]
    capsys.readouterr()
    again, lines = started(config(data), processor)
    (said,) = capsys.readouterr().err.splitlines()
    assert str(folder) in said and "ignored" in said and "part" in looked and lines == []
    assert data_hash(config(data), again) == wanted
    del looked[:]
    started(config(data), processor)
    assert looked == []


def test_a_cache_that_cannot_be_written_is_said(
    fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("MMI_CACHE", "/proc/none")
    argv = [part for name, value in {**fields, **launches.ALONE}.items() for part in _argument(name, value)]
    assert run.main(argv) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: /proc/none: ") and "MMI_CACHE" in line


def _argument(name: str, value: Any) -> list[str]:
    return [f"--{name}", *map(str, value if isinstance(value, list) else [value])]


# --- several processes


def _root(work: Callable[[int], int]) -> list[int]:
    return list(once.in_processes(work, range(5), 2))


def test_a_process_that_is_killed_is_said() -> None:
    assert _root(lambda part: part * part) == [0, 1, 4, 9, 16]
    with pytest.raises(InputError, match="killed from outside"):
        _root(lambda part: os.kill(os.getpid(), 9) if part == 3 else part)


THREADS = """
import torch
from mmi_plugin.trainers import once
torch.set_num_threads(2)
work = lambda part: (torch.ones(1000, 1000) * part).sum().item()
assert work(1) == 1e6  # the threads have begun before the copies are made, which have none of them
print(list(once.in_processes(work, range(3), 2)))
"""


def test_copies_of_a_process_with_threads_wait_for_none() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", THREADS]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert told.stdout == "[0.0, 1000000.0, 2000000.0]\n"


def test_rows_before_one_that_cannot_be_read_are_heard_first() -> None:
    def parts() -> Any:
        yield from (1, 2, 3)
        raise InputError("the end")

    for processes in (1, 2):
        found = once.in_processes(lambda part: part, parts(), processes)
        assert [next(found) for _ in range(3)] == [1, 2, 3]
        with pytest.raises(InputError, match="the end"):
            next(found)


@pytest.fixture
def fields(data: Path, tiny_llava: Path) -> dict[str, Any]:
    return {
        **launches.FIELDS,
        "model_name_or_path": str(tiny_llava),
        "train_file": str(data),
        "output_dir": str(data.parent / "out"),
    }


def test_two_processes_check_once_and_end_together(
    fields: dict[str, Any], data: Path, processor: ProcessorMixin, tmp_path: Path
) -> None:
    refused = tmp_path / "refused.json"
    refused.write_text(data.read_text().replace('"answer": "one"', '"answer": "won"', 1))
    for name, own in (("first", fields), ("second", {**fields, "train_file": str(refused)})):
        (tmp_path / name).write_text(json.dumps(own))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(RANK)]
    command = [*torchrun, str(tmp_path / "first"), str(tmp_path), str(tmp_path / "second")]
    own = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True, timeout=300, check=False)
    one, other = (json.loads((tmp_path / f"{number}.json").read_text()) for number in range(2))
    assert one["looked"].count("part") == 1 and "row" in one["looked"] and other["looked"] == []
    assert one["hash"] == other["hash"] and one["rows"] == other["rows"] == [6, 6, 12]
    args = config(Path(fields["train_file"]))
    assert data_hash(args, started(args, processor)[0]) == one["hash"]
    assert done.returncode != 0
    (said,) = [line for line in done.stderr.splitlines() if line.startswith(("error:", "stopped"))]
    assert "refused.json, row 1: field 'answer' is 'won'" in said
    assert "(pid" in done.stderr and "exitcode  : 2" in done.stderr  # the launcher names the one that said it


def test_a_run_that_goes_on_has_the_record_of_before(
    fields: dict[str, Any], data: Path, tiny_llava: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what was checked kept, and with none of it."""
    own = {**fields, **launches.ALONE, "save_strategy": "steps", "save_steps": 1}
    args = MMIConfig(**own)
    run.train(args)
    record = json.loads((Path(args.output_dir) / "training.json").read_text())
    for cache in ("cache", "another"):
        monkeypatch.setenv("MMI_CACHE", str(data.parent / cache))
        run.train(MMIConfig(**own, resume_from_checkpoint=str(Path(args.output_dir) / "checkpoint-1")))
        again = json.loads((Path(args.output_dir) / "training.json").read_text())
        again["config"]["resume_from_checkpoint"] = None
        assert again == record
