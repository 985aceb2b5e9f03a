"""Run one command of the demonstration as a user would: output to a log, its progress bar shown."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

_BAR = re.compile(r"(\d+)/(\d+) \[[^\]]*\]")


class CommandFailed(RuntimeError):
    """A command of the demonstration ended with another status than 0."""


def environment(threads: int) -> dict[str, str]:
    """Return the environment of a process that works offline, with so many threads."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def run(command: Sequence[str], log: Path, title: str, threads: int, show: bool) -> None:
    """Run `command` with all output in `log`; with `show`, repeat its progress bar on stderr.

    Raises CommandFailed that names the log and repeats the command's last line.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file, _started(command, environment(threads)) as process:
        assert process.stdout is not None
        for chunk in _pieces(process.stdout):
            file.write(chunk)
            bar = _BAR.search(chunk.decode(errors="replace"))
            if show and bar:
                print(f"\r{title}: {bar.group(0)}\033[K", end="", file=sys.stderr, flush=True)
    if show:
        print("\r\033[K", end="", file=sys.stderr)
    if process.returncode:
        lines = log.read_text(errors="replace").strip().splitlines() or ["no output"]
        raise CommandFailed(f"{title} failed with status {process.returncode}: {lines[-1]} (log: {log})")


def _started(command: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(list(command), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def _pieces(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield what a stream gives, cut at line ends and at the carriage returns of progress bars."""
    held = b""
    while chunk := stream.read1(4096):
        *done, held = re.split(rb"(?<=[\r\n])", held + chunk)
        yield from done
    if held:
        yield held
