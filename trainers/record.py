"""A run in, what it leaves of itself out: the record that a resumed run is compared with, and the model card."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCardData, metadata_load, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import PreTrainedModel, ProcessorMixin

from mmi_plugin.errors import BadRows
from mmi_plugin.files import versions
from mmi_plugin.models.load import base_of, fingerprint, weights_hash
from mmi_plugin.sources import SOURCES, Benchmark
from mmi_plugin.trainers.config import OWN_FIELDS, MMIConfig
from mmi_plugin.trainers.data import data_hash
from mmi_plugin.trainers.meter import RATES
from mmi_plugin.trainers.resume import code_hash

CITATION = """@misc{modality-interference,
  author        = {Rui Cai and Bangzheng Li and Xiaofei Wen and Muhao Chen and Zhe Zhao},
  title         = {Diagnosing and Mitigating Modality Interference in Multimodal Large Language Models},
  year          = {2025},
  eprint        = {2505.19616},
  archivePrefix = {arXiv}
}"""
USE = """from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("FOLDER")
processor = AutoProcessor.from_pretrained("FOLDER")"""
ADAPTERS_USE = """These are LoRA adapters and no model of their own: `{base}`, which must still be what it was, is
loaded with them. With `peft` installed the lines below do so, and so does `mmi_hf`. `--lora_r {r} --model_name_or_path
FOLDER` trains them further; with `--lora_r 0` they are merged in, and all weights learn. `--merge_lora true` saves a
whole model."""
COMMON = ("learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size", "seed", "data_seed")
TIMES = (*RATES, "peak_share", "peak_memory_gb", "epoch", "step")
_CACHED = re.compile(r"models--([^/]+?)--([^/]+)/snapshots/")  # where the hub's cache has a model


def run_record(
    args: MMIConfig,
    benchmarks: list[Benchmark],
    bad: BadRows,
    processor: ProcessorMixin,
    model: PreTrainedModel | None = None,
) -> dict[str, Any]:
    """Return what made the checkpoint: config, code, versions, start, data, processor and template, seeds.

    model: the start, where it is not what `model_name_or_path` holds."""
    items = {bench.name: len(bench.items) for bench in benchmarks}
    return {
        **setup(args),
        "conditions": {bench.family: args.conditions_of(bench.family) for bench in benchmarks},
        "data": {"hash": data_hash(args, benchmarks), "items": items, "skipped": len(bad.lines), **bad.counts},
        "processor": fingerprint(processor),
        "start": weights_hash(str(args.model_name_or_path)) if model is None else state_hash(model),
    }


def state_hash(model: PreTrainedModel) -> str:
    """Return a hash of all weights of a model in memory."""
    state = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        state.update(f"{name}:{tuple(weight.shape)}:{weight.dtype}".encode())
        state.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return state.hexdigest()[:16]


def setup(args: MMIConfig) -> dict[str, Any]:
    """Return the part of the record that is known before anything is loaded."""
    seeds = {"seed": args.seed, "data_seed": args.data_seed}
    made = {"config": args.to_dict(), "code": code_hash(), "versions": versions()}
    return {"seeds": seeds, **made, "processes": args.world_size}


def model_card(
    args: MMIConfig, record: Mapping[str, Any], history: Sequence[Mapping[str, Any]], tags: Sequence[str] = ()
) -> str:
    """Return the Markdown of README.md.

    record: what training.json says. history: the logs of the run; each metric's last value is taken. tags: further
    ones for the hub.
    """
    name, adapters = str(args.model_name_or_path), bool(args.lora_r and not args.merge_lora)
    config = {name: getattr(args, name) for name in (*OWN_FIELDS, *COMMON)}
    items = {name: f"{count} items" for name, count in record["data"]["items"].items()}
    last = {name: value for log in history for name, value in log.items() if isinstance(value, (int, float))}
    head = metadata(args, record, any(name.endswith("/accuracy") for name in last), tags)
    parts = [
        f"---\n{head.to_yaml()}\n---",
        "# Trained against modality interference",
        f"`{args.model_name_or_path}`, fine-tuned so that what must not matter, a text beside a picture or a picture"
        " beside a text, does not change its answers. `training.json` has the whole configuration and all versions.",
        "## Data",
        _table(("data", ""), {**items, "bad rows left out": record["data"]["skipped"]}),
        f"SHA-256 of all that was seen: `{record['data']['hash']}`",
        "## Configuration",
        _table(("field", "value"), {name: value for name, value in config.items() if value is not None}),
        "## Metrics",
        "Last logged values; `eval_` are shares on the first test items of a task, a sanity check and not a result.",
        _table(("metric", "last"), {name: f"{value:.4g}" for name, value in last.items() if name not in TIMES}),
        "## Use",
        *([ADAPTERS_USE.format(base=base_of(name) or name, r=args.lora_r)] if adapters else []),
        f"```python\n{USE}\n```",
        "Diagnosed again with `lmms_eval --model mmi_hf --model_args pretrained=FOLDER --tasks mmi_all`.",
        "## Citation",
        f"```bibtex\n{CITATION}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def metadata(args: MMIConfig, record: Mapping[str, Any], asked: bool, tags: Sequence[str] = ()) -> ModelCardData:
    """Return what the hub reads of a card. asked: whether tasks were asked in training.

    A base in a folder has no id, unless it is one of the hub's cache; its licence is that of its own card.
    """
    base = hub_id(base_of(str(args.model_name_or_path)) or str(args.model_name_or_path))
    hubs = [getattr(SOURCES.get(name), "hub", None) for name in record["data"]["items"]]
    return ModelCardData(
        base_model=base,
        license=_licence(str(args.model_name_or_path), base),
        datasets=sorted({hub for hub in hubs if hub}) or None,
        metrics=["accuracy"] if asked else None,
        library_name="peft" if args.lora_r and not args.merge_lora else "transformers",
        pipeline_tag="image-text-to-text",
        tags=list(dict.fromkeys(["modality-interference", "trl", *tags])),
    )


def hub_id(name: str) -> str | None:
    """Return the hub id of a model by its name or its place in the hub's cache; None for another folder."""
    if found := _CACHED.search(f"{Path(name).as_posix()}/"):
        return "/".join(found.groups())
    if Path(name).exists():
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name


def _licence(folder: str, base: str | None) -> str:
    """Return the licence that the base's card names, on disk or in the hub's cache; `unknown`, as the hub calls it,
    where it names none."""
    cards = [Path(folder) / "README.md"]
    if base and isinstance(cached := try_to_load_from_cache(base, "README.md"), str):
        cards.append(Path(cached))
    for card in cards:
        named = (metadata_load(card) or {}).get("license") if card.is_file() else None
        if isinstance(named, str):
            return named
    return "unknown"


def _table(head: tuple[str, str], rows: Mapping[str, Any]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in rows.items())])
