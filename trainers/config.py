"""What a training run can be told: SFTConfig plus the method's own fields."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.utils import is_torch_bf16_gpu_available, logging
from trl import SFTConfig

from mmi_plugin import conditions
from mmi_plugin.errors import InputError, nearest
from mmi_plugin.items import FAMILIES

ADVERSARIES = ("none", "pgd", "rg")
STEP_RULES = ("raw", "sign", "l2")
EPS_MODES = ("absolute", "relative")
ATTACKED = ("prompt", "after_image")
MASKS = ("irrelevant", "all")
BAD_ROW = ("stop", "skip")
CONSISTENCIES = ("none", "kl", "js", "mse")
logger = logging.get_logger(__name__)


def about(help: str, choices: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Return a field's metadata: a line of help and, if any, its valid values."""
    return {"help": help} | ({"choices": choices} if choices else {})


@dataclass
class MMIConfig(SFTConfig):
    """SFTConfig with the data mix, the adversary and the consistency of the method.

    The batch counts items (groups): `per_device_train_batch_size` is items per device. Defaults
    are the published ones except for the step rule, whose raw form hardly attacks.

    Raises:
        InputError: a field whose value is out of range, or a condition that does not exist.
    """

    _VALID_DICT_FIELDS = [*SFTConfig._VALID_DICT_FIELDS, "processor_kwargs", "chat_template_kwargs"]  # noqa: RUF012

    model_name_or_path: str | None = field(default=None, metadata=about("Checkpoint to train: a folder or a hub id."))
    processor_kwargs: dict | str | None = field(
        default=None, metadata=about("What the processor is loaded with, as a JSON object: {max_pixels: 200704}.")
    )
    system_prompt: str | None = field(
        default=None, metadata=about("A system turn before every chat, in training as in evaluation during it.")
    )
    chat_template_kwargs: dict | str | None = field(
        default=None, metadata=about("Variables of the chat template, as a JSON object: {enable_thinking: false}.")
    )
    sources: list[str] | None = field(
        default=None, metadata=about("Benchmarks whose train split is the data, by name.")
    )
    train_file: str | None = field(
        default=None,
        metadata=about("JSON or JSONL of training records, or a folder of `mmi data build`, besides sources."),
    )
    image_folder: str | None = field(
        default=None, metadata=about("Where image paths of train_file start; by default in its own folder.")
    )
    on_bad_row: str = field(
        default="stop",
        metadata=about("What a bad row of train_file does: stop the run, or be listed and left out.", BAD_ROW),
    )
    mix: list[int] = field(
        default_factory=lambda: [2, 2, 4],
        metadata=about("Items of one optimizer step, image-heavy text-heavy VQA, as a ratio."),
    )
    image_heavy_conditions: list[str] | None = field(
        default=None, metadata=about("Rows of an image-heavy item, the origin first.")
    )
    text_heavy_conditions: list[str] | None = field(
        default=None, metadata=about("Rows of a text-heavy item, the origin first.")
    )
    vqa_conditions: list[str] | None = field(default=None, metadata=about("Rows of a VQA item, the origin first."))

    adversary: str = field(
        default="none", metadata=about("Perturbation of the embeddings: PGD or Gaussian noise (rg).", ADVERSARIES)
    )
    adv_weight: float = field(default=1.0, metadata=about("Weight of the loss on adversarial rows."))
    step_rule: str = field(
        default="sign", metadata=about("PGD step: raw gradient, its sign, or its direction (l2).", STEP_RULES)
    )
    step_size: float = field(
        default=0.5, metadata=about("PGD step: alpha; for sign and l2 a length in the unit of eps.")
    )
    pgd_steps: int = field(default=2, metadata=about("Steps of the inner loop."))
    eps: float = field(default=0.05, metadata=about("Half side of the PGD ball, per coordinate of the embeddings."))
    attack_text: str = field(
        default="prompt",
        metadata=about(
            "What the adversary moves in image-heavy rows: all text of the prompt or that after_image.", ATTACKED
        ),
    )
    attack_mask: str = field(
        default="irrelevant",
        metadata=about(
            "What the adversary moves: the irrelevant modality, or all text and image tokens of the prompt; "
            "VQA rows stay as they are with either.",
            MASKS,
        ),
    )
    sigma: float = field(default=0.05, metadata=about("Standard deviation of the Gaussian noise (rg)."))
    eps_mode: str = field(
        default="absolute", metadata=about("Lengths as given, or times the RMS of the row's embeddings.", EPS_MODES)
    )

    consistency: str = field(
        default="none", metadata=about("Divergence between a group's origin and its other rows.", CONSISTENCIES)
    )
    consistency_weight: float = field(default=0.01, metadata=about("Weight lambda of the consistency."))
    temperature: float = field(
        default=1.0, metadata=about("Temperature T of the distributions that kl and js compare.")
    )

    freeze_vision: bool = field(default=True, metadata=about("Keep the vision encoder as it is."))
    lora_r: int = field(default=0, metadata=about("Rank of LoRA adapters on the decoder; 0 trains all weights."))
    lora_alpha: int = field(default=256, metadata=about("Scale of LoRA adapters."))
    lora_dropout: float = field(default=0.0, metadata=about("Dropout of LoRA adapters."))
    lora_targets: list[str] = field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj"],
        metadata=about("Decoder modules that get LoRA."),
    )

    merge_lora: bool = field(
        default=False, metadata=about("Save the model with its adapters merged in, instead of the adapters.")
    )
    base_share: float = field(
        default=0.0,
        metadata=about(
            "Share of the weights at the start in those that are saved at the end (WiSE-FT); more of it keeps more"
            " of what the model could do before, and more of the interference."
        ),
    )

    eval_tasks: list[str] | None = field(
        default=None, metadata=about("Tasks asked during training, for example mmi_openbookqa.")
    )
    eval_tasks_steps: int = field(default=100, metadata=about("Steps between two evaluations on eval_tasks."))
    eval_tasks_items: int = field(default=32, metadata=about("Test items of each of eval_tasks, the first ones."))

    share_images: bool = field(
        default=True, metadata=about("Send each distinct image of a batch through the vision encoder once.")
    )
    pack_rows: bool = field(
        default=True, metadata=about("Lay rows end to end in the decoder where that is exact, instead of padding.")
    )
    share_prefix: bool = field(
        default=True, metadata=about("With pack_rows, compute what rows of a batch begin with in common once.")
    )
    answer_logits: bool = field(default=True, metadata=about("Project to the vocabulary at answer tokens only."))
    skip_unattacked: bool = field(
        default=True, metadata=about("Leave rows that the adversary cannot move out of the inner loop.")
    )
    reuse_prefix: bool = field(
        default=True,
        metadata=about("With pack_rows, keep keys and values of what precedes perturbed tokens over the inner loop."),
    )
    skip_weight_gradients: bool = field(
        default=True, metadata=about("Compute gradients of the perturbation alone in the inner loop.")
    )
    gradient_checkpointing: bool | None = field(
        default=None, metadata=about("Recompute activations in the backward pass to save memory.")
    )
    dataloader_pin_memory: bool = field(
        default_factory=torch.cuda.is_available, metadata=about("Pin batches in memory; on where there is a GPU.")
    )
    remove_unused_columns: bool = field(default=False, metadata=about("Kept off: the collator makes every column."))

    def __post_init__(self) -> None:
        if self.bf16 is None and not self.fp16:
            self.bf16 = not self.use_cpu and is_torch_bf16_gpu_available()
        self.data_seed = self.seed if self.data_seed is None else self.data_seed
        self.dataset_kwargs = {"skip_prepare_dataset": True}
        self._check_values()
        for family in FAMILIES:
            self._check_conditions(family)
        super().__post_init__()

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

    def _check_values(self) -> None:
        for name, spec in self.__dataclass_fields__.items():
            choices = spec.metadata.get("choices")
            value = getattr(self, name)
            if name in MMIConfig.__annotations__ and choices and value not in choices:
                raise InputError(f"field '{name}' is {value!r}: {nearest(str(value), choices)}")
        if len(self.mix) != len(FAMILIES) or any(n < 0 for n in self.mix) or not any(self.mix):
            raise InputError(f"field 'mix' is {self.mix}, not three counts (image-heavy, text-heavy, VQA)")
        if self.attack_mask == "all" and self.attack_text != "prompt":
            raise InputError(f"field 'attack_mask' is 'all', and 'attack_text' is {self.attack_text!r}: all or a part")
        for name in ("eps", "step_size", "temperature"):
            if not getattr(self, name) > 0:
                raise InputError(f"field '{name}' is {getattr(self, name)}, not above 0")
        for name in ("eval_tasks_steps", "eval_tasks_items"):
            if getattr(self, name) < 1:
                raise InputError(f"field '{name}' is {getattr(self, name)}, below 1")
        if self.merge_lora and not self.lora_r:
            raise InputError("field 'merge_lora' is true, and 'lora_r' is 0: there is nothing to merge")
        if not 0 <= self.base_share < 1:
            raise InputError(f"field 'base_share' is {self.base_share}, not from 0 to below 1")
        if self.base_share and self.lora_r and not self.merge_lora:
            raise InputError("field 'base_share' is above 0: adapters alone have no such share; set 'merge_lora'")
        for name in ("sigma", "adv_weight", "consistency_weight", "lora_r", "pgd_steps"):
            if not getattr(self, name) >= 0:
                raise InputError(f"field '{name}' is {getattr(self, name)}, below 0")

    def _check_conditions(self, family: str) -> None:
        try:
            conditions.check_names(self.conditions_of(family), family)
        except InputError as error:
            raise InputError(f"field '{family}_conditions': {error}") from error
