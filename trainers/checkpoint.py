"""The checkpoint that a run starts from, complete or an error."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin
from transformers.integrations.deepspeed import (
    deepspeed_config,
    is_deepspeed_zero3_enabled,
    unset_hf_deepspeed_config,
)
from transformers.utils import logging

from mmi_plugin.errors import InputError
from mmi_plugin.trainers.config import MMIConfig
from mmi_plugin.trainers.families import family_of

GATHER = "stage3_gather_16bit_weights_on_model_save"
UNREADABLE = (OSError, ValueError, KeyError, RuntimeError, SafetensorError, json.JSONDecodeError)


def load_checkpoint(args: MMIConfig, name: str | None = None) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Return model (fp32 unless `model_init_kwargs` says otherwise) and processor of `name` or `model_name_or_path`.

    Raises:
        InputError: missing, corrupt or incomplete, or not supported; ZeRO-3 that would not save the model.
    """
    name = name or args.model_name_or_path
    where = f"field 'model_name_or_path' {name!r}"
    if not name:
        raise InputError("field 'model_name_or_path' is missing")
    kwargs = {"dtype": torch.float32, **(args.model_init_kwargs or {}), "trust_remote_code": args.trust_remote_code}
    if is_deepspeed_zero3_enabled():
        _join_processes(args)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what transformers warns of is an error below, in one line
    try:
        processor = AutoProcessor.from_pretrained(
            name, trust_remote_code=args.trust_remote_code, **(args.processor_kwargs or {})
        )
        model, info = AutoModelForImageTextToText.from_pretrained(
            name, use_safetensors=True, output_loading_info=True, **kwargs
        )
    except UNREADABLE as error:
        raise InputError(f"{where} cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    finally:
        logging.set_verbosity(verbosity)
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise InputError(f"{where} lacks {len(missing)} weights, {missing[0]} among them")
    if not isinstance(processor, ProcessorMixin):
        raise InputError(f"{where} has no processor of images and text")
    family_of(processor)
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
