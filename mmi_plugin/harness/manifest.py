"""What the entry point `lmms_eval.models` offers; imported at every start of lmms-eval, so it stays light."""

from __future__ import annotations

from lmms_eval.models.registry_v2 import ModelManifest


def manifests() -> list[ModelManifest]:
    """Return our harness models."""
    return [ModelManifest("mmi_hf", chat_class_path="mmi_plugin.harness.model.MmiHf")]
