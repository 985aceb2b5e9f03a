"""Runs of the trainer that kill themselves: python kill_runs.py CHECKPOINT FOLDER DATA.

Each run is a fork of this process, which has imported everything and computed nothing. Prints one
line of JSON: name of the run -> whether it died by SIGKILL.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer

from mmi_plugin.trainers import run
from mmi_plugin.trainers.trainer import MMITrainer
from tests import training


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(owner: Any, name: str, number: int) -> Callable[[], None]:
    """Return what makes the process die as `owner.name` is called for the `number`-th time."""

    def arm() -> None:
        real, calls = getattr(owner, name), []

        def counted(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return die() if len(calls) == number else real(*args, **kwargs)

        setattr(owner, name, counted)

    return arm


# Five steps, a checkpoint after each second one: killed in a step, and at every stage of a save.
POINTS: dict[str, Callable[[], None]] = {
    "in-step-4": at_call(MMITrainer, "compute_loss", 7),
    "weights-written": at_call(Trainer, "_save_optimizer_and_scheduler", 2),
    "optimizer-written": at_call(Trainer, "_save_rng_state", 2),
    "before-the-move": at_call(Path, "rename", 2),
    "before-the-rotation": at_call(MMITrainer, "rotate", 2),
}


def in_child(work: Callable[[], Any]) -> bool:
    """Run `work` in a fork; return whether that was killed. Raises RuntimeError when it fails otherwise."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True
    if status:
        raise RuntimeError(f"the run failed: {status}")
    return False


def main(checkpoint: Path, folder: Path, data: str) -> dict[str, bool]:
    fields = {**training.OURS, "sources": None, "train_file": data, "mix": [0, 1, 0], "max_steps": 5}
    fields |= {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "lora_dropout": 0.0}
    fields |= {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 1, "learning_rate": 1e-2}

    def train(name: str, arm: Callable[[], None] | None, **more: Any) -> bool:
        def work() -> None:
            torch.set_num_threads(1)
            args = training.config(checkpoint, folder / name, **fields, **more)
            if arm:
                arm()
            run.train(args)

        return in_child(work)

    killed = {"whole": train("whole", None)}
    for name, arm in POINTS.items():
        killed[name] = train(name, arm)
        shutil.copytree(folder / name, folder / f"{name}-as-left")
        train(name, None, resume_from_checkpoint="true")
    return killed


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])))
