"""The model card: what was trained on what, how, with what result, and how to cite it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from mmi_plugin.trainers.config import MMIConfig

CITATION = """@misc{modality-interference,
  title         = {Diagnosing and Mitigating Modality Interference in Multimodal Large Language Models},
  year          = {2025},
  eprint        = {2505.19616},
  archivePrefix = {arXiv}
}"""
USE = """from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("FOLDER")
processor = AutoProcessor.from_pretrained("FOLDER")"""
COMMON = ("learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size", "seed", "data_seed")
TIMES = ("rows_per_second", "tokens_per_second", "epoch", "step")


def model_card(args: MMIConfig, record: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> str:
    """Return the Markdown of README.md.

    record: what training.json says. history: the logs of the run; each metric's last value is taken.
    """
    head = yaml.safe_dump(
        {
            "base_model": args.model_name_or_path,
            "library_name": "transformers",
            "pipeline_tag": "image-text-to-text",
            "tags": ["modality-interference"],
        },
        sort_keys=False,
    )
    config = {name: getattr(args, name) for name in (*MMIConfig.__annotations__, *COMMON)}
    items = {name: f"{count} items" for name, count in record["data"]["items"].items()}
    last = {name: value for log in history for name, value in log.items() if isinstance(value, (int, float))}
    parts = [
        f"---\n{head}---",
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
        f"```python\n{USE}\n```",
        "Diagnosed again with `lmms_eval --model mmi_hf --model_args pretrained=FOLDER --tasks mmi_all`.",
        "## Citation",
        f"```bibtex\n{CITATION}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _table(head: tuple[str, str], rows: Mapping[str, Any]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in rows.items())])
