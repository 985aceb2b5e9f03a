"""Going on from a checkpoint: of this very run, whole, in a folder of its own, and no step too many."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer

from mmi_plugin import disk
from mmi_plugin.trainers import record, run
from mmi_plugin.trainers.resume import seal

ROOT = Path(__file__).parent.parent
ROW = {"type": "text_heavy", "question": "Which?", "answer": "a", "options": ["a", "b"]}


def write_rows(path: Path, answer: str = "a") -> Path:
    path.write_text(json.dumps([{**ROW, "id": f"q{i}", "answer": answer} for i in range(6)]))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "data.json")


@pytest.fixture(scope="module")
def start(tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(tiny_llava, tmp_path_factory.mktemp("start") / "model")


def flags(start: Path, data: Path, out: Path, *more: str) -> list[str]:
    """Four steps of a small run, three of which make an epoch; a later flag wins."""
    fixed = "--mix 0 1 0 --per_device_train_batch_size 2 --max_steps 4 --learning_rate 1e-2 --use_cpu true --seed 5"
    quiet = "--report_to none --disable_tqdm true --save_strategy steps --save_steps 1"
    places = ["--model_name_or_path", str(start), "--train_file", str(data), "--output_dir", str(out)]
    return [*places, *fixed.split(), *quiet.split(), *more]


@pytest.fixture(scope="module")
def finished(start: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished")
    assert run.main(flags(start, data, out)) == 0
    return out


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    """The folder of a run that was killed after its third step."""
    shutil.copytree(finished, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "checkpoint-4")
    for name in ("model.safetensors", "README.md", "training.json"):
        (tmp_path / "out" / name).unlink()
    return tmp_path / "out"


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line on stderr with which a command line is refused."""
    capsys.readouterr()
    assert run.main(argv) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


RESUME = ("--resume_from_checkpoint", "true")


def test_going_on_gives_what_was_never_stopped(start: Path, data: Path, finished: Path, out: Path) -> None:
    assert run.main(flags(start, data, out, *RESUME)) == 0
    assert (out / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--seed", "6"], ["'seed'", "5", "6"]),
        (["--data_seed", "6"], ["'data_seed'", "5", "6"]),
        (["--learning_rate", "0.5"], ["'learning_rate'", "0.01", "0.5"]),
        (["--adversary", "pgd"], ["'adversary'", "'none'", "'pgd'"]),
        (["--lora_r", "4"], ["'lora_r'", "0", "4"]),
        (["--max_steps", "6"], ["'max_steps'", "4", "6"]),
        (["--optim", "sgd"], ["'optim'", "'sgd'"]),
        (["--text_heavy_conditions", "random_pixels", "black"], ["'text_heavy_conditions'", "'black'"]),
        (["--system_prompt", "Be brief."], ["'system_prompt'", "'Be brief.'"]),
        (["--gradient_accumulation_steps", "2"], ["'gradient_accumulation_steps'", "1", "2"]),
    ],
    ids=lambda value: value[0].strip("-'") if isinstance(value, list) and value[0].startswith("--") else "",
)
def test_another_run_is_refused(
    start: Path, data: Path, out: Path, capsys: pytest.CaptureFixture[str], more: list[str], words: list[str]
) -> None:
    line = refused(flags(start, data, out, *RESUME, *more), capsys)
    assert all(word in line for word in [*words, "checkpoint-3"]), line
    assert not (out / "training.json").exists()


