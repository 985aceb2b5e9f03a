"""Checkpoints that are whole or not there, and a stop at the first loss that is no number."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from transformers import Trainer
from transformers.trainer_utils import rotate_checkpoints

PARTS = ("loss_sft", "loss_adv", "loss_consistency")
STAGE = ".saving"
NAMED = 8  # items that an error lists


class NonFiniteLoss(RuntimeError):
    """A part of the loss is NaN or infinite. `facts`: step (from 1), parts, items."""

    def __init__(self, step: int, parts: Sequence[str], items: Sequence[str]) -> None:
        self.facts = {"step": step, "parts": list(parts), "items": list(items)}
        named = ", ".join(items[:NAMED]) + (f" and {len(items) - NAMED} more" if len(items) > NAMED else "")
        super().__init__(f"step {step}: {' and '.join(parts)} not finite; items: {named}")


def check_finite(
    sums: torch.Tensor, losses: torch.Tensor, rows: torch.Tensor, items: Sequence[str], step: int, to: Accelerator
) -> None:
    """Raise NonFiniteLoss in every process if a part of the loss is not finite in any of them.

    sums: (3,), the parts. losses, rows: (N,), the loss of each answer token and its row in the batch.
    items: the item of each row. The items named are those of rows whose own loss is not finite, or
    else, where only their comparison is not, all of them.
    """
    wrong = to.gather(~sums.detach().isfinite()[None]).any(0)
    if not wrong.any():
        return
    own = list(dict.fromkeys(items[row] for row in rows[~losses.isfinite()].tolist()))
    if not own and not sums.isfinite().all():
        own = list(dict.fromkeys(items))
    named = gather_object(own)
    raise NonFiniteLoss(step, [part for part, bad in zip(PARTS, wrong.tolist(), strict=True) if bad], named)


class WholeCheckpoints(Trainer):
    """Trainer that writes a checkpoint beside its place and moves it there when all of it is written."""

    _staging = False

    def save_state_of(self, error: NonFiniteLoss) -> Path:
        """Save the state before the step of `error`, with what it says; return the folder."""
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if not folder.is_dir():
            self._save_checkpoint(self.model_wrapped, None)
        if self.args.should_save:
            (folder / "nonfinite.json").write_text(json.dumps(error.facts, indent=2) + "\n", encoding="utf-8")
        return folder

    def _get_output_dir(self, trial: Any) -> str:
        folder = super()._get_output_dir(trial)
        return str(Path(folder) / STAGE) if self._staging else folder

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        home = Path(self._get_output_dir(trial))
        if self.args.should_save:
            shutil.rmtree(home / STAGE, ignore_errors=True)  # what a killed run left
        self.accelerator.wait_for_everyone()
        self._staging = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._staging = False
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            name = f"checkpoint-{self.state.global_step}"
            shutil.rmtree(home / name, ignore_errors=True)
            (home / STAGE / name).rename(home / name)
            shutil.rmtree(home / STAGE)
            rotate_checkpoints(str(home), self.args.save_total_limit, use_mtime=True)
        self.accelerator.wait_for_everyone()
