"""A model that throws, or that runs out of memory, in real runs: what is kept, what is named, the exit status."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lmms_eval.api.instance import Instance

from mmi_plugin.errors import InputError
from mmi_plugin.harness.launcher import main
from mmi_plugin.harness.model import MmiHf
from mmi_plugin.results.runs import newest_results, read_run, read_runs
from tests.harness_runs import OUR_MODEL, arguments, assert_same_records, raw_answers, save_varied

TASK = "mmi_demo_digits"
ITEMS, CONDITIONS = 6, 4


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_varied(tmp_path_factory.mktemp("letters"), seed=1, letters_only=True)


@pytest.fixture(scope="module")
def whole(letters: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    assert _run(letters, out) == 0
    return out


def _run(checkpoint: Path, out: Path, *more: str) -> int:
    flags = ("--batch_size", "8", "--gen_kwargs", "max_new_tokens=1", *more)
    return main([*OUR_MODEL, *arguments(checkpoint, TASK, out, *flags, limit=ITEMS * CONDITIONS)])


def _patch(monkeypatch: pytest.MonkeyPatch, before: Callable[[Sequence[Instance]], None]) -> None:
    """Call `before` with the rows of every batch that the model is about to answer."""
    answer = MmiHf._answer

    def patched(self: MmiHf, rows: Sequence[Instance]) -> Any:
        before(rows)
        return answer(self, rows)

    monkeypatch.setattr(MmiHf, "_answer", patched)


def test_garbage_is_collected_while_a_model_answers_and_after(
    letters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, bool]] = []
    _patch(monkeypatch, lambda _: seen.append((gc.isenabled(), gc.get_freeze_count() > 0)))
    assert _run(letters, tmp_path) == 0
    assert set(seen) == {(True, True)}
    assert gc.isenabled() and gc.get_freeze_count() == 0
    assert main([*OUR_MODEL, *arguments(letters, "no_such_task", tmp_path)]) == 2
    assert gc.isenabled()


def test_a_record_that_fails_is_named_and_the_rest_is_kept(
    letters: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def throw(rows: Sequence[Instance]) -> None:
        if any(row.doc_id == 6 for row in rows):
            raise ValueError("no such token\nat all")

    _patch(monkeypatch, throw)
    assert _run(letters, tmp_path) == 1
    expected = read_run(whole)[TASK]
    bad = expected.records[6]
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-2:] == [
        f"error: {TASK}: item {bad.item_id} ({bad.condition}) failed: ValueError: no such token",
        f"error: {TASK}: {ITEMS - 1} of {ITEMS} items are complete",
    ]
    result = read_run(tmp_path)[TASK]
    record = result.records[6]
    assert (record.item_id, record.condition) == (bad.item_id, bad.condition)
    assert (record.parsed, record.failure) == (None, "ValueError: no such token")
    assert_same_records(result.records[:6] + result.records[7:], expected.records[:6] + expected.records[7:])
    assert (result.numbers["items"], result.numbers["incomplete"]) == (ITEMS - 1, 1)
    kept = [row for row in expected.records if row.condition == "clean" and row.item_id != bad.item_id]
    assert result.numbers["accuracy/clean"] == sum(row.right for row in kept) / len(kept), "in no number"
    named = json.loads(newest_results(tmp_path).read_text(encoding="utf-8"))["failed"]
    assert named == [
        {"task": TASK, "item_id": bad.item_id, "condition": bad.condition, "failure": "ValueError: no such token"}
    ]


def test_a_leaderboard_refuses_a_failed_record(letters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def throw(rows: Sequence[Instance]) -> None:
        raise ValueError("never")

    _patch(monkeypatch, throw)
    assert _run(letters, tmp_path) == 1
    with pytest.raises(InputError, match=r"the model failed under 'clean': ValueError: never"):
        read_runs([str(tmp_path)])


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_out_of_memory_halves_the_batch_and_says_so_once(
    letters: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    error: RuntimeError,
) -> None:
    sizes: list[int] = []

    def limited(rows: Sequence[Instance]) -> None:
        sizes.append(len(rows))
        if len(rows) > 2:
            raise error

    _patch(monkeypatch, limited)
    assert _run(letters, tmp_path) == 0
    assert sizes == [8, 4, *[2] * (ITEMS * CONDITIONS // 2)]
    assert raw_answers(read_run(tmp_path)[TASK]) == raw_answers(read_run(whole)[TASK])
    assert capfd.readouterr().out.count("out of memory with a batch of 8") == 1


def test_memory_too_small_for_one_row_is_a_failed_record(
    letters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def limited(rows: Sequence[Instance]) -> None:
        if any(row.doc_id == 0 for row in rows):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    _patch(monkeypatch, limited)
    assert _run(letters, tmp_path) == 1
    assert "failed: OutOfMemoryError: CUDA out of memory." in capsys.readouterr().err
    assert read_run(tmp_path)[TASK].numbers["items"] == ITEMS - 1
