"""Names of transformers, TRL and torch that are private, patched or taken for more than they promise: all stand here.

`tests/test_trainers_compat.py` names the one that another version does not have, and refuses private names of others
anywhere else in trainers/. What has an extension point goes through it: callbacks, `set_attn_implementation`, hooks.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import SFTConfig, SFTTrainer

from mmi_plugin.disk import writing
from mmi_plugin.models.compat import Foreign

Result = TypeVar("Result")
KEPT = "inner loop"
ENCODED_IMAGES = "mm_encoder_outputs"
LLAVA = "transformers.models.llava.modeling_llava"
FSDP_GROUP = "torch.distributed.fsdp._fully_shard._fsdp_param_group:FSDPParamGroup"
FOREIGN = (
    Foreign("transformers:Trainer._save_checkpoint", "4.57", "a checkpoint moves to its place when it is whole"),
    Foreign("transformers:Trainer._get_output_dir", "4.57", "where a checkpoint is written meanwhile"),
    Foreign("transformers:Trainer._run_epoch", "5.22", "no step after the last one of a checkpoint"),
    Foreign("transformers:Trainer._load_from_checkpoint", "4.57", "weights go by their names in the file"),
    Foreign(
        "transformers:Trainer.get_batch_samples",
        "4.57",
        "the loss of a micro-batch is divided by the counts of its whole optimizer step, which are known only here",
        parameters=("epoch_iterator", "num_batches", "device"),
    ),
    Foreign("transformers:Trainer.compute_loss", "4.57", "those counts come here", parameters=("num_items_in_batch",)),
    Foreign("transformers:Trainer", "4.57", "no second division", mentions="self.model_accepts_loss_kwargs"),
    Foreign("trl:SFTConfig._VALID_DICT_FIELDS", "1.15", "JSON objects on the command line become dicts"),
    Foreign(f"{LLAVA}:LlavaModel.forward", "5.22", "images that were encoded before", parameters=(ENCODED_IMAGES,)),
    Foreign(f"{LLAVA}:LlavaModel.get_image_features", "5.22", "encodes them", parameters=("pixel_values",)),
    Foreign("torch.distributed.fsdp:FSDPModule.unshard", "2.9", "weights for calls outside of a module's forward"),
    Foreign("torch.distributed.fsdp:FSDPModule._get_fsdp_state", "2.9", "what it drops, to drop it again later on"),
    Foreign(FSDP_GROUP, "2.9", "the same after a forward pass", mentions="self.post_forward_mesh_info"),
    Foreign(FSDP_GROUP, "2.9", "the same after a backward pass", mentions="self.reshard_after_backward"),
)
"""Since: the oldest version that was looked at and has it: transformers 4.57, 5.0, 5.10 or 5.22; TRL and torch from
their lower bounds on."""


class JsonFields(SFTConfig):
    """SFTConfig that reads the JSON objects of our own fields, too."""

    _VALID_DICT_FIELDS = [*SFTConfig._VALID_DICT_FIELDS, "processor_kwargs", "chat_template_kwargs"]  # noqa: RUF012


class WholeCheckpoints(SFTTrainer):
    """SFTTrainer that writes a checkpoint beside its place and moves it there when all of it is written."""

    STAGE = ".saving"
    _staging = False
    seal: Callable[[Path], None] | None = None
    """Writes into a checkpoint, last of all, what says that it is whole."""

    def save_checkpoint(self) -> Path:
        """Save the state after the last step, if it is not saved yet; return its folder."""
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if not folder.is_dir():
            self._save_checkpoint(self.model_wrapped, None)
        return folder

    def _get_output_dir(self, trial: Any) -> str:
        folder = super()._get_output_dir(trial)
        return str(Path(folder) / self.STAGE) if self._staging else folder

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        home, name = Path(self._get_output_dir(trial)), f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            shutil.rmtree(home / self.STAGE, ignore_errors=True)  # what a killed run left
        self.accelerator.wait_for_everyone()
        self._staging = True
        try:
            with writing(home, name):
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    self._publish(home, name)
        finally:
            self._staging = False
            if self.args.should_save:
                shutil.rmtree(home / self.STAGE, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def _publish(self, home: Path, name: str) -> None:
        if self.seal is not None:
            self.seal(home / self.STAGE / name)
        shutil.rmtree(home / name, ignore_errors=True)
        (home / self.STAGE / name).rename(home / name)
        self.rotate()

    def rotate(self) -> None:
        """Remove the oldest checkpoints beyond `save_total_limit`, whose names go before their files."""
        home, limit = Path(self.args.output_dir), self.args.save_total_limit or 0
        found = [path for path in home.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.is_dir()]
        found.sort(key=lambda path: path.stat().st_mtime_ns)
        for path in found[:-limit] if limit > 0 and self.args.should_save else ():
            (home / self.STAGE).mkdir(exist_ok=True)
            path.rename(home / self.STAGE / path.name)
            shutil.rmtree(home / self.STAGE)

    def _run_epoch(self, **options: Any) -> None:
        """Take the steps of an epoch, or none where a checkpoint had all steps of the run: the Trainer looks only
        after a step whether it was the last."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(**options)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load the weights as from_pretrained does: the Trainer matches raw names, and a LLaVA is saved
        under other names than it has in memory, so that it would silently go on with the weights it began with."""
        model = self.model if model is None else model
        if not isinstance(model, PreTrainedModel) or self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        saved = type(model).from_pretrained(resume_from_checkpoint, dtype=model.dtype)
        model.load_state_dict(saved.state_dict())


def partitioned(weights: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """Return those of some weights that ZeRO-3 shards."""
    return [weight for weight in weights if hasattr(weight, "ds_id")]


@contextmanager
def gathered(modules: Sequence[FSDPModule], weights: Sequence[nn.Parameter]) -> Iterator[None]:
    """Gather what FSDP2 shards in `modules`, in each itself alone, and ZeRO-3 of `weights`; keep it so within."""
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(_unsharded(module))
        if weights:
            stack.enter_context(_whole(weights))
        yield


@contextmanager
def _whole(weights: Sequence[Any]) -> Iterator[None]:
    """Gather what ZeRO-3 shards, as deepspeed.zero.GatheredParameters does, which cannot be left while the hooks of a
    module hold one of them, as they do after a frozen head's backward pass until that of the whole."""
    weights[0].all_gather(param_list=list(weights))
    for weight in weights:  # the hooks drop a weight that no module is at work with
        weight.ds_active_sub_modules.add(KEPT)
    try:
        yield
    finally:
        for weight in weights:
            weight.ds_active_sub_modules.discard(KEPT)
        idle = [weight for weight in weights if not weight.ds_active_sub_modules]
        if idle:
            idle[0].partition(param_list=idle)


