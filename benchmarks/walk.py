"""Real runs in, the package files that a reader walks through out: an item to its cell, a group to its step.

    python -m benchmarks.walk

A file counts when a function of it runs (module bodies and what they run do not); a call between files is a pair
of files of which one calls a function of the other, be it through a library. Files are listed in the order of their
first use.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import multiprocessing
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGE = tuple(f"{ROOT / folder}{os.sep}" for folder in ("mmi_plugin", "trainers", "tasks"))


class Walk:
    """What ran while it was on: `files`, and `calls` as (file of the caller, file of the called)."""

    def __init__(self) -> None:
        self.files: dict[str, None] = {}  # in the order of their first use
        self.calls: set[tuple[str | None, str]] = set()
        self._known: dict[str, str | None] = {}
        self._importing = 0  # bodies of modules that run

    def _file(self, frame: FrameType) -> str | None:
        """The package file whose code `frame` runs, relative to the repository; None for a file of others."""
        name = frame.f_code.co_filename
        if name not in self._known:
            self._known[name] = str(Path(name).relative_to(ROOT)) if name.startswith(PACKAGE) else None
        return self._known[name]

    def _profile(self, frame: FrameType, event: str, _: Any) -> None:
        if event not in ("call", "return") or (file := self._file(frame)) is None:
            return
        if frame.f_code.co_name == "<module>":
            self._importing += 1 if event == "call" else -1
        elif event == "call" and not self._importing and frame.f_code.co_flags & inspect.CO_OPTIMIZED:
            self.files.setdefault(file)
            caller = frame.f_back
            while caller and not self._file(caller):
                caller = caller.f_back
            if caller and self._file(caller) != file:
                self.calls.add((self._file(caller), file))

    def start(self) -> None:
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)

    def stop(self) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        self.start()
        try:
            yield
        finally:
            self.stop()

    def show(self, title: str) -> None:
        print(f"\n{title}: {len(self.files)} files, {len(self.calls)} calls between files")
        for file in self.files:
            callers = sum(called == file for _, called in self.calls)
            print(f"  {file}, called from {callers} others")


def item_to_cell(checkpoint: Path, out: Path) -> Walk:
    """One OpenBookQA item under all its conditions, through `lmms_eval` and then `mmi leaderboard --json`."""
    os.environ["MMI_DATA_ROOT"] = str(ROOT / "tests" / "fixtures" / "suite")
    walk = Walk()
    with walk.on():
        from mmi_plugin import cli
        from mmi_plugin.harness.launcher import main

        flags = ["--model", "mmi_hf", "--model_args", f"pretrained={checkpoint}", "--tasks", "mmi_openbookqa"]
        evaluated = main([*flags, "--limit", "1", "--output_path", str(out), "--log_samples"])
        shown = cli.main(["leaderboard", f"Model={out}", "--json", str(out / "board.json")])
    assert evaluated == shown == 0
    return walk


def training(checkpoint: Path, out: Path) -> list[str]:
    """The command line of one step of configs/demo/ours.yaml."""
    run = ["--config", str(ROOT / "configs" / "demo" / "ours.yaml"), "--max_steps", "1", "--use_cpu", "true"]
    return [*run, "--model_name_or_path", str(checkpoint), "--output_dir", str(out), "--report_to", "none"]


def group_to_step(checkpoint: Path, out: Path) -> Walk:
    """The first batch, from the sampler to the end of its optimizer step."""
    from transformers import TrainerCallback

    from mmi_plugin.trainers.run import parse
    from tests.training import trainer

    walk = Walk()

    class Watch(TrainerCallback):
        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            walk.start()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            walk.stop()

    run = trainer(parse(training(checkpoint, out)))
    run.add_callback(Watch())
    run.train()
    return walk


def command_to_checkpoint(checkpoint: Path, out: Path) -> Walk:
    """All of a training: its command line, data, checkpoint, the one step and what is written."""
    walk = Walk()
    with walk.on():
        from mmi_plugin.trainers.run import main

        status = main(training(checkpoint, out))
    assert status == 0
    return walk


def measure(title: str, follow: Callable[[Path, Path], Walk]) -> None:
    from tests import tiny

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        walk = follow(tiny.save_llava(Path(folder) / "model"), Path(folder) / "out")
    walk.show(title)


def main() -> None:
    for follow in (item_to_cell, group_to_step, command_to_checkpoint):
        job = (follow.__name__.replace("_", " ").capitalize(), follow)
        process = multiprocessing.get_context("spawn").Process(target=measure, args=job)  # each with empty caches
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(process.exitcode)


if __name__ == "__main__":
    main()
