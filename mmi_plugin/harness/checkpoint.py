"""Load a checkpoint of any transformers image-text-to-text model, or say in one line why not."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError, safe_open

from mmi_plugin.errors import InputError


def stamp(pretrained: str, revision: str | None = None) -> str:
    """Return a short name that changes when a local checkpoint does, or the cached commit of a hub id."""
    path = Path(pretrained)
    parts = [pretrained]
    if path.exists():
        files = sorted(file for file in [path, *path.rglob("*")] if file.is_file())
        parts += [f"{file.name}:{file.stat().st_size}:{file.stat().st_mtime_ns}" for file in files]
    else:
        with suppress(HFValidationError):  # no hub id either
            parts.append(str(try_to_load_from_cache(pretrained, "config.json", revision=revision)))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def check_folder(folder: Path) -> None:
    """Raise InputError that names the file when a local checkpoint is incomplete or corrupt.

    Reads only the heads of the weight files, so it takes no time for any size.
    """
    config = folder / "config.json"
    if not config.is_file():
        raise InputError(f"{config}: missing, so this is no checkpoint folder")
    _read_json(config)
    index = folder / "model.safetensors.index.json"
    shards = _read_json(index).get("weight_map", {}).values() if index.is_file() else ["model.safetensors"]
    for name in sorted(set(shards)):
        _check_weights(folder / name)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: not a JSON object")
    return value


def _check_weights(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"{path}: missing")
    try:
        with safe_open(path, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from error


def load_processor(pretrained: str, revision: str, trust_remote_code: bool) -> Any:
    """Return the processor, padding on the left. Raises InputError when it cannot be used."""
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(pretrained, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"{pretrained}: the processor does not load: {_first_line(error)}") from error
    if not getattr(processor, "image_processor", None):
        raise InputError(f"{pretrained}: its processor takes no images")
    processor.tokenizer.padding_side = "left"
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    return processor


def load_model(pretrained: str, **options: Any) -> Any:
    """Return the model in evaluation mode. `options` go to `from_pretrained`.

    Raises InputError when it does not load, or when a weight of the architecture is missing, which
    transformers would fill with random numbers.
    """
    from transformers import AutoModelForImageTextToText

    if Path(pretrained).exists():
        check_folder(Path(pretrained))
    elif pretrained.startswith((".", "/", "~")) or pretrained.count("/") > 1:
        raise InputError(f"{pretrained}: no such checkpoint folder")
    try:
        model, info = AutoModelForImageTextToText.from_pretrained(
            pretrained, use_safetensors=True, output_loading_info=True, **options
        )
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise InputError(f"{pretrained}: the model does not load: {_first_line(error)}") from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise InputError(f"{pretrained}: {len(missing)} weights are missing, the first is {missing[0]}")
    return model.eval()


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
