"""Runs that are ended at random moments and gone on with: python -m tests.campaign_runs KIND FOLDER.

Each run is a fork of this process, which has imported everything and computed nothing. Prints one line of JSON for
each run that was ended: where it is, how it ended, what it said, and how it was gone on with.
"""

from __future__ import annotations

import json
import os
import random
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lmms_eval.__main__  # noqa: F401  (so that no run imports it)
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from mmi_plugin.harness import launcher
from mmi_plugin.trainers import run
from mmi_plugin.trainers.resume import flaw
from tests.harness_runs import OUR_MODEL, arguments
from tests.launches import write_data

BASE = Path(__file__).parents[1] / "mmi_plugin" / "studies" / "base"
ENDS = {
    "evaluations": {"moment": 8, "change": 9, "write": 7, "SIGTERM": 3, "SIGINT": 3},
    "trainings": {"moment": 4, "change": 5, "write": 3, "SIGTERM": 2, "SIGINT": 1},
}
"""How many runs are ended how: by SIGKILL at a moment; by SIGKILL as they open, move or remove a file; in the middle
of a write; by a signal that they can answer."""
CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree"}
MOST = 12  # tries to end one run: it may be done before its moment comes


def evaluation(out: Path, number: int) -> list[str]:
    """Every other one with batches of another size, and with other items."""
    flags = ("--batch_size", "4" if number % 2 else "16", "--gen_kwargs", "max_new_tokens=4")
    return [*OUR_MODEL, *arguments(BASE, "mmi_demo*", out, *flags, limit=(40, 24)[number % 2])]


def training(out: Path, number: int) -> list[str]:
    """By turns with a rate that stays and one that falls, of all weights and of adapters."""
    data = out.parent / "data" / "data.json"
    if not data.exists():
        data.parent.mkdir()
        write_data(data.parent)
    places = ["--model_name_or_path", str(BASE), "--output_dir", str(out), "--train_file", str(data)]
    fixed = "--mix 1 1 2 --per_device_train_batch_size 4 --use_cpu true --report_to none --disable_tqdm true"
    steps = f"--max_steps 6 --learning_rate 1e-3 --lr_scheduler_type {('constant', 'cosine')[number % 2]}"
    saves = "--save_strategy steps --save_steps 2 --save_total_limit 2 --adversary pgd --step_size 0.03 --eps 0.1"
    adapters = "--lora_r 4 --lora_dropout 0.1" if number % 4 > 1 else ""
    return [*places, *f"{fixed} {steps} {saves} {adapters}".split()]


@dataclass(frozen=True)
class Kind:
    """What is run: the command of run `number`, of which there are `variants`; and how it is gone on with."""

    main: Callable[[list[str]], int]
    command: Callable[[Path, int], list[str]]
    variants: int
    again: list[str]
    anew: str
    """What says that there is nothing to go on from, so that the command is to be given as it was."""


KINDS = {
    "evaluations": Kind(launcher.main, evaluation, 2, ["--resume"], "starts anew"),
    "trainings": Kind(run.main, training, 4, ["--resume_from_checkpoint", "true"], "no checkpoint in"),
}


def watch(folder: Path, act: Callable[[str, str], Any]) -> None:
    """Call `act` with event and path before each change below `folder` by Python's own functions: not by libraries'."""

    def hook(event: str, args: tuple[Any, ...]) -> None:
        opened = event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR)
        if (opened or event in CHANGES) and str(args[0]).startswith(str(folder)):
            act(event, str(args[0]).removeprefix(str(folder)))

    sys.addaudithook(hook)


def at(number: int, act: Callable[[], Any]) -> Callable[[str, str], None]:
    calls = iter(range(10**9))
    return lambda *_: act() if next(calls) == number else None


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fill(room: int) -> None:
    """From now on the system ends the process in the middle of the write that makes a file longer than `room`."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))


def start(kind: Kind, command: list[str], said: Path, arm: Callable[[], None] = lambda: None) -> int:
    """Start a command in a fork; return its process. What it says goes to a file."""
    child = os.fork()
    if child:
        return child
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    file = os.open(said, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    arm()
    status = 70  # no status of ours
    try:
        status = kind.main(command)
    finally:
        sys.stdout.flush()
        os._exit(status)


def wait(child: int) -> int:
    """Return the status of a process, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def finish(kind: Kind, command: list[str], said: Path) -> tuple[int, str]:
    """Go on with a command, or begin it anew where it left nothing; return its status and all that was said."""
    status = wait(start(kind, [*command, *kind.again], said))
    text = said.read_text()
    if status == 2 and kind.anew in text:
        status = wait(start(kind, command, said))
        text += said.read_text()
    return status, text


