"""The checkpoint that a run starts from, complete or an error."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedModel, ProcessorMixin
from transformers.integrations.deepspeed import (
    deepspeed_config,
    is_deepspeed_zero3_enabled,
    unset_hf_deepspeed_config,
)

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
