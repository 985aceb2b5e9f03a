"""lmms-eval's question for further models in, the manifest of `mmi_hf` out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest


def manifests() -> list[ModelManifest]:
    """Return our harness models: what the entry point `lmms_eval.models` asks for at every start of lmms-eval."""
    from lmms_eval.models.registry_v2 import ModelManifest  # which asks for this function when it is imported first

    return [ModelManifest("mmi_hf", chat_class_path="mmi_plugin.harness.model.MmiHf")]
