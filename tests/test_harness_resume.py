"""kill -9 at any moment, then `--resume`: nothing lost, nothing doubled, nothing asked twice, nothing stale."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lmms_eval.api.instance import Instance
from lmms_eval.loggers import evaluation_tracker

from mmi_plugin import disk
from mmi_plugin.harness import journal
from mmi_plugin.harness.journal import Journal
from mmi_plugin.harness.launcher import main
from mmi_plugin.harness.model import MmiHf
from mmi_plugin.harness.published import ResultsLast
from mmi_plugin.results.reading import read_results
from mmi_plugin.results.runs import read_run, read_runs
from tests.harness_runs import OUR_MODEL, SCRIPT, arguments, assert_same_records, raw_answers, remains, save_varied

TASKS = ("mmi_demo_digits", "mmi_demo_arith")
RECORDS = 40  # 5 items under 4 conditions, 20 under one


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_varied(tmp_path_factory.mktemp("varied"))


@pytest.fixture(scope="module")
def whole(varied: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    assert main(_command(varied, out)) == 0
    assert _journals(out) == [], "nothing to go on from is left"
    return out


def _command(checkpoint: Path, out: Path, *more: str) -> list[str]:
    flags = ("--batch_size", "8", "--gen_kwargs", "max_new_tokens=4", *more)
    return [*OUR_MODEL, *arguments(checkpoint, ",".join(TASKS), out, *flags, limit=20)]


def _journals(out: Path) -> list[Path]:
    return sorted(out.glob(".journal-*"))


def _lines(out: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in out.rglob("rank*.jsonl"))


def _killed(command: Sequence[str], arm: Callable[[], None]) -> None:
    """Run `command` in a child process that kills itself as `arm`, called in it, has laid out."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # the parent's threads are not there
        arm()
        main(command)
        os._exit(99)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def _die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _at_answer(number: int, torn: bool = False) -> Callable[[], None]:
    """Die when answer `number` (from 0) is to be written, or in the middle of writing it."""

    def arm() -> None:
        correct, count = Journal.add_partial, iter(range(10**6))

        def deadly(self: Journal, kind: str, request: Any, answer: Any) -> None:
            if next(count) == number:
                if torn:
                    self._file.write('{"key": "0123", "te')
                    self._file.flush()
                _die()
            correct(self, kind, request, answer)

        Journal.add_partial = deadly

    return arm


def _at(owner: type, method: str) -> Callable[[], None]:
    return lambda: setattr(owner, method, _die)


def _resumed(monkeypatch: pytest.MonkeyPatch, command: Sequence[str]) -> tuple[int, int]:
    """Return the status of `command` with `--resume`, and how many rows the model was asked."""
    asked: list[Instance] = []
    answer = MmiHf._answer

    def counted(self: MmiHf, rows: Sequence[Instance]) -> Any:
        asked.extend(rows)
        return answer(self, rows)

    monkeypatch.setattr(MmiHf, "_answer", counted)
    return main([*command, "--resume"]), len(asked)


def _same(out: Path, whole: Path) -> None:
    expected, found = read_run(whole), read_run(out)
    for task in TASKS:
        assert_same_records(found[task].records, expected[task].records)
        assert found[task].numbers == pytest.approx(expected[task].numbers, nan_ok=True)
    assert _journals(out) == []
    assert not remains(out), "nothing of the run that ended early is left"
    assert [run.results.keys() for run in read_runs([f"x={out}"])] == [set(TASKS)]


@pytest.mark.parametrize(
    ("arm", "kept"),
    [
        (_at_answer(0), 0),
        (_at_answer(5), 5),
        (_at_answer(13, torn=True), 13),
        (_at_answer(RECORDS - 1), RECORDS - 1),
        (_at(ResultsLast, "save_results_samples"), RECORDS),
        (_at(ResultsLast, "publish"), RECORDS),
        (_at(Path, "replace"), RECORDS),
    ],
    ids=["first", "in_a_batch", "in_a_line", "last", "samples", "results", "rename"],
)
def test_a_killed_run_goes_on(
    varied: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arm: Callable[[], None], kept: int
) -> None:
    command = _command(varied, tmp_path)
    _killed(command, arm)
    assert _lines(tmp_path) == kept
    assert _resumed(monkeypatch, command) == (0, RECORDS - kept)
    _same(tmp_path, whole)


