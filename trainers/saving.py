"""A checkpoint in, what a run leaves out: loading, adapters, final weights; a stop at a loss that is no number."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from peft import LoraConfig, PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import PreTrainedModel, ProcessorMixin
from transformers.integrations.deepspeed import (
    deepspeed_config,
    is_deepspeed_zero3_enabled,
    unset_hf_deepspeed_config,
)

from mmi_plugin.errors import InputError
from mmi_plugin.files import read_mapping
from mmi_plugin.models.families import prompts_of
from mmi_plugin.models.load import (
    ADAPTER_WEIGHTS,
    ADAPTERS,
    base_of,
    check_adapters,
    load_model,
    load_processor,
    with_adapters,
)
from mmi_plugin.trainers.compat import WholeCheckpoints
from mmi_plugin.trainers.config import MMIConfig

GATHER = "stage3_gather_16bit_weights_on_model_save"
PARTS = ("loss_sft", "loss_adv", "loss_consistency")
NAMED = 8  # items that an error lists
TRAINED, FINISHED = ".trained", ".finished"  # what is not in its place yet


def load_checkpoint(args: MMIConfig, name: str | None = None) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Return model (fp32 unless `model_init_kwargs` says otherwise) and processor of `name` or `model_name_or_path`.

    Adapters are merged into their base, but for a run that goes on with them: it gets the base, see `adapters_of`.

    Raises:
        InputError: missing, corrupt or incomplete, or not supported; ZeRO-3 that would not save the model.
    """
    going_on = name is None and adapters_of(args) is not None
    name = name or args.model_name_or_path
    if not name:
        raise InputError("field 'model_name_or_path' is missing")
    kwargs = {"dtype": torch.float32, **(args.model_init_kwargs or {}), "trust_remote_code": args.trust_remote_code}
    if is_deepspeed_zero3_enabled():
        _join_processes(args)
    try:
        processor = load_processor(name, trust_remote_code=args.trust_remote_code, **(args.processor_kwargs or {}))
        prompts_of(processor, args.system_prompt, args.chat_template_kwargs)
        base = base_of(name)
        model = load_model(name if base is None else base, **kwargs)
        if base is not None and not going_on:
            model = with_adapters(model, name).merge_and_unload().requires_grad_(True)  # peft froze it
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
        start = dict(load_checkpoint(args, args.model_name_or_path)[0].named_parameters())
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight.lerp_(start[name], args.base_share)
    return model


def move(folder: Path, out: Path) -> None:
    """Move all files of a folder into another one, the weights last."""
    for path in sorted(folder.iterdir(), key=lambda path: path.suffix == ".safetensors"):
        path.replace(out / path.name)


def lora_of(args: MMIConfig, base: PreTrainedModel) -> LoraConfig | None:
    """Return the LoRA of a run, if it has one: on `lora_targets` of the decoder alone.

    Raises:
        InputError: the decoder has none of them.
    """
    if not args.lora_r:
        return None
    decoder = base.get_decoder()
    inside = set(decoder.modules())
    targets = [
        name for name, module in base.named_modules() if module in inside and name.rsplit(".")[-1] in args.lora_targets
    ]
    if not targets:
        raise InputError(
            f"field 'lora_targets': the decoder {type(decoder).__name__} has no module {args.lora_targets}"
        )
    return LoraConfig(r=args.lora_r, lora_alpha=args.lora_alpha, lora_dropout=args.lora_dropout, target_modules=targets)


def adapters_of(args: MMIConfig) -> dict[str, Any] | None:
    """Return the config of the adapters that a run goes on with: those of `model_name_or_path`, where it has LoRA.

    Raises:
        InputError: the run's LoRA is another one.
    """
    if not args.lora_r or not args.model_name_or_path or base_of(args.model_name_or_path) is None:
        return None
    config = read_mapping(Path(args.model_name_or_path) / ADAPTERS, "a config of adapters")
    for name, theirs in (("lora_r", "r"), ("lora_alpha", "lora_alpha")):
        if getattr(args, name) != config.get(theirs):
            given = getattr(args, name)
            raise InputError(f"field {name!r} is {given}, and {config.get(theirs)} in {args.model_name_or_path}")
    return config


def go_on_with_adapters(args: MMIConfig, model: PeftModel) -> None:
    """Let the adapters of a new run begin as those of `model_name_or_path` end, if it has some and the run, too.

    Raises:
        InputError: they are on other modules.
    """
    if adapters_of(args) is None:
        return
    check_adapters(model, str(args.model_name_or_path))
    set_peft_model_state_dict(model, load_file(Path(str(args.model_name_or_path)) / ADAPTER_WEIGHTS))


def _join_processes(args: MMIConfig) -> None:
    """Let DeepSpeed know the processes, between which ZeRO-3 shards the model as it is loaded."""
    from deepspeed import comm  # optional, and slow to import

    if not deepspeed_config()["zero_optimization"].get(GATHER):
        raise InputError(f"DeepSpeed: {GATHER!r} is not true, so the trained model could not be saved")
    if args.device.type == "cpu" and not comm.is_initialized():  # accelerate does it where there is a GPU
        comm.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)


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

    sums: (3,), the parts. losses, rows: (N,), the loss of each answer token and its clean row in the batch.
    items: B, the item of each row; named are those of rows whose own loss is not finite, or else, where only their
    comparison is not, all of them. step: counted from 1. to: what reaches the other processes.
    """
    wrong = to.gather(~sums.detach().isfinite()[None]).any(0)
    if not wrong.any():
        return
    own = list(dict.fromkeys(items[row] for row in rows[~losses.isfinite()].tolist()))
    if not own and not sums.isfinite().all():
        own = list(dict.fromkeys(items))
    named = gather_object(own)
    raise NonFiniteLoss(step, [part for part, bad in zip(PARTS, wrong.tolist(), strict=True) if bad], named)


def save_state(trainer: WholeCheckpoints, error: NonFiniteLoss) -> Path:
    """Save the state before the step of `error`, with what it says; return the folder."""
    folder = trainer.save_checkpoint()
    if trainer.args.should_save:
        (folder / "nonfinite.json").write_text(json.dumps(error.facts, indent=2) + "\n", encoding="utf-8")
    return folder
