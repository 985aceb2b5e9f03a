"""The config's class in, the text of `--help` out: the method's own fields first, in groups, then those of TRL."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from typing import Any

GROUPS = {
    "model_name_or_path": "model and prompts",
    "sources": "data",
    "mix": "groups: which rows an item brings",
    "lora_r": "adapters",
    "merge_lora": "what is saved",
    "eval_tasks": "evaluation during training",
    "overwrite_output_dir": "output, logs, memory",
    "gradient_checkpointing": "other defaults than TRL's",
    "profile": "objective: ours, or as the paper's code has it",
    "adversary": "adversary",
    "consistency": "consistency",
    "end_token": "what learns, and what is learnt",
    "pool": "pools and prompts",
}
"""The field that a group begins with -> its title, in the order of the fields."""
BESIDE = {"overwrite_output_dir": ("output_dir", "resume_from_checkpoint")}
"""A field of ours -> those of TRL's that are shown before it."""
SAID = {
    "resume_from_checkpoint": "true: go on from the last whole checkpoint of this very run in output_dir; or the folder"
    " of a checkpoint."
}
"""Help in place of TRL's, which says that the field does nothing."""
USAGE = "accelerate launch trainers/train.py [--config FILE|NAME] [--field value ...]\n       mmi train CONFIG [...]"
ABOUT = "Trains against modality interference. A config is a YAML of these fields; the command line wins over it."


def help_of(config: type, own: tuple[type, ...]) -> str:
    """Return the help on the fields of a dataclass; `own`: the classes whose own fields come first."""
    parser = argparse.ArgumentParser(usage=USAGE, description=ABOUT, add_help=False)
    for title, members in _groups(config, own):
        group = parser.add_argument_group(title)
        for field in members:
            group.add_argument(f"--{field.name}", metavar=_value(field), help=_line(field))
    return parser.format_help()


def _groups(config: type, own: tuple[type, ...]) -> Iterator[tuple[str, list[Field[Any]]]]:
    known = {field.name: field for field in fields(config) if field.metadata.get("help") != argparse.SUPPRESS}
    for made in own:
        title, members = made.__name__, []
        for name in filter(known.__contains__, vars(made).get("__annotations__", ())):
            if name in GROUPS:
                if members:
                    yield title, members
                title, members = GROUPS[name], []
            members += [known.pop(one) for one in (*BESIDE.get(name, ()), name)]
        if members:
            yield title, members
    yield "fields of TRL's SFTConfig", list(known.values())


def _value(field: Field[Any]) -> str:
    choices = field.metadata.get("choices")
    if choices:
        return "{" + ",".join(choices) + "}"
    kind = field.type.__name__ if isinstance(field.type, type) else str(field.type).removesuffix(" | None")
    return kind.removeprefix("list[").rstrip("]").upper() + " ..." * kind.startswith("list[")


def _line(field: Field[Any]) -> str:
    text = SAID.get(field.name, str(field.metadata.get("help") or "")).replace("%", "%%")
    default = field.default_factory() if field.default_factory is not MISSING else field.default
    default = " ".join(map(str, default)) if isinstance(default, list) else default
    return text if default in (MISSING, None, "") else f"{text} (default: {default})"
