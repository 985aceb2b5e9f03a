"""The name of a checkpoint in, its processor, model or fingerprint out, or one line that says why not."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    ProcessorMixin,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.utils import logging

from mmi_plugin.disk import sampled_hash
from mmi_plugin.errors import InputError, nearest
from mmi_plugin.files import json_hash, parse_json, read_text
from mmi_plugin.models.compat import image_settings

ADAPTERS, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PICKLED = ("pytorch_model*.bin", "adapter_model.bin")
ZERO = ("*_optim_states.pt", "*_model_states.pt")  # of DeepSpeed, a file of each kind per process
UNREADABLE = (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError)


def stamp(pretrained: str, revision: str | None = None) -> str:
    """Return a short name that changes when a local checkpoint does, or the cached commit of a hub id."""
    path = Path(pretrained)
    parts = [pretrained]
    if (base := base_of(pretrained)) is not None:
        parts.append(stamp(base))
    if path.exists():
        files = sorted(file for file in [path, *path.rglob("*")] if file.is_file())
        parts += [f"{file.name}:{file.stat().st_size}:{file.stat().st_mtime_ns}" for file in files]
    else:
        with suppress(HFValidationError):  # no hub id either
            parts.append(str(try_to_load_from_cache(pretrained, "config.json", revision=revision)))
    return _hash(parts)


def weights_hash(name: str) -> str:
    """Return a hash of the weights of a local checkpoint, wherever it lies, or the cached commit of a hub id.

    Adapters are hashed with their base.
    """
    base, files = base_of(name), sorted(Path(name).glob("*.safetensors"))
    under = [] if base is None else [weights_hash(base)]
    return _hash([*under, *([file.name, sampled_hash(file)] for file in files)]) if files else stamp(name)


def base_of(name: str) -> str | None:
    """Return the checkpoint that a local folder's adapters belong to; None where it has none.

    Raises InputError when its adapter_config.json cannot be read or names no checkpoint.
    """
    config = Path(name) / ADAPTERS
    if not config.is_file():
        return None
    base = _read_json(config).get("base_model_name_or_path")
    if not isinstance(base, str) or not base or Path(base).resolve() == Path(name).resolve():
        raise InputError(f"{config}: field 'base_model_name_or_path' is {base!r}, not a checkpoint")
    return base


def check_folder(folder: Path) -> None:
    """Raise InputError that names the file when a local checkpoint is incomplete or corrupt.

    Reads only the heads of the weight files, so it takes no time for any size.
    """
    if base_of(str(folder)) is not None:
        _check_weights(folder / ADAPTER_WEIGHTS)
        return
    config = folder / "config.json"
    if not config.is_file():
        hint = _to_convert(folder)
        raise InputError(f"{config}: missing" + (f"; {hint}" if hint else ", so this is no checkpoint folder"))
    _read_json(config)
    index = folder / "model.safetensors.index.json"
    shards = _read_json(index).get("weight_map", {}).values() if index.is_file() else ["model.safetensors"]
    for name in sorted(set(shards)):
        _check_weights(folder / name)


def _read_json(path: Path) -> dict[str, Any]:
    value = parse_json(read_text(path), str(path))
    if not isinstance(value, dict):
        raise InputError(f"{path}: not a JSON object")
    return value


def _check_weights(path: Path) -> None:
    if not path.is_file():
        hint = _to_convert(path.parent)
        raise InputError(f"{path}: missing" + (f"; {hint}" if hint else ""))
    try:
        with safe_open(path, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from error


def zero_folder(folder: Path) -> Path | None:
    """Return where DeepSpeed's shards lie, in `folder` or in the latest `global_stepN` in it; None without any."""
    steps = {path: path.name.removeprefix("global_step") for path in folder.glob("global_step*") if path.is_dir()}
    latest = sorted((path for path, step in steps.items() if step.isdecimal()), key=lambda path: int(steps[path]))
    places = [folder, *reversed(latest)]
    return next((place for place in places if any(next(place.glob(kind), None) for kind in ZERO)), None)


def _to_convert(folder: Path) -> str:
    """Return what to do about weights that are pickled; empty where there are none."""
    held = zero_folder(folder) or next((file for kind in PICKLED for file in sorted(folder.glob(kind))), None)
    if held is None:
        return ""
    what = "holds DeepSpeed's shards" if held.is_dir() else "is pickled"
    return f"{held} {what}: `mmi convert {folder} OUT` makes safetensors of it"


def load_processor(name: str, revision: str = "main", trust_remote_code: bool = False, **settings: Any) -> Any:
    """Return the processor, padding on the left. `settings` are its own, as `max_pixels`, and go to `from_pretrained`.

    Raises InputError when it cannot be used, or has no such setting.
    """
    if Path(name).is_dir() and not any((Path(name) / file).is_file() for file in _PROCESSORS):
        base = base_of(name)
        if base is None:
            check_folder(Path(name))
            raise InputError(f"{name}: has no processor; copy one there, or give mmi_hf processor=NAME_OR_FOLDER")
        name = base
    with _loading(name, "processor"):
        processor = AutoProcessor.from_pretrained(
            name, revision=revision, trust_remote_code=trust_remote_code, **settings
        )
    if not isinstance(processor, ProcessorMixin) or not getattr(processor, "image_processor", None):
        raise InputError(f"{name}: its processor takes no images")
    _check_settings(name, processor, settings)
    processor.tokenizer.padding_side = "left"
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    return processor


