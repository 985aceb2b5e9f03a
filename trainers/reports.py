"""Places that logs go to in, an error in one line out where this machine cannot log there."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from transformers.integrations import get_reporting_integration_callbacks

from mmi_plugin.errors import InputError


def check_reports(names: Sequence[str]) -> None:
    """Raise InputError for a place of logs that is unknown, whose package is missing or that knows no user: the
    trainer would stop at it when the model is loaded and the data checked."""
    try:
        for callback in get_reporting_integration_callbacks(names):
            callback()
    except (ValueError, RuntimeError, ImportError) as error:
        raise InputError(f"field 'report_to': {' '.join(str(error).split())}") from error
    if "wandb" in names:
        wandb = import_module("wandb")
        if wandb.setup().settings.mode == "online" and not wandb.api.api_key:
            raise InputError("field 'report_to': wandb knows no user: `wandb login` first, or WANDB_MODE=offline")
