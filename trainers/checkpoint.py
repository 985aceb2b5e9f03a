"""The checkpoint that a run starts from, complete or an error."""

from __future__ import annotations

import json

import torch
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin
from transformers.utils import logging

from mmi_plugin.errors import InputError
from mmi_plugin.trainers.config import MMIConfig
from mmi_plugin.trainers.families import family_of

UNREADABLE = (OSError, ValueError, KeyError, RuntimeError, SafetensorError, json.JSONDecodeError)


def load_checkpoint(args: MMIConfig) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Return model (fp32 unless `model_init_kwargs` says otherwise) and processor of `model_name_or_path`.

    Raises:
        InputError: missing, corrupt or inincomplete, or not supported.
    """
    name = args.model_name_or_path
    where = f"field 'model_name_or_path' {name!r}"
    if not name:
        raise InputError("field 'model_name_or_path' is missing")
    kwargs = {"dtype": torch.float32, **(args.model_init_kwargs or {}), "trust_remote_code": args.trust_remote_code}
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