def test_a_run_may_be_killed_twice(varied: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = _command(varied, tmp_path)
    _killed(command, _at_answer(9, torn=True))
    _killed([*command, "--resume"], _at_answer(11))
    assert _resumed(monkeypatch, command) == (0, RECORDS - 20)
    _same(tmp_path, whole)


def test_without_the_flag_nothing_is_reused(varied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = _command(varied, tmp_path)
    _killed(command, _at_answer(9))
    calls: list[int] = []
    answer = MmiHf._answer
    monkeypatch.setattr(MmiHf, "_answer", lambda self, rows: (calls.append(len(rows)), answer(self, rows))[1])
    assert main(command) == 0
    assert sum(calls) == RECORDS


def test_answers_of_other_weights_or_settings_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    checkpoint, out = save_varied(tmp_path / "model"), tmp_path / "out"
    command = _command(checkpoint, out)
    _killed(command, _at_answer(30))
    assert _resumed(monkeypatch, [*command, "--system_instruction", "x"])[1] == RECORDS
    assert "no answers of this command" in capfd.readouterr().out
    save_varied(checkpoint, seed=5)
    assert _resumed(monkeypatch, command)[1] >= RECORDS
    retrained = raw_answers(read_run(out)["mmi_demo_arith"])
    assert main(_command(checkpoint, tmp_path / "fresh")) == 0
    assert raw_answers(read_run(tmp_path / "fresh")["mmi_demo_arith"]) == retrained


def test_only_what_failed_is_asked_again(
    varied: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = _command(varied, tmp_path)
    with monkeypatch.context() as broken:
        answer = MmiHf._answer

        def throw(self: MmiHf, rows: Sequence[Instance]) -> Any:
            if any(row.task_name == TASKS[0] and row.doc_id == 3 for row in rows):
                raise ValueError("now and then")
            return answer(self, rows)

        broken.setattr(MmiHf, "_answer", throw)
        assert main(command) == 1
    time.sleep(1.1)  # lmms-eval names its files by the second
    assert _resumed(monkeypatch, command) == (0, 1)
    _same(tmp_path, whole)


def test_two_processes_are_killed_and_one_goes_on(varied: Path, whole: Path, tmp_path: Path) -> None:
    command = _command(varied, tmp_path)
    single_rows = ["1" if word == "8" else word for word in command]
    port = _free_port()
    both = [_start_rank(rank, [SCRIPT, *single_rows], port) for rank in (0, 1)]
    while all(process.poll() is None for process in both) and _lines(tmp_path) < 4:
        time.sleep(0.01)
    for process in both:
        process.kill()
        process.wait()
    assert {path.name for path in tmp_path.rglob("rank*.jsonl")} == {"rank0.jsonl", "rank1.jsonl"}
    assert 4 <= _lines(tmp_path) < RECORDS
    assert main([*command, "--resume"]) == 0
    _same(tmp_path, whole)


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def _start_rank(rank: int, command: Sequence[str], port: int) -> subprocess.Popen[bytes]:
    """Start one of two processes as torchrun does, but as a child of ours, to be killed."""
    ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    settings = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(command, env={**os.environ, **ranks, **address, **settings}, stdout=subprocess.DEVNULL)


def test_resume_needs_the_folder(varied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model_args", f"pretrained={varied}", "--tasks", "mmi_demo_arith", "--resume"]
    assert main([*OUR_MODEL, *flags]) == 2
    assert "--resume needs the --output_path" in capsys.readouterr().err


def _full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class _HalfWritten:
    """A file on a disk that is full after half of what is written first."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __enter__(self) -> _HalfWritten:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, text: str) -> None:
        self._file.write(text[: len(text) // 2])
        self._file.flush()
        _full()


def _full_at_samples(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        evaluation_tracker,
        "open",
        lambda path, mode, **more: _HalfWritten(Path(path).open(mode, **more)),  # noqa: SIM115
        raising=False,
    )


def _full_at_results(patch: pytest.MonkeyPatch) -> None:
    real = Path.open

    def opened(self: Path, mode: str = "r", *args: Any, **more: Any) -> Any:
        file = real(self, mode, *args, **more)
        return _HalfWritten(file) if mode == "w" and self.name.endswith("_results.json") else file

    patch.setattr(Path, "open", opened)


def _full_at_an_answer(patch: pytest.MonkeyPatch) -> None:
    real, count = json.dumps, iter(range(10**6))

    def dumped(value: Any, **more: Any) -> str:
        if isinstance(value, dict) and "counts" in value and next(count) == 9:
            _full()
        return real(value, **more)

    patch.setattr("mmi_plugin.harness.journal.json.dumps", dumped)


@pytest.mark.parametrize(
    ("spoil", "kept"),
    [(_full_at_samples, RECORDS), (_full_at_results, RECORDS), (_full_at_an_answer, 9)],
    ids=["samples", "results", "answer"],
)
def test_a_full_disk_leaves_nothing_torn(
    varied: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[pytest.MonkeyPatch], None],
    kept: int,
) -> None:
    command = _command(varied, tmp_path)
    with monkeypatch.context() as patch:
        spoil(patch)
        assert main(command) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ") and "no space left on the disk" in line
    assert f"{kept} answers are kept: the same command with --resume goes on" in line
    assert not list(tmp_path.rglob("*_results.json")) and not list(tmp_path.rglob(".unfinished-*"))
    assert all(len(list(map(json.loads, path.open()))) == 20 for path in tmp_path.rglob("*_samples_*"))
    assert _resumed(monkeypatch, command) == (0, RECORDS - kept)
    _same(tmp_path, whole)


@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")])
def test_a_run_that_is_stopped_says_what_it_kept(
    varied: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    number: signal.Signals,
    name: str,
) -> None:
    command = _command(varied, tmp_path)
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        correct, count = Journal.add_partial, iter(range(10**6))

        def stopping(self: Journal, kind: str, request: Any, answer: Any) -> None:
            correct(self, kind, request, answer)
            if next(count) == 6:
                os.kill(os.getpid(), number)

        Journal.add_partial = stopping
        os._exit(main(command))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + number
    said = capfd.readouterr().err
    assert "Traceback" not in said
    line = f"error: stopped by {name}; 7 answers are kept: the same command with --resume goes on"
    assert said.strip().splitlines()[-1] == line
    assert _resumed(monkeypatch, command) == (0, RECORDS - 7)
    _same(tmp_path, whole)


def test_one_command_runs_once_at_a_time(
    varied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(disk, "LOCK_SECONDS", 0.2)
    command = _command(varied, tmp_path)
    _killed(command, _at_answer(5))
    with disk.locked(_journals(tmp_path)[0], "x"):
        assert main([*command, "--resume"]) == 2
    assert "another evaluation by this command is writing here" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0


def test_no_two_runs_have_one_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that are at work at once, each with its journal and no results yet."""
    clock = iter(["20300101_000000"] * 5 + ["20300101_000001"] * 3 + ["20300101_000002"])
    monkeypatch.setattr(journal, "get_datetime_str", lambda timezone: next(clock))
    folders = [tmp_path / f".journal-{number}" for number in range(3)]
    taken = []
    for folder in folders:
        folder.mkdir()
        run = journal.Evaluation(Namespace(timezone="UTC"), {}, False)
        taken.append(run._claim_second(folder))
    assert taken == ["20300101_000000", "20300101_000001", "20300101_000002"]


def test_two_evaluations_at_once_lose_nothing(varied: Path, tmp_path: Path) -> None:
    settings = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    commands = [[SCRIPT, *_command(varied, tmp_path, "--system_instruction", text)] for text in ("one", "two")]
    both = [subprocess.Popen(command, env=settings, stdout=subprocess.DEVNULL) for command in commands]
    assert [process.wait(timeout=300) for process in both] == [0, 0]
    results = list(tmp_path.rglob("*_results.json"))
    assert len(results) == 2
    said = {json.loads(path.read_text())["system_instruction"] for path in results}
    assert said == {"one", "two"}
    assert [len(read_results(path)["mmi_demo_arith"].records) for path in results] == [20, 20]