@dataclass(frozen=True)
class Course:
    """What a run does that is not ended: its first change to its folder and its end in seconds, the number of each
    kind of change where that comes first, the sizes of the files that it leaves."""

    begins: float
    ends: float
    changes: list[int]
    sizes: list[int]


def measured(kind: Kind, command: list[str], out: Path) -> Course:
    """Run a command to its end. Raises RuntimeError with what it says when it fails."""
    log, said, begun = out.with_suffix(".log"), out.with_suffix(".said"), time.monotonic()

    def arm() -> None:
        file = os.open(log, os.O_CREAT | os.O_WRONLY)
        line = "{:.3f} {} {}\n".format
        watch(out, lambda event, path: os.write(file, line(time.monotonic() - begun, event, path).encode()))

    if wait(start(kind, command, said, arm)):
        raise RuntimeError(said.read_text()[-3000:])
    ends, lines = time.monotonic() - begun, log.read_text().splitlines()
    first: dict[str, int] = {}
    for number, line in enumerate(lines):
        first.setdefault(re.sub(r"unfinished-\w+", "", line.partition(" ")[2]), number)
    sizes = [path.stat().st_size for path in out.rglob("*") if path.is_file()]
    return Course(float(lines[0].split()[0]), ends, list(first.values()), sizes)


def end(
    kind: Kind, how: str, command: list[str], out: Path, said: Path, draw: random.Random, course: Course
) -> tuple[int, str]:
    """Run a command until it is ended; return its status or minus its signal, and where that was."""
    change, room = draw.choice(course.changes), int(draw.choice(course.sizes) * draw.random())
    moment = draw.uniform(course.begins, course.ends)
    if how in ("moment", "SIGTERM", "SIGINT"):
        child = start(kind, command, said)
        time.sleep(moment)
        os.kill(child, signal.SIGKILL if how == "moment" else signal.Signals[how])
        return wait(child), f"{moment:.2f} of {course.ends:.2f} s"
    act = die if how == "change" else partial(fill, room)
    where = f"change {change} of {course.changes[-1]}" + (f", byte {room}" if how == "write" else "")
    return wait(start(kind, command, said, lambda: watch(out, at(change, act)))), where


def torn(out: Path) -> list[str]:
    """Return what stands below `out` under the name of a whole thing and is none."""
    results = [path for path in out.glob("*/*_results.json") if not is_json(path.read_text())]
    samples = [path for path in out.glob("*/*_samples_*") if not all(map(is_json, path.read_text().splitlines()))]
    checkpoints = [folder for folder in out.glob("checkpoint-*") if flaw(folder) is not None]
    weights = [path for path in out.glob("*.safetensors") if not is_safetensors(path)]
    return [str(path) for path in (*results, *samples, *checkpoints, *weights)]


def is_json(text: str) -> bool:
    try:
        return bool(json.loads(text))
    except ValueError:
        return False


def is_safetensors(path: Path) -> bool:
    try:
        return bool(load_file(path))
    except SafetensorError:
        return False


def campaign(name: str, folder: Path, seed: int = 0) -> Iterator[dict[str, Any]]:
    kind = KINDS[name]
    whole = [folder / f"whole{number}" for number in range(kind.variants)]
    courses = [measured(kind, kind.command(out, number), out) for number, out in enumerate(whole)]
    hows = [how for how, count in ENDS[name].items() for _ in range(count)]
    random.Random(seed).shuffle(hows)
    for number, how in enumerate(hows):
        draw = random.Random(f"{seed} {number}")
        for attempt in range(MOST):
            out = folder / f"{number}-{attempt}"
            command, said = kind.command(out, number), out.with_suffix(".said")
            status, where = end(kind, how, command, out, said, draw, courses[number % kind.variants])
            if status:
                break
        ended, left = said.read_text(), torn(out)
        again, text = finish(kind, command, said)
        found = {"out": str(out), "whole": str(whole[number % kind.variants]), "how": how}
        yield found | {"where": where, "status": status, "said": ended, "torn": left, "again": again, "then": text}


if __name__ == "__main__":
    for line in campaign(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:])):
        print(json.dumps(line), flush=True)
