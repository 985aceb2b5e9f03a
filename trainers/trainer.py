"""SFTTrainer with groups, an adversary on the embeddings and a consistency between rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import datasets
import torch
from peft import LoraConfig
from torch import nn
from torch.utils.data import DataLoader
from transformers import (
    PreTrainedModel,
    ProcessorMixin,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import SFTTrainer

from mmi_plugin.errors import InputError
from mmi_plugin.models.families import prompts_of
from mmi_plugin.trainers.collator import Batch, GroupCollator
from mmi_plugin.trainers.config import MMIConfig
from mmi_plugin.trainers.decoder import AnswerTokens, unwrap
from mmi_plugin.trainers.forward import Attack, answers, lays_out, perturbed_keys, row_keys
from mmi_plugin.trainers.groups import Groups, RatioBatchSampler
from mmi_plugin.trainers.meter import Meter
from mmi_plugin.trainers.method import Adversary, Rows, answer_losses, consistency_sum
from mmi_plugin.trainers.saving import WholeCheckpoints, check_finite
from mmi_plugin.trainers.vision import check_support, freeze_vision

RATES = ("rows_per_second", "tokens_per_second")


class MMITrainer(WholeCheckpoints, SFTTrainer):
    """Trains on groups: L = L_sft + adv_weight L_adv + consistency_weight L_cons (method section 2).

    Each part is a mean over the whole optimizer step, all micro-batches and processes: L_sft over
    answer tokens of clean rows, L_adv over those of adversarial rows, L_cons over groups.
    """

    args: MMIConfig

    def __init__(
        self,
        model: PreTrainedModel,
        args: MMIConfig,
        groups: Groups,
        sampler: RatioBatchSampler,
        processing_class: ProcessorMixin,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        check_support(model, prompts_of(processing_class).placeholder_id)
        if args.freeze_vision:
            freeze_vision(model)
        self._groups = groups
        self._sampler = sampler
        self._adversary = adversary_of(args)
        self._meter = Meter()
        super().__init__(
            model=model,
            args=args,
            train_dataset=datasets.Dataset.from_dict({"id": groups.ids}),
            data_collator=GroupCollator(
                processing_class,
                args.max_length,
                args.seed,
                args.attack_text,
                stand_in=args.world_size > 1,
                attack_mask=args.attack_mask,
                system_prompt=args.system_prompt,
                chat_template_kwargs=args.chat_template_kwargs,
            ),
            processing_class=processing_class,
            peft_config=lora_of(args, model),
            callbacks=[_EpochCallback(sampler), *(callbacks or [])],
        )
        # compute_loss divides by the counts of the whole step, so the Trainer must not divide again.
        self.model_accepts_loss_kwargs = True

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
        counts = torch.zeros(3, device=device)
        for sample in samples:
            counts += self._counts(self._rows(sample, training=True)[0]).to(device)
        return samples, self.accelerator.reduce(counts, "sum")

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """Return this micro-batch's share of the step's loss. `num_items_in_batch`: see get_batch_samples."""
        rows, attacked = self._rows(inputs, model.training)
        attack = self._attack(inputs, attacked, unwrap(model)) if len(attacked) or self._in_step(model) else None
        tokens = AnswerTokens.of(rows.labels)
        images = self.processing_class.image_processor.model_input_names
        logits, hidden = answers(model, inputs, attack, tokens, self.args, images)
        losses = answer_losses(logits, tokens)
        clean = tokens.row < rows.clean
        features = hidden if self.args.consistency == "mse" else logits
        consistency = self._consistency(features, tokens, rows)
        sums = torch.stack([losses[clean].sum(), losses[~clean].sum(), consistency])
        sources = torch.cat([torch.arange(rows.clean, device=attacked.device), attacked])[tokens.row]
        check_finite(sums, losses, sources, inputs["items"], self.state.global_step + 1, self.accelerator)
        counts = self._counts(rows)
        self._measure(inputs, sums, counts, losses[torch.isin(tokens.row, attacked)].sum(), attack)
        weights = sums.new_tensor([1.0, self.args.adv_weight, self.args.consistency_weight])
        whole = counts if num_items_in_batch is None else num_items_in_batch
        loss = (weights * sums / whole.clamp(min=1)).sum()
        if num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # data parallelism averages gradients
        return (loss, {"logits": logits}) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the loss parts, the attack and the throughput since the last log."""
        measured = self._meter.read(lambda sums: self.accelerator.reduce(sums, "sum"), RATES)
        super().log(logs | measured, start_time)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load the weights as from_pretrained does: the Trainer matches raw names, and a LLaVA is saved
        under other names than it has in memory, so that it would silently go on with the weights it began with."""
        model = self.model if model is None else model
        if not isinstance(model, PreTrainedModel) or self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        saved = type(model).from_pretrained(resume_from_checkpoint, dtype=model.dtype)
        model.load_state_dict(saved.state_dict())

    def _rows(self, inputs: Batch, training: bool) -> tuple[Rows, torch.Tensor]:
        """Return the batch's rows with their adversarial copies, and (A,) which rows are attacked."""
        attackable = inputs["irrelevant"].any(1) & (self._adversary is not None and training)
        attacked = attackable.nonzero()[:, 0]
        return Rows.of(inputs["labels"], inputs["origin"], attacked), attacked

    def _in_step(self, model: nn.Module) -> bool:
        """Whether this process must go through the inner loop because another may."""
        replays = self._adversary is not None and self._adversary.replays > 0
        return self.accelerator.num_processes > 1 and replays and model.training

    def _attack(self, inputs: Batch, attacked: torch.Tensor, base: PreTrainedModel) -> Attack:
        args, replayed = self.args, attacked
        if not args.skip_unattacked:
            replayed = torch.arange(len(inputs["labels"]), device=attacked.device)
        elif not len(attacked):
            replayed = inputs["attention_mask"].sum(1).argmin()[None]
        mask, seeds, labels = (inputs[name][replayed] for name in ("irrelevant", "seeds", "labels"))
        return Attack(
            adversary=self._adversary,
            rows=attacked,
            replayed=replayed,
            mask=mask,
            seeds=seeds,
            labels=labels,
            lengths=inputs["attention_mask"][replayed].sum(1).tolist(),
            keys=perturbed_keys(row_keys(base, inputs)[replayed.tolist()], mask) if lays_out(base, args) else None,
            reuse_prefix=args.reuse_prefix,
            weight_gradients=not args.skip_weight_gradients,
        )

    def _consistency(self, features: torch.Tensor, tokens: AnswerTokens, rows: Rows) -> torch.Tensor:
        """Sum over the groups of the batch; a zero that costs nothing where nothing is compared."""
        if self.args.consistency == "none" or not rows.compared.any():
            return features.new_zeros(())
        return consistency_sum(self.args.consistency, features, tokens, rows, self.args.temperature)

    def _counts(self, rows: Rows) -> torch.Tensor:
        """What the parts of the loss are means over, (3,); no groups where there is no consistency."""
        counts = rows.counts()
        return counts if self.args.consistency != "none" else counts * counts.new_tensor([1, 1, 0])

    def _measure(
        self, inputs: Batch, sums: torch.Tensor, counts: torch.Tensor, unattacked: torch.Tensor, attack: Attack | None
    ) -> None:
        """Note for the next log. unattacked: summed clean loss of the rows that were attacked."""
        norms = attack.delta.flatten(1).norm(dim=1) if attack else sums.new_zeros(0)
        mask = inputs["attention_mask"]
        ratios = {
            "loss_sft": (sums[0], counts[0]),
            "loss_adv": (sums[1], counts[1]),
            "loss_consistency": (sums[2], counts[2]),
            "attack_strength": (sums[1] - unattacked if attack else 0.0, counts[1]),
            "delta_norm": (norms.sum(), len(norms)),
            "rows_per_second": (len(mask), 1),
            "tokens_per_second": (mask.sum(), 1),
        }
        self._meter.add(ratios, sums.device)