def load_tokenizer(name: str) -> Any:
    """Return the tokenizer of a model for text alone. Raises InputError when it cannot be used."""
    with _loading(name, "tokenizer"):
        return AutoTokenizer.from_pretrained(name)


def takes_images(name: str) -> bool:
    """Whether a checkpoint is of a model for images and text. Raises InputError when its config cannot be read."""
    with _loading(name, "configuration"):
        return type(AutoConfig.from_pretrained(name)) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING


def _check_settings(name: str, processor: Any, settings: Mapping[str, Any]) -> None:
    """Raise InputError for a setting that neither the processor nor its image processor knows.

    transformers drops such a one without a word.
    """
    known = {*inspect.signature(type(processor).__init__).parameters} - {"self", "kwargs"}
    known |= image_settings(processor)
    for setting in settings:
        if setting not in known:
            raise InputError(f"{name}: its processor has no setting {setting!r}: {nearest(setting, known)}")


def load_model(name: str, revision: str = "main", images: bool = True, **options: Any) -> Any:
    """Return the model in evaluation mode, one for images and text or, without `images`, for text alone. `options` go
    to `from_pretrained`. A folder of adapters is its base with them.

    Raises InputError when it does not load, or when a weight of the architecture is missing, which
    transformers would fill with random numbers.
    """
    if (base := base_of(name)) is not None:
        return with_adapters(load_model(base, images=images, **options), name).get_base_model().eval()
    auto = AutoModelForImageTextToText if images else AutoModelForCausalLM
    with _loading(name, "model"):
        model, info = auto.from_pretrained(
            name, revision=revision, use_safetensors=True, output_loading_info=True, **options
        )
    missing = sorted(info["missing_keys"])
    if missing:
        raise InputError(f"{name}: {len(missing)} weights are missing, the first is {missing[0]}")
    return model.eval()


def with_adapters(model: Any, name: str) -> PeftModel:
    """Return `model` with the adapters of a local folder, which do not learn.

    Raises InputError when they do not load, or do not fit the model in every part.
    """
    with _loading(name, "set of adapters"):
        adapted = PeftModel.from_pretrained(model, name)
        check_adapters(adapted, name)
    return adapted


def check_adapters(adapted: PeftModel, name: str) -> None:
    """Raise InputError when a folder has not exactly the adapters of a model."""
    with safe_open(Path(name) / ADAPTER_WEIGHTS, framework="pt") as file:
        other = sorted(set(file.keys()) ^ set(get_peft_model_state_dict(adapted)))
    if other:
        raise InputError(f"{name}: adapters and model do not fit: {len(other)} names, the first is {other[0]}")


@contextmanager
def _loading(name: str, part: str) -> Iterator[None]:
    """Within, transformers loads a part of a checkpoint without warnings: what matters of them is raised.

    Raises InputError for a folder that is not there or holds no whole checkpoint, and for whatever does not load.
    """
    if Path(name).exists():
        if part != "processor" or (Path(name) / "config.json").exists():  # a processor may lie by itself
            check_folder(Path(name))
    elif name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(f"{name}: no such checkpoint folder")
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    except UNREADABLE as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(f"{name}: the {part} does not load: {reason}") from error
    finally:
        logging.set_verbosity(verbosity)


_PROCESSORS = ("processor_config.json", "preprocessor_config.json")


def fingerprint(processor: Any) -> dict[str, str]:
    """Return hashes of what a processor makes of prompts: of its settings, its chat template, its vocabulary.

    Equal for a processor that was saved and loaded again, different for one with another setting that acts.
    """
    own = {key: value for key, value in vars(processor).items() if isinstance(value, str | int | float)}
    images = {key: value for key, value in processor.image_processor.to_dict().items() if key not in _NO_SETTING}
    vocabularies = []
    for part in ("tokenizer", "qformer_tokenizer"):
        if getattr(processor, part, None) is not None:
            state = json.loads(getattr(processor, part).backend_tokenizer.to_str())
            vocabularies.append({key: value for key, value in state.items() if key not in _NO_SETTING})
    return {
        "processor_hash": _hash([{key: value for key, value in own.items() if key not in _NO_SETTING}, images]),
        "template_hash": _hash(getattr(processor, "chat_template", None) or ""),
        "tokenizer_hash": _hash(vocabularies),
    }


_NO_SETTING = {"chat_template", "processor_class", "transformers_version", "_processor_class", "padding", "truncation"}


def _hash(content: Any) -> str:
    return json_hash(content)[:16]
