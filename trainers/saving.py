"""Checkpoints, whole or not there: where a run starts and what it leaves; a stop at a loss that is no number."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, ProcessorMixin, Trainer
from transformers.integrations.deepspeed import (
    deepspeed_config,
    is_deepspeed_zero3_enabled,
    unset_hf_deepspeed_config,
)
from transformers.trainer_utils import rotate_checkpoints

from mmi_plugin.errors import InputError
from mmi_plugin.models.families import prompts_of
from mmi_plugin.models.load import load_model, load_processor
from mmi_plugin.trainers.config import MMIConfig

GATHER = "stage3_gather_16bit_weights_on_model_save"


def load_checkpoint(args: MMIConfig, name: str | None = None) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Return model (fp32 unless `model_init_kwargs` says otherwise) and processor of `name` or `model_name_or_path`.

    Raises:
        InputError: missing, corrupt or incomplete, or not supported; ZeRO-3 that would not save the model.
    """
    name = name or args.model_name_or_path
    if not name:
        raise InputError("field 'model_name_or_path' is missing")
    kwargs = {"dtype": torch.float32, **(args.model_init_kwargs or {}), "trust_remote_code": args.trust_remote_code}
    if is_deepspeed_zero3_enabled():
        _join_processes(args)
    try:
        processor = load_processor(name, trust_remote_code=args.trust_remote_code, **(args.processor_kwargs or {}))
        prompts_of(processor, args.system_prompt, args.chat_template_kwargs)
        model = load_model(name, **kwargs)
    except InputError as error:
        raise InputError(f"field 'model_name_or_path': {error}") from error
    return model, processor


def finish(args: MMIConfig, trained: Path) -> PreTrainedModel:
    """Return what the run leaves, made from what it saved in `trained`, on the CPU: the run may be sharded.

    Adapters are merged in. Each weight is base_share * start + (1 - base_share) * trained, the
    interpolation of WiSE-FT (arXiv 2109.01903, section 3).
    """
    unset_hf_deepspeed_config()  # or the models loaded here would be sharded, too
    model, _ = load_checkpoint(args, None if args.merge_lora else str(trained))
    if args.merge_lora:
        model = PeftModel.from_pretrained(model, trained).merge_and_unload()
    if args.base_share:
        start = dict(load_checkpoint(args)[0].named_parameters())
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight.lerp_(start[name], args.base_share)
    return model


def _join_processes(args: MMIConfig) -> None:
    """Let DeepSpeed know the processes, between which ZeRO-3 shards the model as it is loaded."""
    from deepspeed import comm  # optional, and slow to import

    if not deepspeed_config()["zero_optimization"].get(GATHER):
        raise InputError(f"DeepSpeed: {GATHER!r} is not true, so the trained model could not be saved")
    if args.device.type == "cpu" and not comm.is_initialized():  # accelerate does it where there is a GPU
        comm.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)


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
