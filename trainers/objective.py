"""What is trained for, setting by setting: each ours by default, all as the paper's code has them by one profile.

The published code computes something else than the paper says; a profile computes it on purpose, so that its numbers
can be reproduced and each difference measured. l is the loss (3) of an answer token, p and q the distributions of an
origin row and of another row r of its group, A the answer tokens of clean rows:

    field                  ours                                  published
    epoch                  ends with the longest family          ends with the shortest: min floor(items / n a step)
    loss_mean              parts are means over the whole step   over each micro-batch, which are then averaged
    adv_rows               L_adv = mean l over copies of rows    over copies of all rows: one that nothing moves
                           that are moved                        (of a VQA item) is its clean row
    pgd_loss               g = d/d delta sum_rows mean_row(l)    g = d/d delta (sum of l over A) / |A|
    step_rule, step_size   alpha sign(g), alpha = eps / 2        alpha g, alpha = 0.1
    consistency_direction  KL(p || q); js (KL(p || m) +          KL(q || p); js (KL(m || p) + KL(m || q)) / 2; js and
                           KL(q || m)) / 2; js and mse teach     mse teach r alone
                           both rows
    consistency_reduce     mean over tokens, then rows           sum over rows and tokens, but for mse; js: the half
                                                                 KL(m || q) is a mean over rows, its sum over tokens
    consistency_items      mean over groups with a row that      with an adversary over all: a row that nothing moves
                           differs from the origin               is compared once more, as its own copy
    consistency_floor      0                                     q, and p in m, at least 1e-6, then renormalised;
                                                                 kl without an adversary in fp32: 1e-8
    answer_position        p, q predict the answer token, as l   read one token late, at the answer token itself
    end_token              learnt after an answer                not in the row
    vqa_turns              all answers of a conversation         the first turn alone
    freeze                 the vision encoder                    and the Q-Former with its queries
    pool ... question_     the data set's own (`Materials`)      MMVP photographs, fresh noise, 336 pixels, the item's
    header                                                       first fact alone, a system turn, no closing line

What the adversary moves is the same: in image-heavy rows all but image tokens and answer, so system turn and template
too. There padding is moved as well, which no token sees and which gets no gradient: a row by itself has none.

Not as there: PGD's copies teach image features and embeddings, too, which the published code cuts off there; LLaVA's
js without an adversary teaches the origin there; rows longer than `max_length` are cut there; Qwen's VQA rows have an
empty system turn there. The first two change gradients alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from mmi_plugin.errors import InputError, nearest
from mmi_plugin.sources import Benchmark, materials
from mmi_plugin.sources.materials import Materials

PROFILES = ("ours", "published")
SETTINGS: dict[str, tuple[Any, Any]] = {
    "epoch": ("all", "shortest"),
    "loss_mean": ("step", "micro_batch"),
    "adv_rows": ("attacked", "all"),
    "pgd_loss": ("row_sum", "batch_mean"),
    "step_rule": ("sign", "raw"),
    "step_size": (0.5, 0.1),
    "consistency_direction": ("forward", "reverse"),
    "consistency_reduce": ("mean", "sum"),
    "consistency_items": ("changed", "all"),
    "consistency_floor": (0.0, 1e-6),
    "answer_position": ("prediction", "label"),
    "end_token": (True, False),
    "vqa_turns": ("all", "first"),
    "freeze": ("vision", "vision_and_qformer"),
    **{name: (None, value) for name, value in materials.PUBLISHED.items()},
}
"""What a profile decides: our value and the published one."""
OWN = "own"
"""Of a setting of `Materials`: as the data set has it, whatever the profile says."""

_ATTACKED, _COMPARED = ("adversary", ("pgd", "rg")), ("consistency", ("kl", "js", "mse"))
NEEDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "adv_rows": _ATTACKED,
    "pgd_loss": ("step_rule", ("raw",)),
    "consistency_direction": _COMPARED,
    "consistency_reduce": _COMPARED,
    "consistency_items": _ATTACKED,
    "consistency_floor": ("consistency", ("kl", "js")),
    "answer_position": _COMPARED,
}
"""Which other field must have one of which values for a setting to change anything."""


def option(default: Any, help: str, choices: tuple[str, ...] | None = None) -> Any:
    """Return a field with a line of help and, if any, its valid values. default: a value, or what makes one."""
    metadata = {"help": help} | ({"choices": choices} if choices else {})
    make = default.copy if isinstance(default, list) else default
    return field(default_factory=make, metadata=metadata) if callable(make) else field(default=make, metadata=metadata)


@contextmanager
def as_field() -> Iterator[None]:
    """Let an error about a key of a task be one about a field of the config."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace("key ", "field ", 1)) from error


