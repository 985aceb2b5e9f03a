"""Each distinct image of a batch goes through the vision encoder once; the encoder can be frozen."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from mmi_plugin.errors import InputError


def check_support(base: PreTrainedModel) -> None:
    """Raise an InputError if the model cannot take features of images encoded beforehand."""
    if "mm_encoder_outputs" not in inspect.signature(base.base_model.forward).parameters:
        raise InputError(f"{type(base).__name__} is not supported: its forward lacks 'mm_encoder_outputs'")


def freeze_vision(base: PreTrainedModel) -> None:
    """Stop the vision encoder from learning; the projector goes on.

    Raises:
        InputError: the model has no vision encoder.
    """
    encoder = base.get_encoder(modality="image")
    if encoder in (base, base.base_model):
        raise InputError(f"field 'freeze_vision': no vision encoder found in {type(base).__name__}")
    encoder.requires_grad_(False)


@contextmanager
def shared_images(base: PreTrainedModel, image_index: torch.Tensor | None, names: list[str]) -> Iterator[None]:
    """Within, the model takes one entry per distinct image and uses it for every row that shows it.

    image_index: (images shown, row by row,) int64; None where no row has an image. names: the model's
    image arguments, `pixel_values` and the like.
    """
    if image_index is None:
        yield
        return

    def hook(module: nn.Module, args: tuple[Any, ...], call: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        images = {name: call[name] for name in names}
        encoded = module.get_image_features(**images, return_dict=True)
        encoded.pooler_output = [encoded.pooler_output[i] for i in image_index.tolist()]
        repeated = {name: value[image_index] for name, value in images.items() if name != "pixel_values"}
        return args, {**call, **repeated, "pixel_values": None, "mm_encoder_outputs": {"image": encoded}}

    handle = base.base_model.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
