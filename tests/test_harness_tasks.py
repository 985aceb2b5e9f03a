"""Our tasks through the real command line: records, numbers, whole items, caches, exit status."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmi_plugin.documents import documents
from mmi_plugin.harness.launcher import main
from mmi_plugin.harness.model import MmiHf
from mmi_plugin.harness.task import InterferenceTask
from mmi_plugin.harness.task_manager import QuickTaskManager
from mmi_plugin.results import TaskResult
from mmi_plugin.results.runs import newest_results, read_run
from mmi_plugin.sources import SOURCES, load
from tests.harness_runs import OUR_MODEL, TASKS, arguments, process, raw_answers, save_varied

ONE_TOKEN = ("--gen_kwargs", "max_new_tokens=1", "--batch_size", "16")
CONDITIONS = {
    "mmi_demo_digits": ("clean", "unrelated_text", "misleading_text", "ocr_text"),
    "mmi_demo_capitals": ("random_pixels", "black", "white", "irrelevant_image", "screenshot", "misleading_image"),
    "mmi_demo_arith": ("clean",),
}
UNSEEN = {"ocr_text", "screenshot", "misleading_image"}
FOREIGN = """
task: foreign
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: q
doc_to_target: a
generation_kwargs: {max_new_tokens: 2}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLaVA that answers A, B, C or D."""
    return save_varied(tmp_path_factory.mktemp("letters"), seed=1, letters_only=True)


@pytest.fixture(scope="module")
def run(letters: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, TaskResult]:
    """One run of all tasks; the wildcard matches the group and its members."""
    out = tmp_path_factory.mktemp("run")
    tasks = "mmi_demo*,mmi_demo_digits"
    assert main([*OUR_MODEL, *arguments(letters, tasks, out, *ONE_TOKEN, limit=168)]) == 0
    return read_run(out)


def test_a_wildcard_runs_each_task_once(run: dict[str, TaskResult]) -> None:
    assert {task: len(result.records) for task, result in run.items()} == dict.fromkeys(CONDITIONS, 168)


def test_group_and_members_are_asked_once(tiny_llava: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tasks = "mmi_demo*,mmi_demo_digits,mmi_demo"
    assert main([*OUR_MODEL, *arguments(tiny_llava, tasks, tmp_path, *ONE_TOKEN, limit=1)]) == 0
    said = capfd.readouterr().out
    assert [said.count(f"Building contexts for {task} ") for task in CONDITIONS] == [1, 1, 1]


@pytest.mark.parametrize("task", CONDITIONS)
def test_records_hold_the_item_and_the_answer(run: dict[str, TaskResult], task: str) -> None:
    result = run[task]
    items = {item.id: item for item in load(task.replace("mmi_", ""), "test").items}
    assert result.conditions == CONDITIONS[task]
    assert len({record.parsed for record in result.records}) > 1, "the model's answers vary"
    for position, record in enumerate(result.records):
        item = items[record.item_id]
        assert record.condition == CONDITIONS[task][position % len(CONDITIONS[task])], "contiguous per item"
        assert item.options["ABCD".index(record.gold)] == item.answer
        assert (record.seed, record.parsed) == (0, record.raw), "the raw answer is one letter"
        assert (record.named is None) == (record.condition not in ("misleading_text", "misleading_image"))
        assert record.named != record.gold


@pytest.mark.parametrize("task", CONDITIONS)
def test_numbers_equal_an_independent_count(run: dict[str, TaskResult], task: str) -> None:
    names, records = CONDITIONS[task], run[task].records
    table: dict[str, dict[str, tuple[str | None, bool]]] = {}
    for record in records:
        table.setdefault(record.item_id, {})[record.condition] = (record.parsed, record.parsed == record.gold)
    n = len(table)
    expected: dict[str, float] = {"items": n, "incomplete": 0, "unparseable": 0.0, "cut_off": 0.0}
    for name in names:
        expected[f"accuracy/{name}"] = sum(row[name][1] for row in table.values()) / n
    for name in names[1:]:
        expected[f"flip_rate/{name}"] = sum(row[name][0] != row[names[0]][0] for row in table.values()) / n
    seen = [name for name in names if name not in UNSEEN]
    expected["worst_case"] = sum(all(row[name][1] for name in names) for row in table.values()) / n
    expected["worst_case_seen"] = sum(all(row[name][1] for name in seen) for row in table.values()) / n
    assert run[task].numbers == pytest.approx(expected)
    assert 0 < expected[f"accuracy/{names[0]}"] < 1


def test_the_content_hash_is_that_of_the_benchmark(run: dict[str, TaskResult]) -> None:
    for task, result in run.items():
        assert result.content_hash == load(task.replace("mmi_", ""), "test").digest(CONDITIONS[task], seed=0)


@pytest.mark.parametrize(("limit", "items"), [(6, (2, 1, 6)), (0.001, (1, 1, 1))])
def test_a_limit_takes_whole_items_of_every_task(
    letters: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], limit: float, items: tuple[int, ...]
) -> None:
    assert main([*OUR_MODEL, *arguments(letters, "mmi_demo", tmp_path, *ONE_TOKEN, limit=limit)]) == 0
    numbers = [read_run(tmp_path)[task].numbers for task in CONDITIONS]
    assert tuple(row["items"] for row in numbers) == items
    assert all(row["incomplete"] == 0 for row in numbers)
    assert "items are whole under 4 conditions" in capfd.readouterr().out
    config = json.loads(newest_results(tmp_path).read_text(encoding="utf-8"))["config"]
    assert config["resolved_cli_args"]["requested_limit"] == limit


def test_an_offset_takes_whole_items(letters: Path, tmp_path: Path) -> None:
    run = arguments(letters, "mmi_demo_digits", tmp_path, *ONE_TOKEN, "--offset", "9", limit=4)
    assert main([*OUR_MODEL, *run]) == 0
    third, fourth = load("demo_digits", "test").items[2:4]
    records = read_run(tmp_path)["mmi_demo_digits"].records
    assert [record.item_id for record in records] == [third.id] * 4 + [fourth.id] * 4


def test_the_stock_command_line_reports_items_cut_in_half(letters: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lmms_eval", "--include_path", str(TASKS), *OUR_MODEL]
    done = process([*command, *arguments(letters, "mmi_demo_digits", tmp_path, *ONE_TOKEN, limit=10)])
    result = read_run(tmp_path)["mmi_demo_digits"]
    assert len(result.records) == 10
    assert (result.numbers["items"], result.numbers["incomplete"]) == (2, 1)
    assert f"1 items lack a condition and are in no number: {result.records[-1].item_id}" in done.stdout


def _write_task(folder: Path, **options: object) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"include": str(TASKS / "_mmi_base"), "task": "mine", "dataset_kwargs": options}
    (folder / "mine.yaml").write_text(json.dumps(settings), encoding="utf-8")
    return str(folder)


def _answers(checkpoint: Path, out: Path, *more: str) -> dict[tuple[str, str], str]:
    assert main([*OUR_MODEL, *arguments(checkpoint, "mine", out, "--batch_size", "8", *more, limit=20)]) == 0
    return raw_answers(read_run(out)["mine"])


def test_a_cache_brings_back_no_stale_answers(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The YAML, the text and the document numbers stay the same: the photographs change, then the weights."""
    checkpoint = save_varied(tmp_path / "checkpoint")
    task = ("--include_path", _write_task(tmp_path / "tasks", source="changing", conditions=["irrelevant_image"]))
    cache = ("--use_cache", str(tmp_path / "cache"))
    capitals = load("demo_capitals", "test")

    def change_photographs(images: Sequence[Image.Image]) -> None:
        pools = replace(capitals.pools, images=images)
        monkeypatch.setitem(SOURCES, "changing", lambda split: replace(capitals, name="changing", pools=pools))
        load.cache_clear()
        documents.cache_clear()

    change_photographs(capitals.pools.images[:20])
    first = _answers(checkpoint, tmp_path / "1", *task, *cache)
    capfd.readouterr()
    assert _answers(checkpoint, tmp_path / "2", *task, *cache) == first
    assert "all 20 requests served from cache" in capfd.readouterr().out
    change_photographs(capitals.pools.images[20:40])
    changed = _answers(checkpoint, tmp_path / "3", *task)
    assert changed != first
    assert _answers(checkpoint, tmp_path / "4", *task, *cache) == changed
    shutil.rmtree(checkpoint)
    save_varied(checkpoint, seed=5)
    retrained = _answers(checkpoint, tmp_path / "5", *task)
    assert retrained != changed
    assert _answers(checkpoint, tmp_path / "6", *task, *cache) == retrained