def _profiled(name: str, help: str, choices: tuple[str, ...] | None = None) -> Any:
    """A field of `SETTINGS`, which has the profile's value where it is not given."""
    ours, published = SETTINGS[name]
    shown = "as the data set has it" if ours is None else ours
    return option(None, f"{help} (default: {shown}; published: {published})", choices)


@dataclass
class Objective:
    """The objective of a run, part of its config. Where a field is None, `resolve` takes the value of the profile."""

    profile: str = option("ours", "Defaults of the objective: ours, or what the paper's code computes.", PROFILES)
    epoch: str | None = _profiled(
        "epoch", "What an epoch ends with: all items seen, or the shortest family.", ("all", "shortest")
    )
    loss_mean: str | None = _profiled(
        "loss_mean",
        "Means of losses are over the whole optimizer step, or over each micro-batch.",
        ("step", "micro_batch"),
    )
    adversary: str = option(
        "none", "Perturbation of the embeddings: PGD or Gaussian noise (rg).", ("none", "pgd", "rg")
    )
    adv_weight: float = option(1.0, "Weight of the loss on adversarial rows.")
    adv_rows: str | None = _profiled(
        "adv_rows",
        "Rows of the adversarial loss: those the adversary moves, or all, the others as they are.",
        ("attacked", "all"),
    )
    pgd_loss: str | None = _profiled(
        "pgd_loss",
        "What PGD climbs on: the sum of each row's mean, or the mean over the micro-batch's answer tokens.",
        ("row_sum", "batch_mean"),
    )
    step_rule: str | None = _profiled(
        "step_rule",
        "PGD step: the gradient's sign, its direction (l2), or the gradient itself (raw).",
        ("sign", "l2", "raw"),
    )
    step_size: float | None = _profiled("step_size", "PGD step: alpha; for sign and l2 a length in the unit of eps.")
    pgd_steps: int = option(2, "Steps of the inner loop.")
    eps: float = option(0.05, "Half side of the PGD ball, per coordinate of the embeddings.")
    attack_text: str = option(
        "prompt",
        "What the adversary moves in image-heavy rows: all text of the prompt or that after_image.",
        ("prompt", "after_image"),
    )
    attack_mask: str = option(
        "irrelevant",
        "What the adversary moves: the irrelevant modality, or all text and image tokens of the prompt; "
        "VQA rows stay as they are with either.",
        ("irrelevant", "all"),
    )
    sigma: float = option(0.05, "Standard deviation of the Gaussian noise (rg).")
    eps_mode: str = option(
        "absolute", "Lengths as given, or times the RMS of the row's embeddings.", ("absolute", "relative")
    )
    consistency: str = option(
        "none", "Divergence between a group's origin and its other rows.", ("none", "kl", "js", "mse")
    )
    consistency_weight: float = option(0.01, "Weight lambda of the consistency.")
    temperature: float = option(1.0, "Temperature T of the distributions that kl and js compare.")
    consistency_direction: str | None = _profiled(
        "consistency_direction",
        "kl from the origin to a row; or every divergence the other way, the origin fixed.",
        ("forward", "reverse"),
    )
    consistency_reduce: str | None = _profiled(
        "consistency_reduce", "Over rows and tokens of a group.", ("mean", "sum")
    )
    consistency_items: str | None = _profiled(
        "consistency_items",
        "Items with a row that differs from the origin; or all, rows that cannot be moved as their own copies.",
        ("changed", "all"),
    )
    consistency_floor: float | None = _profiled(
        "consistency_floor", "Least probability that is compared; distributions are renormalised above it."
    )
    answer_position: str | None = _profiled(
        "answer_position",
        "Where distributions are compared: where the answer token is predicted, or one late, at its label.",
        ("prediction", "label"),
    )
    end_token: bool | None = _profiled("end_token", "Whether the end of an answer is learnt, too.")
    vqa_turns: str | None = _profiled("vqa_turns", "Turns of a conversation that are trained on.", ("all", "first"))
    freeze: str | None = _profiled(
        "freeze",
        "What does not learn: nothing, the vision encoder, or also the Q-Former of a model that has one.",
        ("vision", "vision_and_qformer", "none"),
    )
    pool: str | None = _profiled("pool", "Irrelevant photographs: a folder, a source, or `own`.")
    draws: int | None = _profiled("draws", "From how many noise images and photographs a condition draws.")
    canvas: int | None = _profiled("canvas", "Side in pixels of noise, black and white images.")
    unrelated_texts: str | None = _profiled("unrelated_texts", "Unrelated sentences: a file, one a line, or `own`.")
    sentence_draw: str | None = _profiled(
        "sentence_draw",
        "Different sentences without the item's options, or any, with replacement.",
        ("distinct", "any"),
    )
    fact_text: str | None = _profiled(
        "fact_text",
        "A misleading text of a caption and a fact, or the item's first fact alone.",
        ("composed", "as_given"),
    )
    system_text: str | None = _profiled("system_text", "System turn of items with options: a file, `none`, or `own`.")
    closing_text: str | None = _profiled("closing_text", "Line after the options: a file, `none`, or `own`.")
    question_header: str | None = _profiled(
        "question_header",
        "Items that have the line 'Question:': all, those with choices, or none.",
        ("all", "choices", "none"),
    )

    @property
    def materials(self) -> Materials:
        """Pools and prompts of the run. Raises InputError for a value that is none."""
        chosen = {name: getattr(self, name) for name in materials.SETTINGS}
        with as_field():
            return Materials(**{name: value for name, value in chosen.items() if value not in (None, OWN)})

    def over(self, bench: Benchmark) -> Benchmark:
        """Return a benchmark with the pools and prompts of the run. Raises InputError for a file that has none."""
        with as_field():
            return replace(bench, pools=self.materials.over(bench.pools))

    def resolve(self, full_precision: bool) -> None:
        """Take the profile's value for each field that was not given.

        Raises InputError for an unknown profile, and for a field that was given, is not ours, and changes nothing
        with the others.
        """
        if self.profile not in PROFILES:
            raise InputError(f"field 'profile' is {self.profile!r}: {nearest(str(self.profile), PROFILES)}")
        given = [name for name, (ours, _) in SETTINGS.items() if getattr(self, name) not in (None, ours)]
        for name, values in SETTINGS.items():
            if getattr(self, name) is None:
                setattr(self, name, values[PROFILES.index(self.profile)])
                self._adapt(name, full_precision)
        for name in given:
            self._check_used(name)

    def _adapt(self, name: str, full_precision: bool) -> None:
        """Let a published value follow the kind of run, as the published code does."""
        if self.profile == "published" and name == "consistency_reduce" and self.consistency == "mse":
            self.consistency_reduce = "mean"
        if self.profile == "published" and name == "consistency_floor" and full_precision:
            self.consistency_floor = 1e-8 if (self.consistency, self.adversary) == ("kl", "none") else 1e-6

    def _check_used(self, name: str) -> None:
        """Raise InputError where a field that was given has nothing to change."""
        other, valid = NEEDS.get(name, (name, ()))
        if valid and getattr(self, other) not in valid:
            raise InputError(
                f"field '{name}' is {getattr(self, name)!r}, which changes nothing where '{other}' is"
                f" {getattr(self, other)!r}: set '{other}' to {' or '.join(valid)}, or leave '{name}' out"
            )
