"""Rows or groups in, a trained model out: SFTTrainer whose loss is that of the method, and what it measures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import (
    PreTrainedModel,
    ProcessorMixin,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from mmi_plugin.disk import writing
from mmi_plugin.files import write_whole
from mmi_plugin.models.decoder import unwrap
from mmi_plugin.models.devices import on_device
from mmi_plugin.models.families import prompts_of
from mmi_plugin.models.layout import at_once
from mmi_plugin.trainers.collator import Batch, GroupCollator
from mmi_plugin.trainers.compat import WholeCheckpoints
from mmi_plugin.trainers.config import MMIConfig
from mmi_plugin.trainers.data import sampler_of
from mmi_plugin.trainers.evaluation import EvaluationCallback
from mmi_plugin.trainers.forward import ForwardPass, Prediction
from mmi_plugin.trainers.given import Records, start
from mmi_plugin.trainers.groups import Groups, RatioBatchSampler
from mmi_plugin.trainers.inner import Budget
from mmi_plugin.trainers.losses import LossPlaces, answer_losses, loss_counts, loss_sums, weighted_sum
from mmi_plugin.trainers.meter import RATES, Meter, Profile, Speed
from mmi_plugin.trainers.method import AnswerTokens, Rows
from mmi_plugin.trainers.plan import Plan
from mmi_plugin.trainers.record import model_card
from mmi_plugin.trainers.resume import RECORD, begin, seal
from mmi_plugin.trainers.saving import FINISHED, TRAINED, check_finite, finish, go_on_with_adapters, lora_of, move
from mmi_plugin.trainers.vision import check_support, depends_on_prompt, freeze


def _collator(args: MMIConfig, model: PreTrainedModel, processor: ProcessorMixin) -> GroupCollator:
    return GroupCollator(
        processor,
        args.max_length,
        args.seed,
        args.attack_text,
        stand_in=args.world_size > 1,
        attack_mask=args.attack_mask,
        system_prompt=args.system_prompt,
        chat_template_kwargs=args.chat_template_kwargs,
        end_token=args.end_token,
        own_images=depends_on_prompt(model),
        at_once=at_once(args.layout_attention, args.device, args.bf16 or args.fp16),
    )


class MMITrainer(WholeCheckpoints):
    """Trains on groups: L = L_sft + adv_weight L_adv + consistency_weight L_cons, (5) of the method.

    Each part is a mean over the whole optimizer step, all micro-batches and processes, or as `loss_mean` says: L_sft
    over answer tokens of clean rows, L_adv over those of adversarial rows, L_cons over groups.

    train_dataset: rows of training records, as a `datasets.Dataset` or a list, whose images may be PIL's; or groups;
    by default what `args` names. model, processing_class: as TRL takes them, by name, too.

    Raises:
        InputError: a bad row; a model that lacks what the method needs, or adapters for modules that it does not have.
    """

    args: MMIConfig

    record: dict[str, Any] | None = None
    """What made the checkpoint, as training.json says it; None where groups were made elsewhere."""

    def __init__(
        self,
        model: PreTrainedModel | str,
        args: MMIConfig | None = None,
        train_dataset: Groups | Records | None = None,
        eval_dataset: None = None,
        processing_class: ProcessorMixin | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
    ) -> None:
        args = args or MMIConfig()
        begun = start(model, args, train_dataset, eval_dataset, processing_class)
        model, processing_class, groups, self.record = begun.model, begun.processor, begun.groups, begun.record
        check_support(model, prompts_of(processing_class).placeholder_id)
        freeze(model, args.freeze)
        self._groups = groups
        self._sampler = sampler = sampler_of(args, groups)
        self._adversary = args.make_adversary()
        budget = (0, False) if args.reference else (args.inner_tokens, args.inner_gather)
        self._meter, self._budget = Meter(), Budget(*budget)
        set_seed(args.seed)  # adapters begin by chance, before the Trainer does so; TRL itself does from 1.15 on
        super().__init__(
            model=model,
            args=args,
            train_dataset=datasets.Dataset.from_dict({"id": groups.ids}),
            data_collator=_collator(args, model, processing_class),
            processing_class=processing_class,
            peft_config=lora_of(args, model),
            callbacks=[
                _EpochCallback(sampler),
                *([Profile(Path(args.output_dir), args.device)] if args.trace else []),
                *callbacks,
            ],
            optimizers=optimizers,
        )
        go_on_with_adapters(args, self.model)
        EvaluationCallback(args).attach(self)
        half = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else model.dtype
        self._speed = Speed(unwrap(self.model).get_decoder(), args.device, half)
        # cuDNN's attention plans anew for every length, and here each batch has its own: 3 ms of the CPU per call.
        torch.backends.cuda.enable_cudnn_sdp(False)
        # compute_loss divides by the counts of the whole step, so the Trainer must not divide again.
        self.model_accepts_loss_kwargs = True

    def train(self, resume_from_checkpoint: str | bool | None = None, **options: Any) -> Any:
        """Train, as TRL does; go on only from a whole checkpoint of this very run, begin only in a free folder."""
        resume = None
        if self.record is not None:
            self.seal = partial(seal, record=self.record)
            resume = begin(self.args, self.record, resume_from_checkpoint)
            resume_from_checkpoint = str(resume) if resume else None
        found = super().train(resume_from_checkpoint, **options)
        if resume:
            self.rotate()  # a kill may have left more, and no step been left to take
        return found

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model; in the run's own folder with all that a run leaves: merged, or drawn to its start, where the
        config says so, the record and, last, the model card, each file whole."""
        args, out = self.args, Path(self.args.output_dir)
        if output_dir is not None and Path(output_dir) != out:
            return super().save_model(output_dir, _internal_call=True)
        trained, whole = out / TRAINED, out / FINISHED
        with writing(out, "the trained model"):
            try:
                super().save_model(str(trained), _internal_call=True)
                if self.is_world_process_zero():
                    if args.merge_lora or args.base_share > 0:
                        finish(args, trained).save_pretrained(whole)
                        self.processing_class.save_pretrained(whole)
                    move(whole if whole.is_dir() else trained, out)
                    if self.record is not None:
                        record = json.dumps(self.record, indent=2, sort_keys=True, default=str)
                        write_whole(out / RECORD, f"{record}\n")
                    self.create_model_card()
            finally:
                if self.is_world_process_zero():
                    for folder in (trained, whole):
                        shutil.rmtree(folder, ignore_errors=True)
        if args.push_to_hub and not _internal_call:
            self.push_to_hub()
        return None

    def create_model_card(
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | list[str] | None = None
    ) -> None:
        """Write README.md: what the record says, with metadata that the hub reads."""
        if self.record is None:
            super().create_model_card(model_name, dataset_name, tags)
        elif self.is_world_process_zero():
            more = [tags] if isinstance(tags, str) else tags or []
            card = model_card(self.args, self.record, self.state.log_history, more)
            write_whole(Path(self.args.output_dir) / "README.md", card)

    def get_train_dataloader(self) -> DataLoader:
        """Batches of whole groups, in the order of the ratio sampler."""
        loader = DataLoader(
            self._groups,
            batch_sampler=self._sampler,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
        )
        return self.accelerator.prepare(loader)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], torch.Tensor]:
        """Return the micro-batches of one optimizer step and, (3,), what its loss parts are means over."""
        samples = super().get_batch_samples(epoch_iterator, num_batches, device)[0]
        counts = torch.zeros(3)
        for sample in samples:
            counts += loss_counts(self._rows(sample, training=True), self.args)
        return samples, self.accelerator.reduce(on_device(counts, device), "sum")

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """Return this micro-batch's share of the step's loss (5), a scalar.

        num_items_in_batch: (3,), see get_batch_samples; without it, the loss is that of these rows alone.
        """
        args = self.args
        # Rows, their tokens and what is summed are found on the host: a device would have to be waited for.
        device, rows = inputs["labels"].device, self._rows(inputs, model.training)
        tokens = AnswerTokens.of(rows.labels, "prediction" if args.consistency == "none" else args.answer_position)
        counted, places = loss_counts(rows, args), LossPlaces.of(rows, tokens, args)
        predicted = self._predict(model, inputs, rows, tokens)
        tokens, counts, places = (on_device(part, device) for part in (tokens, counted, places))
        # The sums of (3) and (4), and their weighted mean (5).
        losses = answer_losses(predicted.logits, tokens)
        sums = loss_sums(predicted.logits, predicted.hidden, losses, places, args)
        own = num_items_in_batch is None or args.loss_mean == "micro_batch"
        means = counts if own else num_items_in_batch
        loss = weighted_sum(sums, means, (1.0, args.adv_weight, args.consistency_weight))
        if num_items_in_batch is not None:  # data parallelism averages gradients, micro-batches' losses are added up
            loss = loss / args.gradient_accumulation_steps if own else loss * self.accelerator.num_processes
        step = self.state.global_step + 1
        check_finite(sums, losses, places.source, inputs["items"], step, self.accelerator)
        self._measure(inputs, sums, counted.tolist(), places.attack(losses), predicted.delta)
        return (loss, {"logits": predicted.logits}) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the loss parts, the attack and the throughput since the last log."""
        measured = self._meter.read(lambda sums: self.accelerator.reduce(sums.to(self.args.device), "sum"), RATES)
        facts = self._speed.facts(measured.get("tflops"), self.accelerator.num_processes)
        super().log(logs | measured | facts, start_time)

    def _rows(self, inputs: Batch, training: bool) -> Rows:
        """Return the batch's rows, on the host, with copies of those that the adversary, if there is one, can move."""
        plan: Plan = inputs["plan"]
        moved = torch.from_numpy(plan.moved) if self._adversary and training else None
        return Rows.of(plan.labels, plan.origin, moved)

    def _predict(self, model: nn.Module, inputs: Batch, rows: Rows, tokens: AnswerTokens) -> Prediction:
        """Run the model once; through the inner loop also where another process may have rows to attack."""
        adversary = self._adversary
        others_may = self.accelerator.num_processes > 1 and model.training and adversary and adversary.replays
        moves = adversary if len(rows.attacked) or others_may else None
        means = self.args.savings, self._budget, self.args.layout_attention
        forward = ForwardPass(model, inputs, rows, tokens, moves, *means)
        with self._speed.counting():
            return forward.run(self.processing_class.image_processor.model_input_names)

    def _measure(
        self,
        inputs: Batch,
        sums: torch.Tensor,
        counts: list[int],
        attack: tuple[torch.Tensor, torch.Tensor],
        delta: torch.Tensor | None,
    ) -> None:
        """Note for the next log. sums: (3,). attack: see `LossPlaces.attack`."""
        norms = sums.new_zeros(0) if delta is None else delta.flatten(1).norm(dim=1)
        ratios = {
            "loss_sft": (sums[0], counts[0]),
            "loss_adv": (sums[1], counts[1]),
            "loss_consistency": (sums[2], counts[2]),
            "attack_strength": attack,
            "delta_norm": (norms.sum(), len(norms)),
            "rows_per_second": (len(inputs["plan"].lengths), 1),
            "tokens_per_second": (sum(inputs["plan"].lengths), 1),
            "tflops": (self._speed.take(), 1),
        }
        self._meter.add(ratios)


class _EpochCallback(TrainerCallback):
    """Tells the sampler its epoch: accelerate's loaders do not pass it on in every layout."""

    def __init__(self, sampler: RatioBatchSampler) -> None:
        self._sampler = sampler

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._sampler.set_epoch(int(state.epoch or 0))