@pytest.mark.parametrize(
    "flags", [("--system_instruction", "Look twice."), ("--gen_kwargs", "max_new_tokens=8,repetition_penalty=50")]
)
def test_a_cache_is_of_one_way_to_ask(tmp_path: Path, flags: tuple[str, str]) -> None:
    checkpoint = save_varied(tmp_path / "checkpoint")
    task = ("--include_path", _write_task(tmp_path / "tasks", source="demo_arith"), "--gen_kwargs", "max_new_tokens=8")
    cache = ("--use_cache", str(tmp_path / "cache"))
    plain = _answers(checkpoint, tmp_path / "1", *task, *cache)
    found = _answers(checkpoint, tmp_path / "2", *task, *flags, *cache)
    assert found == _answers(checkpoint, tmp_path / "3", *task, *flags)
    assert found != plain


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"source": "demo_digits", "conditions": ["clean", "mislead_text"]}, "did you mean 'misleading_text'?"),
        ({"source": "demo_digits", "conditions": ["clean", "black"]}, "condition 'black' is not for image_heavy"),
        ({"source": "demo_digits", "conditions": []}, "key 'conditions': conditions are []"),
        ({"source": "demo_digit"}, "did you mean 'demo_digits'?"),
        ({"source": "demo_digits", "sed": 1}, "unknown key 'sed' in dataset_kwargs: did you mean 'seed'?"),
        ({"conditions": ["clean"]}, "key 'source' is missing"),
    ],
)
def test_a_wrong_task_is_said_before_the_model_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: dict[str, object], said: str
) -> None:
    folder = _write_task(tmp_path / "tasks", **options)
    nowhere = arguments(tmp_path / "nowhere", "mine", tmp_path, "--include_path", folder)
    assert main([*OUR_MODEL, *nowhere]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: mine: ") and said in line


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("description", "Be brief.", "key 'description' would change nothing: "),
        ("fewshot_split", "train", "did you mean 'test_split'?"),
        ("doc_to_text", "Q: {{prompt}}", "key 'doc_to_text' would change nothing"),
        ("num_fewshot", 2, "key 'num_fewshot' is 2, and can only be 0"),
        ("output_type", "loglikelihood", "can only be 'generate_until'"),
    ],
)
def test_a_key_of_lmms_evals_tasks_that_would_change_nothing_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, value: object, said: str
) -> None:
    folder = Path(_write_task(tmp_path / "tasks", source="demo_arith"))
    settings = json.loads((folder / "mine.yaml").read_text(encoding="utf-8"))
    (folder / "mine.yaml").write_text(json.dumps({**settings, key: value}), encoding="utf-8")
    run = arguments(tmp_path / "nowhere", "mine", tmp_path, "--include_path", str(folder))
    assert main([*OUR_MODEL, *run]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: mine: ") and said in line


@pytest.mark.parametrize(
    ("owner", "method", "fault", "said"),
    [
        (
            MmiHf,
            "generate_until",
            lambda answers: answers[:-1],
            "error: RuntimeError: the model gave 3 answers to 4 requests",
        ),
        (InterferenceTask, "process_results", lambda _: {}, "error: mmi_demo_arith: 0 of 4 items are complete"),
    ],
)
def test_a_lost_record_fails_the_run(
    tiny_llava: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    method: str,
    fault: Callable[[Any], Any],
    said: str,
) -> None:
    """A model that answers too few requests; a scorer that drops a document, which upstream lets pass."""
    correct = getattr(owner, method)
    monkeypatch.setattr(owner, method, lambda *args, **options: fault(correct(*args, **options)))
    assert main([*OUR_MODEL, *arguments(tiny_llava, "mmi_demo_arith", tmp_path, *ONE_TOKEN, limit=4)]) == 1
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith(said)


def test_a_foreign_task_runs_with_upstreams_limit(tiny_llava: Path, tmp_path: Path) -> None:
    """Text only, from a JSON file, as lmms-eval's own tasks are written."""
    (tmp_path / "rows.jsonl").write_text('{"q": "one?", "a": "1"}\n{"q": "two?", "a": "2"}\n', encoding="utf-8")
    (tmp_path / "foreign.yaml").write_text(FOREIGN, encoding="utf-8")
    more = ("--include_path", str(tmp_path), "--batch_size", "2")
    run = arguments(tiny_llava, "foreign", tmp_path / "out", *more, limit=1)
    assert main([*OUR_MODEL, *run]) == 0
    results = json.loads(newest_results(tmp_path / "out").read_text(encoding="utf-8"))
    assert results["n-samples"]["foreign"] == {"original": 2, "effective": 1}
    mixed = arguments(tiny_llava, "foreign,mmi_demo_arith", tmp_path / "mixed", *more, limit=1)
    assert main([*OUR_MODEL, *mixed]) == 2


def test_our_tasks_are_found_without_indexing_the_others() -> None:
    known = QuickTaskManager("mmi_demo*").all_tasks
    assert {"mmi_demo", "mmi_all", *CONDITIONS} < set(known)
    assert all(name.startswith("mmi_") for name in known)


def test_the_list_of_tasks_holds_ours_and_upstreams(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--tasks", "list"]) == 0
    assert {"mme", "mmi_demo", "mmi_demo_digits"} <= set(capfd.readouterr().out.replace(" - ", "").splitlines())
