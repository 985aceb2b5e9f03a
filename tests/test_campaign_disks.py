"""A disk that is full at some place, or read-only: a small one that the test mounts; elsewhere see the injected errors
in test_harness_resume.py and test_trainers_resume.py."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mmi_plugin.harness.launcher import main as lmms_eval
from mmi_plugin.results.runs import read_run
from mmi_plugin.trainers.run import main as train
from tests.campaign_runs import torn
from tests.harness_runs import OUR_MODEL, arguments, assert_same_records, remains, save_varied
from tests.leaderboard_boards import leaderboard
from tests.test_trainers_resume import RESUME, flags, write_rows

pytestmark = pytest.mark.long
PAGE = 4096


class Disk:
    """A file system of its own, of a few megabytes, in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._filler = folder, folder / "filler"

    def leave(self, room: int) -> None:
        """Fill all but `room` bytes."""
        self._filler.unlink(missing_ok=True)
        free = shutil.disk_usage(self.folder).free - room
        with self._filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(free // PAGE, 1) * PAGE)

    def empty(self) -> None:
        self._filler.unlink()

    def mount(self, options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path / "disk")
    made.folder.mkdir()
    try:
        mounted = made.mount("size=32m")
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("no file system may be mounted here")
    yield made
    subprocess.run(["umount", "--lazy", str(made.folder)], check=True)


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_varied(tmp_path_factory.mktemp("varied"))


def evaluation(checkpoint: Path, out: Path) -> list[str]:
    more = ("--batch_size", "8", "--gen_kwargs", "max_new_tokens=4")
    return [*OUR_MODEL, *arguments(checkpoint, "mmi_demo_digits,mmi_demo_arith", out, *more, limit=20)]


def the_line(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr().err
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    return line


def same_answers(out: Path, whole: Path) -> None:
    found, expected = read_run(out), read_run(whole)
    for task, result in expected.items():
        assert_same_records(found[task].records, result.records)
    assert not remains(out)


@pytest.fixture(scope="module")
def evaluated_once(varied: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    assert lmms_eval(evaluation(varied, out)) == 0
    return out


@pytest.mark.parametrize("pages", [0, 1, 2, 3, 4, 5, 7, 9, 11, 12])
def test_an_evaluation_on_a_full_disk(
    varied: Path, evaluated_once: Path, disk: Disk, capsys: pytest.CaptureFixture[str], pages: int
) -> None:
    """Answers take one page, samples and results some eight each."""
    out = disk.folder / "out"
    disk.leave(pages * PAGE)
    status = lmms_eval(evaluation(varied, out))
    line = the_line(capsys)
    assert status == 1 and "no space left on the disk" in line and str(out) in line, (status, line)
    assert not list(out.glob("*/*_results.json")) and not torn(out)
    disk.empty()
    assert lmms_eval([*evaluation(varied, out), "--resume"]) == 0
    same_answers(out, evaluated_once)


@pytest.mark.parametrize("megabytes", [0.0, 0.3, 0.8, 1.5, 2.5, 4, 6])
def test_a_training_on_a_full_disk(
    tiny_llava: Path, tmp_path: Path, disk: Disk, capsys: pytest.CaptureFixture[str], megabytes: float
) -> None:
    data, out, whole = write_rows(tmp_path / "data.json"), disk.folder / "out", tmp_path / "whole"
    assert train(flags(tiny_llava, data, whole)) == 0
    size = sum(path.stat().st_size for path in whole.rglob("*") if path.is_file())
    disk.leave(int(megabytes / 6.5 * size))
    capsys.readouterr()
    status = train(flags(tiny_llava, data, out))
    line = the_line(capsys)
    assert status == 1 and "no space left on the disk" in line and str(out) in line, (status, line)
    assert not torn(out) and not (out / "model.safetensors").exists()
    disk.empty()
    again = RESUME if list(out.glob("checkpoint-*")) else ()
    assert train(flags(tiny_llava, data, out, *again)) == 0
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}


OUTPUTS: list[Callable[[Path], list[object]]] = [
    lambda out: ["--csv", out / "board.csv"],
    lambda out: ["--json", out / "board.json"],
    lambda out: ["--md", out / "board.md"],
    lambda out: ["--html", out / "board.html"],
    lambda out: ["--plots", out / "plots"],
]


@pytest.mark.parametrize("output", OUTPUTS, ids=["csv", "json", "md", "html", "plots"])
@pytest.mark.parametrize("how", ["full", "nearly", "read-only"])
def test_a_board_on_a_disk_that_takes_nothing(
    evaluated: list[Path], disk: Disk, capsys: pytest.CaptureFixture[str], output: Callable, how: str
) -> None:
    out = disk.folder
    if how == "read-only":
        assert disk.mount("size=1m,ro")
    else:
        disk.leave(0 if how == "full" else PAGE)
    capsys.readouterr()
    assert leaderboard(evaluated[0], *output(out)) in (1, 2)
    line = the_line(capsys)
    assert "cannot be written" in line and ("Read-only" if how == "read-only" else "no space left on the disk") in line
    assert [path.name for path in out.rglob("*") if path.is_file() and path.name != "filler"] == []
    if how == "read-only":
        subprocess.run(["umount", str(out)], check=True)


def test_runs_on_a_read_only_disk(
    varied: Path, tiny_llava: Path, tmp_path: Path, disk: Disk, capsys: pytest.CaptureFixture[str]
) -> None:
    assert disk.mount("size=1m,ro")
    assert lmms_eval(evaluation(varied, disk.folder / "out")) in (1, 2)
    assert "Read-only file system" in the_line(capsys)
    assert train(flags(tiny_llava, write_rows(tmp_path / "data.json"), disk.folder / "out")) in (1, 2)
    assert "Read-only file system" in the_line(capsys)
    subprocess.run(["umount", str(disk.folder)], check=True)
