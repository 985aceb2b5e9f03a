"""A YAML file and a command line in, the checked config of a run out: SFTConfig plus the method's own fields."""

# ruff: noqa: RUF009  (option() returns a dataclass field)
from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NoReturn

import torch
from transformers import HfArgumentParser
from transformers.utils import is_torch_bf16_gpu_available, logging

from mmi_plugin import conditions
from mmi_plugin.cores import own_cores
from mmi_plugin.errors import InputError, nearest
from mmi_plugin.files import read_mapping
from mmi_plugin.item import FAMILIES
from mmi_plugin.plugins import include
from mmi_plugin.trainers.compat import JsonFields
from mmi_plugin.trainers.help import help_of
from mmi_plugin.trainers.method import Adversary
from mmi_plugin.trainers.named import find_config
from mmi_plugin.trainers.objective import Objective, option
from mmi_plugin.trainers.reports import check_reports

FROM_0 = ("sigma", "adv_weight", "consistency_weight", "consistency_floor", "lora_r", "pgd_steps", "inner_tokens")
ATTENTION_LORA = ["q_proj", "k_proj", "v_proj", "o_proj"]
CHECKPOINTING = "activation_checkpointing"  # as newer versions of transformers call `gradient_checkpointing`
logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class Savings:
    """What a pass does not compute, or not twice; each changes what it costs and nothing else.

    share_images: each distinct image of a batch goes through the vision encoder once. pack_rows: rows stand end to
    end in the decoder where that is exact, without padding. share_prefix: with pack_rows, what rows of a batch begin
    with in common is computed once. answer_logits: answer tokens alone are projected to the vocabulary.
    skip_unattacked: rows that the adversary cannot move stay out of the inner loop. reuse_prefix: with pack_rows,
    keys and values of what precedes perturbed tokens are kept over the inner loop. skip_weight_gradients: the inner
    loop computes gradients of the perturbation alone.
    """

    share_images: bool = True
    pack_rows: bool = True
    share_prefix: bool = True
    answer_logits: bool = True
    skip_unattacked: bool = True
    reuse_prefix: bool = True
    skip_weight_gradients: bool = True

    @staticmethod
    def none() -> Savings:
        """Everything computed plainly."""
        return Savings(**{saving.name: False for saving in fields(Savings)})