class _EpochCallback(TrainerCallback):
    """Tells the sampler its epoch: accelerate's loaders do not pass it on in every layout."""

    def __init__(self, sampler: RatioBatchSampler) -> None:
        self._sampler = sampler

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._sampler.set_epoch(int(state.epoch or 0))


def sampler_of(args: MMIConfig, groups: Groups) -> RatioBatchSampler:
    """Return the sampler of a run, or raise an InputError if the mix does not fit batch or data."""
    per_step = args.gradient_accumulation_steps * args.world_size
    return RatioBatchSampler(groups.families, args.mix, args.per_device_train_batch_size, per_step, args.data_seed)


def adversary_of(args: MMIConfig) -> Adversary | None:
    """Return the adversary of a run, if it has one."""
    if args.adversary == "none":
        return None
    relative = args.eps_mode == "relative"
    return Adversary(args.adversary, args.step_rule, args.step_size, args.eps, args.pgd_steps, args.sigma, relative)


def lora_of(args: MMIConfig, base: PreTrainedModel) -> LoraConfig | None:
    """Return the LoRA of a run, if it has one: on `lora_targets` of the decoder alone."""
    if not args.lora_r:
        return None
    decoder = base.get_decoder()
    inside = {module for module in decoder.modules()}
    targets = [
        name for name, module in base.named_modules() if module in inside and name.rsplit(".")[-1] in args.lora_targets
    ]
    if not targets:
        raise InputError(
            f"field 'lora_targets': the decoder {type(decoder).__name__} has no module {args.lora_targets}"
        )
    return LoraConfig(r=args.lora_r, lora_alpha=args.lora_alpha, lora_dropout=args.lora_dropout, target_modules=targets)