@contextmanager
def _unsharded(module: FSDPModule) -> Iterator[None]:
    """Gather a module's weights and keep them, whatever passes come; drop them after it if a forward pass would."""
    groups = _groups(module)
    before = [(group.post_forward_mesh_info, group.reshard_after_backward) for group in groups]
    try:
        module.set_reshard_after_forward(False, recurse=False)
        module.set_reshard_after_backward(False, recurse=False)
        unshard(module)
        yield
    finally:
        for group, kept in zip(groups, before, strict=True):
            group.post_forward_mesh_info, group.reshard_after_backward = kept
        if any(mesh is not None for mesh, _ in before):
            module.reshard()


def unshard(module: FSDPModule) -> None:
    """Gather the weights of a module itself, in whose forward this need not be."""
    module.unshard()


def _groups(module: FSDPModule) -> list[Any]:
    state = module._get_fsdp_state()
    several = getattr(state, "_fsdp_param_groups", None)  # older versions of torch have one or None
    return [one for one in [state._fsdp_param_group] if one] if several is None else several


def gathered_dtype(module: FSDPModule) -> torch.dtype | None:
    """Return in what FSDP2 gathers the weights of a module; None for their own."""
    return module._get_fsdp_state()._mp_policy.param_dtype


def most_of_all(number: int, device: torch.device) -> int:
    """Return the largest of the numbers that the processes give."""
    largest = torch.tensor(number, device=device)
    torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
    return int(largest)


def within_forward(model: nn.Module, work: Callable[[], Result]) -> Result:
    """Return work(), which calls `model` or its parts, run as the forward of `model` (forward redirection)."""
    if not isinstance(model, FSDPModule):
        return work()
    replaced = vars(model).get("forward")

    def restore() -> None:
        if replaced is None:
            vars(model).pop("forward", None)
        else:
            model.forward = replaced

    def forward(*_: Any, **__: Any) -> Result:
        restore()  # work may call the model itself
        return work()

    model.forward = forward
    try:
        return model()
    finally:
        restore()