def test_other_data_weights_code_or_versions_are_refused(
    start: Path,
    data: Path,
    out: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = write_rows(tmp_path / "data.json", answer="b")
    assert "hash was" in refused(flags(start, other, out, *RESUME), capsys)
    changed = shutil.copytree(start, tmp_path / "changed")
    weights = load_file(changed / "model.safetensors")
    save_file({name: value + 1e-3 for name, value in weights.items()}, changed / "model.safetensors", {"format": "pt"})
    assert "start was" in refused(flags(changed, data, out, *RESUME), capsys)
    real = record.versions()
    monkeypatch.setattr(record, "versions", lambda: {**real, "torch": "0.1"})
    assert f"torch was '{real['torch']}' and is '0.1'" in refused(flags(start, data, out, *RESUME), capsys)
    monkeypatch.setattr(record, "versions", lambda: real)
    monkeypatch.setattr(record, "code_hash", lambda: "other")
    assert "code was" in refused(flags(start, data, out, *RESUME), capsys)


def test_what_decides_nothing_may_change(start: Path, data: Path, finished: Path, out: Path, tmp_path: Path) -> None:
    moved = [shutil.copytree(start, tmp_path / "moved"), shutil.copy(data, tmp_path / "data.json")]
    out.rename(tmp_path / "elsewhere")
    more = ["--save_steps", "3", "--logging_steps", "1", "--dataloader_num_workers", "1"]
    assert run.main(flags(*moved, tmp_path / "elsewhere", *RESUME, *more)) == 0
    weights = (tmp_path / "elsewhere" / "model.safetensors").read_bytes()
    assert weights == (finished / "model.safetensors").read_bytes()


def test_a_steady_rate_may_have_more_steps(start: Path, data: Path, tmp_path: Path) -> None:
    steady = ["--lr_scheduler_type", "constant"]
    assert run.main(flags(start, data, tmp_path / "whole", *steady, "--max_steps", "5")) == 0
    assert run.main(flags(start, data, tmp_path / "longer", *steady, "--max_steps", "2")) == 0
    assert run.main(flags(start, data, tmp_path / "longer", *steady, *RESUME, "--max_steps", "5")) == 0
    whole, longer = (tmp_path / name / "model.safetensors" for name in ("whole", "longer"))
    assert whole.read_bytes() == longer.read_bytes()


@pytest.mark.parametrize("length", [["--max_steps", "4"], ["--max_steps", "-1", "--num_train_epochs", "1.5"]])
def test_no_step_after_the_last(start: Path, data: Path, tmp_path: Path, length: list[str]) -> None:
    assert run.main(flags(start, data, tmp_path / "a", *length)) == 0
    before = (tmp_path / "a" / "model.safetensors").read_bytes()
    last = max(int(path.name.partition("-")[2]) for path in (tmp_path / "a").glob("checkpoint-*"))
    assert run.main(flags(start, data, tmp_path / "a", *length, *RESUME)) == 0
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == before
    assert not (tmp_path / "a" / f"checkpoint-{last + 1}").exists()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _zero(path: Path) -> None:
    """As a file system that lost power leaves it: the length is there, the content is not."""
    path.write_bytes(bytes(path.stat().st_size))


WEIGHTS_AND_STATE = ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"]
PARTS = [*WEIGHTS_AND_STATE, "trainer_state.json", "training.json", "config.json"]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("spoil", [Path.unlink, _cut, _empty, _zero], ids=["gone", "cut", "empty", "zero"])
def test_a_checkpoint_that_is_not_whole_is_named(
    start: Path, data: Path, out: Path, capsys: pytest.CaptureFixture[str], part: str, spoil: Callable[[Path], None]
) -> None:
    spoil(out / "checkpoint-3" / part)
    line = refused(flags(start, data, out, "--resume_from_checkpoint", str(out / "checkpoint-3")), capsys)
    assert f"no whole checkpoint in {out / 'checkpoint-3'}: {part} is " in line


def test_the_last_whole_one_is_used(
    start: Path, data: Path, finished: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _cut(out / "checkpoint-3" / "optimizer.pt")
    (out / "checkpoint-2" / "scheduler.pt").unlink()
    assert run.main(flags(start, data, out, *RESUME)) == 0
    said = capsys.readouterr().err
    assert said.count("checkpoint-3: not whole") == 1 and "optimizer.pt" in said
    assert "checkpoint-2: not whole" in said and "scheduler.pt is missing" in said
    assert (out / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()


def test_no_whole_one_is_refused(start: Path, data: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (1, 2, 3):
        _empty(out / f"checkpoint-{step}" / "optimizer.pt")
    assert f"no whole checkpoint in {out}" in refused(flags(start, data, out, *RESUME), capsys)


def test_a_checkpoint_without_its_optimizer_on_purpose(
    start: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = flags(start, data, tmp_path, "--save_only_model", "true")
    assert run.main(argv) == 0
    last = tmp_path / "checkpoint-4"
    assert "save_only_model" in refused([*argv, "--resume_from_checkpoint", str(last)], capsys)


def test_a_folder_in_use_is_refused(
    start: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "LOCK_SECONDS", 0.2)
    argv = flags(start, data, tmp_path)
    with disk.locked(tmp_path, "x"):
        line = refused(argv, capsys)
    assert f"{tmp_path}: another training is writing here" in line
    assert not list(tmp_path.glob("checkpoint-*"))
    assert run.main(argv) == 0


def full(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(("number", "words"), [(errno.ENOSPC, "no space"), (errno.EROFS, "Read-only file system")])
@pytest.mark.parametrize("place", ["torch.save", "trainer_state", "record"])
def test_a_disk_that_takes_no_more(
    start: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    words: str,
    place: str,
) -> None:
    """The checkpoint of step 2 finds no room: half of a file is written."""

    def spoilt(real: Callable) -> Callable:
        def save(*args: object, **more: object) -> object:
            if (tmp_path / "checkpoint-1").exists():
                raise full(number)
            return real(*args, **more)

        return save

    if place == "torch.save":
        monkeypatch.setattr(torch, "save", spoilt(torch.save))
    elif place == "record":
        monkeypatch.setattr("mmi_plugin.trainers.trainer.seal", spoilt(seal))
    else:
        owner = sys.modules["transformers.trainer"].TrainerState
        monkeypatch.setattr(owner, "save_to_json", spoilt(owner.save_to_json))
    assert run.main(flags(start, data, tmp_path)) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: {tmp_path}: checkpoint-2 cannot be written: ") and words in line
    assert f"the last checkpoint is {tmp_path / 'checkpoint-1'}" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "README.md", "checkpoint-1"]


def test_a_disk_that_is_full_at_the_end(
    start: Path, data: Path, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights of an earlier run stay, or there are none: never half of them."""
    (out / "model.safetensors").write_bytes(b"old")
    real = Trainer.save_model

    def torn(self: Trainer, folder: str, **more: object) -> None:
        real(self, folder, **more)
        if Path(folder).name == run.TRAINED:
            _cut(Path(folder) / "model.safetensors")
            raise full(errno.ENOSPC)

    monkeypatch.setattr(Trainer, "save_model", torn)
    assert run.main(flags(start, data, out, *RESUME)) == 1
    assert "the trained model cannot be written: no space" in capsys.readouterr().err.splitlines()[-1]
    assert (out / "model.safetensors").read_bytes() == b"old" and not (out / run.TRAINED).exists()


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_a_run_that_is_stopped_says_what_it_saved(
    start: Path, data: Path, finished: Path, tmp_path: Path, number: signal.Signals, name: str
) -> None:
    argv = flags(start, data, tmp_path, "--max_steps", "100000", "--lr_scheduler_type", "constant")
    command = [sys.executable, str(ROOT / "trainers" / "train.py"), *argv, "--save_total_limit", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        command,
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # a shell lets what runs behind it ignore Ctrl-C
    )
    until = time.monotonic() + 100
    while not any(tmp_path.glob("checkpoint-*")) and time.monotonic() < until:  # only the last two are kept
        time.sleep(0.05)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number
    assert "Traceback" not in said
    last = max(tmp_path.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    assert said.splitlines()[-1].startswith(f"error: stopped by {name}; the last checkpoint is {last}: ")