@dataclass
class MMIConfig(Objective, JsonFields):
    """SFTConfig with the data mix, the adversary and the consistency of the method.

    The batch counts items (groups): `per_device_train_batch_size` is items per device. Defaults are ours; those of
    `profile: published` are what the paper's code computes (`objective`), and a field that is given wins over either.

    Raises:
        InputError: a field whose value is out of range, or a condition that does not exist.
    """

    model_name_or_path: str | None = option(
        None,
        "Checkpoint to train: a folder or a hub id. The adapters of a folder are trained further with their own lora_r"
        " and lora_alpha; with lora_r 0 they are merged in, and all weights learn.",
    )
    processor_kwargs: dict | str | None = option(
        None, "What the processor is loaded with, as a JSON object: {max_pixels: 200704}."
    )
    system_prompt: str | None = option(None, "A system turn before every chat, in training as in evaluation during it.")
    chat_template_kwargs: dict | str | None = option(
        None, "Variables of the chat template, as a JSON object: {enable_thinking: false}."
    )
    sources: list[str] | None = option(None, "Benchmarks whose train split is the data, by name.")
    train_file: str | None = option(
        None, "JSON or JSONL of training records, or a folder of `mmi data build`, besides sources."
    )
    image_folder: str | None = option(None, "Where image paths of train_file start; by default in its own folder.")
    on_bad_row: str = option(
        "stop", "What a bad row of train_file does: stop the run, or be listed and left out.", ("stop", "skip")
    )
    include_path: str | None = option(None, "Your folder of modules mmi_*.py (conditions, sources) and task YAMLs.")
    mix: list[int] = option([2, 2, 4], "Items of one optimizer step, image-heavy text-heavy VQA, as a ratio.")
    image_heavy_conditions: list[str] | None = option(None, "Rows of an image-heavy item, the origin first.")
    text_heavy_conditions: list[str] | None = option(None, "Rows of a text-heavy item, the origin first.")
    vqa_conditions: list[str] | None = option(None, "Rows of a VQA item, the origin first.")

    lora_r: int = option(0, "Rank of LoRA adapters on the decoder; 0 trains all weights.")
    lora_alpha: int = option(256, "Scale of LoRA adapters.")
    lora_dropout: float = option(0.0, "Dropout of LoRA adapters.")
    lora_targets: list[str] = option(ATTENTION_LORA, "Decoder modules that get LoRA.")

    merge_lora: bool = option(False, "Save the model with its adapters merged in, instead of the adapters.")
    base_share: float = option(
        0.0,
        "Share of the weights at the start in those that are saved at the end (WiSE-FT); more of it keeps more"
        " of what the model could do before, and more of the interference.",
    )

    eval_tasks: list[str] | None = option(None, "Tasks asked during training, for example mmi_openbookqa.")
    eval_tasks_steps: int = option(100, "Steps between two evaluations on eval_tasks.")
    eval_tasks_items: int = option(32, "Test items of each of eval_tasks, the first ones.")

    overwrite_output_dir: bool = option(
        False, "Train into a folder that holds a training, whose checkpoints and record are removed first."
    )
    # Computes everything plainly, without any of Savings: slower, the same numbers but for rounding, and the place to
    # look where a result is in doubt. Not in --help, as no run needs it; training.json says whether it was on.
    reference: bool = option(False, argparse.SUPPRESS)
    report_to: list[str] = option(["none"], "Where logs go, one or more: none, all, tensorboard, wandb, trackio, ...")
    inner_tokens: int | None = option(
        None,
        "Tokens of perturbed rows that the inner loop keeps activations of at once, 0 for all; by default what a GPU's"
        " free memory holds, and all on a CPU. Less memory, the same numbers but for rounding.",
    )
    inner_gather: bool | None = option(
        None,
        "ZeRO-3 and FSDP2: gather the decoder once around the inner loop, not in each of its passes; by default where a"
        " GPU's free memory holds it. More memory, the same numbers.",
    )
    layout_attention: str = option(
        "auto",
        "How rows without padding attend: in one call of FlexAttention, in pieces, or (auto) the first on a GPU in 16"
        " bits. The same numbers but for rounding.",
        ("auto", "flex", "pieces"),
    )
    trace: bool = option(False, "Write a profile of five steps, the fourth to the eighth, into output_dir.")
    gradient_checkpointing: bool | None = option(
        None, "Recompute activations of the outer pass in the backward pass to save memory; by default on a GPU."
    )
    dataloader_num_workers: int | None = option(
        None, "Processes that make batches while others are trained on; by default up to 4 beside a GPU, 0 on a CPU."
    )
    dataloader_pin_memory: bool = option(torch.cuda.is_available, "Pin batches in memory; on where there is a GPU.")
    remove_unused_columns: bool = option(False, "Kept off: the collator makes every column.")

    def __post_init__(self) -> None:
        include(self.include_path)
        if self.bf16 is None and not self.fp16:
            self.bf16 = not self.use_cpu and is_torch_bf16_gpu_available()
        gpu = torch.cuda.is_available() and not self.use_cpu
        name = CHECKPOINTING if hasattr(self, CHECKPOINTING) else "gradient_checkpointing"
        if getattr(self, name) is None:  # the new name where there is one: the old one warns
            setattr(self, name, gpu if self.gradient_checkpointing is None else self.gradient_checkpointing)
        if self.dataloader_num_workers is None:
            self.dataloader_num_workers = max(1, min(4, own_cores() - 1)) if gpu else 0
        self.data_seed = self.seed if self.data_seed is None else self.data_seed
        self.dataset_kwargs = {"skip_prepare_dataset": True}  # TRL would tokenize what are groups here
        self.resolve(full_precision=not (self.bf16 or self.fp16))
        self.savings = Savings.none() if self.reference else Savings()
        self._check_values()
        for family in FAMILIES:
            self._check_conditions(family)
        super().__post_init__()
        check_reports(self.report_to)
        if self.fp16 and self.device.type == "cpu":
            raise InputError("field 'fp16' is true, and there is no GPU: bf16 works on the CPU, too")

    @property
    def n_gpu(self) -> int:
        """GPUs of this process, at most one: the hooks at the decoder do not reach the replicas of nn.DataParallel."""
        seen = super().n_gpu
        if seen > 1:
            command = f"accelerate launch --num_processes {seen} trainers/train.py ..."
            logger.warning_once(f"{seen} GPUs are here and this process uses one; '{command}' uses all")
        return min(seen, 1)

    def conditions_of(self, family: str) -> tuple[str, ...]:
        """The rows of an item of `family`: condition names, the origin first."""
        chosen = getattr(self, f"{family}_conditions")
        return tuple(chosen) if chosen else conditions.for_family(family, seen_only=True)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields; transformers hides the values of those whose names end like that of a secret."""
        return super().to_dict() | {"end_token": self.end_token}

    def make_adversary(self) -> Adversary | None:
        """Return the adversary of the run, if it has one."""
        if self.adversary == "none":
            return None
        own = self.adversary, self.step_rule, self.step_size, self.eps, self.pgd_steps, self.sigma
        return Adversary(*own, self.eps_mode == "relative", pgd_loss=self.pgd_loss)

    def _check_values(self) -> None:
        _ = self.materials  # refuses what is none
        for name, spec in self.__dataclass_fields__.items():
            choices = spec.metadata.get("choices")
            value = getattr(self, name)
            if name in OWN_FIELDS and choices and value is not None and value not in choices:
                raise InputError(f"field '{name}' is {value!r}: {nearest(str(value), choices)}")
        if len(self.mix) != len(FAMILIES) or any(n < 0 for n in self.mix) or not any(self.mix):
            raise InputError(f"field 'mix' is {self.mix}, not three counts (image-heavy, text-heavy, VQA)")
        if self.attack_mask == "all" and self.attack_text != "prompt":
            raise InputError(f"field 'attack_mask' is 'all', and 'attack_text' is {self.attack_text!r}: all or a part")
        for name in ("eps", "step_size", "temperature"):
            if not getattr(self, name) > 0:
                raise InputError(f"field '{name}' is {getattr(self, name)}, not above 0")
        if getattr(self.eval_strategy, "value", self.eval_strategy) != "no":
            raise InputError("field 'eval_strategy': no rows are evaluated: 'eval_tasks' asks tasks during training")
        for name in ("eval_tasks_steps", "eval_tasks_items"):
            if getattr(self, name) < 1:
                raise InputError(f"field '{name}' is {getattr(self, name)}, below 1")
        if self.merge_lora and not self.lora_r:
            raise InputError("field 'merge_lora' is true, and 'lora_r' is 0: there is nothing to merge")
        if not 0 <= self.base_share < 1:
            raise InputError(f"field 'base_share' is {self.base_share}, not from 0 to below 1")
        if self.base_share and self.lora_r and not self.merge_lora:
            raise InputError("field 'base_share' is above 0: adapters alone have no such share; set 'merge_lora'")
        if self.layout_attention == "flex" and (self.use_cpu or not torch.cuda.is_available()):
            raise InputError("field 'layout_attention' is 'flex', which has no gradient on a CPU: 'auto' or 'pieces'")
        for name in FROM_0:
            if not (getattr(self, name) or 0) >= 0:
                raise InputError(f"field '{name}' is {getattr(self, name)}, below 0")

    def _check_conditions(self, family: str) -> None:
        try:
            for name in conditions.check_names(self.conditions_of(family), family):
                if conditions.get(name).attack:
                    raise InputError(f"{name!r} attacks at evaluation; field 'adversary' has that of training")
                if conditions.get(name).role == "apart":
                    trained = ", ".join(conditions.for_family(family))
                    raise InputError(f"condition {name!r} is for evaluations alone; trained are {trained}, ...")
        except InputError as error:
            raise InputError(f"field '{family}_conditions': {error}") from error


OWN_FIELDS = (*Objective.__annotations__, *MMIConfig.__annotations__)
"""Fields that are not of SFTConfig."""


class _Parser(HfArgumentParser):
    """HfArgumentParser whose complaints are one line, not a page of usage, and whose help begins with what is ours."""

    def format_help(self) -> str:
        return help_of(MMIConfig, (MMIConfig, Objective))

    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def parse(argv: Sequence[str]) -> MMIConfig:
    """Return the config of `--config FILE --field value ...`; the command line wins over the file, for which the name
    of a bundled config may stand.

    Raises:
        InputError: a file that cannot be read, an unknown field, a value of the wrong kind.
    """
    argv, source, defaults = list(argv), "command line", []
    if "--config" in argv:
        place = argv.index("--config")
        if place + 1 == len(argv):
            raise InputError("command line: --config needs a file")
        path = find_config(argv[place + 1])
        argv = argv[:place] + argv[place + 2 :]
        defaults = arguments(read_mapping(path, "fields and values"), str(path))
        source = f"{path} with command line" if argv else str(path)
    try:
        args, unknown = _Parser(MMIConfig, allow_abbrev=False).parse_args_into_dataclasses(
            [*defaults, *argv], return_remaining_strings=True
        )
    except (ValueError, TypeError) as error:
        raise InputError(f"{source}: {' '.join(str(error).split())}") from error
    if unknown:
        raise InputError(f"command line: unknown field {unknown[0]!r}: {_nearest_field(unknown[0])}")
    return args


def arguments(values: Mapping[str, Any], where: str) -> list[str]:
    """Return fields and values, of a YAML file or of a call, as command-line arguments, so that all are checked alike.

    Raises InputError that begins with `where` for an unknown field, or a list where none belongs.
    """
    argv: list[str] = []
    for name, value in values.items():
        spec = MMIConfig.__dataclass_fields__.get(str(name))
        if spec is None:
            raise InputError(f"{where}: unknown field {name!r}: {_nearest_field(str(name))}")
        if isinstance(value, list | tuple):
            if "list" not in str(spec.type):
                raise InputError(f"{where}: field '{name}' is a list")
            argv += [f"--{name}", *map(str, value)]
        elif value is not None:
            argv.append(f"--{name}={json.dumps(value) if isinstance(value, dict) else value}")
    return argv


def _nearest_field(name: str) -> str:
    name = name.lstrip("-").split("=")[0]
    return nearest("freeze" if name == "freeze_vision" else name, MMIConfig.__dataclass_fields__)  # its former name
