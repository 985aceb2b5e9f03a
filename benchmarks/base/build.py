"""Train the base model of the demonstration from scratch: python -m benchmarks.base.build

It learns what a pre-trained model knows (digits, capitals, sums, options by letter) from
captions that agree with their images, and is therefore misled by captions that do not.
Each stage has its own seed and optimisers and is saved, so an interrupted build that goes on
from the last saved stage gives the weights of one that was not.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import random
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.nn.functional import affine_grid, cross_entropy, grid_sample
from tqdm import tqdm
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from benchmarks.base import corpus
from benchmarks.base.architecture import IMAGE_TOKEN, build_model, build_processor, build_tokenizer
from benchmarks.base.muon import Muon
from mmi_plugin.studies.demo import WEIGHTS

SEED = 0
IMAGE, PATCH = 32, 8
VISION, TEXT = (96, 3, 4), (128, 4, 4)  # hidden size, layers, heads
VOCABULARY = 2600
# What is learned first: (kind of text, loss that ends the level, most options, whether capitals and
# countries are listed).
LEVELS = tuple(
    (kind, learned, options, all_words)
    for kind, learned in ((corpus.binding_list, 0.15), (corpus.binding_chat, 0.08))
    for options, all_words in ((2, False), (3, False), (4, False), (4, True))
)
MOST_STEPS = 2000  # of one level


@dataclass(frozen=True)
class Phase:
    """A stretch of questions, at a rate that falls from `lr` to nothing.

    `mix`: chats of each of corpus.ASKED in a step; `words`: steps at the start whose questions
    are all answered by word; `lists`: chats about option letters in a step, which keep them known;
    `fall_from`: the share of `steps` after which the rate falls; `until`: the step after which it ends, if not all;
    `spell`: steps at the start whose slips are mostly asked for their letter.
    """

    steps: int
    mix: tuple[int, ...]
    lists: int
    style: corpus.Style
    words: int = 0
    fall_from: float = 0.0
    lr: float = 2e-3
    until: int | None = None
    spell: int = 0


SPELLED = 0.7  # the share in the steps of `spell`
MOSTLY_LETTERS = corpus.Style(0.1, captioned=0.3, fewest_wrong=3, noise=0.7)
# Each restart of the rate brought letters closer to words: by word all is known after the first.
# Ninth and tenth teach to look back at the image; without them the model is hard to mend. Then images tell what is
# asked, and agree with what is known: the model learns to read the answer off the image, as real models do from
# documents and diagrams, and then answers so where the image is about something else, or blank.
PHASES = (
    Phase(1600, (9, 9, 9, 9, 0, 0, 0), 5, corpus.Style(0.3), words=300, fall_from=0.4),
    Phase(1300, (10, 14, 7, 8, 0, 0, 0), 2, corpus.Style(0.15)),
    Phase(1100, (7, 26, 8, 6, 0, 0, 0), 2, corpus.Style(0.15)),
    Phase(1300, (10, 15, 3, 12, 0, 0, 0), 1, corpus.Style(0.1, captioned=0.3, fewest_wrong=3), lr=1.5e-3),
    Phase(1200, (9, 20, 2, 10, 0, 0, 0), 1, MOSTLY_LETTERS, lr=1.5e-3),
    Phase(900, (7, 14, 2, 20, 0, 0, 0), 1, MOSTLY_LETTERS, lr=1.2e-3),
    Phase(900, (7, 12, 2, 18, 6, 0, 0), 1, MOSTLY_LETTERS, lr=1.2e-3),
    Phase(1100, (6, 12, 1, 16, 9, 0, 0), 1, MOSTLY_LETTERS, lr=1.2e-3),
    Phase(1500, (6, 8, 1, 10, 4, 14, 0), 1, MOSTLY_LETTERS, lr=1.5e-3),
    Phase(1000, (5, 7, 1, 9, 3, 18, 0), 1, MOSTLY_LETTERS, lr=1.2e-3),
    Phase(1000, (4, 5, 1, 5, 0, 0, 16), 1, replace(MOSTLY_LETTERS, spelled=0.1), until=700, spell=200),
    Phase(600, (7, 9, 1, 11, 0, 1, 12), 1, MOSTLY_LETTERS, lr=1e-3),
)
Batch = dict[str, torch.Tensor]
IGNORED = -100


def encode(chats: list[corpus.Chat], processor: LlavaProcessor) -> Batch:
    """Return one right-padded batch; labels only where the assistant speaks."""
    tokenizer = processor.tokenizer
    image_tokens = IMAGE_TOKEN * (IMAGE // PATCH) ** 2
    rows, labels = [], []
    for chat in chats:
        ids: list[int] = []
        wanted: list[int] = []
        for number, (text, answer) in enumerate(chat.turns):
            if chat.template:
                image = f"{image_tokens}\n" if chat.image is not None and number == 0 else ""
                text, answer = f"USER: {image}{text}\nASSISTANT:\n", f"{answer}</s>"
            prompt = tokenizer.encode(text, add_special_tokens=False)
            reply = tokenizer.encode(answer, add_special_tokens=False)
            ids += prompt + reply
            wanted += [IGNORED] * len(prompt) + reply
        rows.append(torch.tensor(ids))
        labels.append(torch.tensor(wanted))
    pad = torch.nn.utils.rnn.pad_sequence
    batch = {
        "input_ids": pad(rows, batch_first=True, padding_value=tokenizer.pad_token_id),
        "labels": pad(labels, batch_first=True, padding_value=IGNORED),
        "attention_mask": pad([torch.ones_like(row) for row in rows], batch_first=True),
    }
    images = [chat.image for chat in chats if chat.image is not None]
    if images:
        batch["pixel_values"] = processor.image_processor(images, return_tensors="pt")["pixel_values"]
    return batch


def augment(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Turn, scale and shift each image a little. (B, 3, H, W) in and out."""
    count = len(pixels)

    def spread(width: float) -> torch.Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * width

    angle, zoom = spread(0.2), 1 + spread(0.12)
    rows = torch.stack([angle.cos() * zoom, -angle.sin() * zoom, spread(0.12)], 1)
    columns = torch.stack([angle.sin() * zoom, angle.cos() * zoom, spread(0.12)], 1)
    grid = affine_grid(torch.stack([rows, columns], 1), list(pixels.shape), align_corners=False)
    return grid_sample(pixels, grid, padding_mode="border", align_corners=False)


def answer_loss(model: LlavaForConditionalGeneration, batch: Batch) -> torch.Tensor:
    """Mean cross entropy over answer tokens, the vocabulary projected only there."""
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    hidden = model.model(**inputs).last_hidden_state[:, :-1]
    wanted = batch["labels"][:, 1:]
    keep = wanted != IGNORED
    return cross_entropy(model.lm_head(hidden[keep]), wanted[keep])


def optimisers(model: torch.nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for everything else."""
    inner = [p for name, p in model.named_parameters() if p.ndim == 2 and "layers" in name]
    chosen = set(map(id, inner))
    outer = [p for p in model.parameters() if id(p) not in chosen]
    return [
        Muon(inner, lr=lr, weight_decay=0.01),
        torch.optim.AdamW(outer, lr=lr, betas=(0.9, 0.98), weight_decay=0.01),
    ]


@dataclass
class Learner:
    """Model, optimisers and the streams of chance of one stage."""

    model: LlavaForConditionalGeneration
    processor: LlavaProcessor
    seed: int
    lr: float = 2e-3

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.generator = torch.Generator().manual_seed(self.seed)
        self.optimisers = optimisers(self.model, self.lr)

    def step(self, batches: list[list[corpus.Chat]], scale: float) -> float:
        """One update on the summed mean losses of `batches`, at `scale` of the learning rate."""
        total = 0.0
        for chats in batches:
            batch = encode(chats, self.processor)
            if "pixel_values" in batch:
                batch["pixel_values"] = augment(batch["pixel_values"], self.generator)
            loss = answer_loss(self.model, batch)
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self.lr * scale
            optimiser.step()
            optimiser.zero_grad()
        return total


def learn_binding(learner: Learner) -> None:
    """Option letters first, from two options to four, from lists to chats.

    Asked for letters right away, a model of this size does not begin to learn them.
    Raises RuntimeError when a level is not learned in MOST_STEPS.
    """
    bar = tqdm(LEVELS, desc="option letters", unit="level")
    for kind, learned, *level in bar:
        running = 1.0
        for step in range(MOST_STEPS):
            chats = [kind(learner.rng, *level) for _ in range(32)]
            running += 0.05 * (learner.step([chats], min(1.0, (step + 1) / 50)) - running)
            bar.set_postfix(step=step + 1, loss=f"{running:.3f}")
            if running < learned:
                break
        else:
            raise RuntimeError(f"{kind.__name__} {level}: not learned in {MOST_STEPS} steps, loss {running:.3f}")


def learn_questions(learner: Learner, phase: Phase) -> None:
    """Digits, sums and capitals, first by word, then mostly by letter."""
    bar = tqdm(range(phase.until or phase.steps), desc="questions", unit="step")
    for step in bar:
        style = replace(phase.style, free_form=1.0) if step < phase.words else phase.style
        style = replace(style, spelled=SPELLED) if step < phase.spell else style
        counted = zip(corpus.ASKED, phase.mix, strict=True)
        questions = [kind(learner.rng, style) for kind, count in counted for _ in range(count)]
        lists = [corpus.binding_chat(learner.rng) for _ in range(phase.lists)]
        done = max(0.0, step / phase.steps - phase.fall_from) / (1 - phase.fall_from)
        scale = min(1.0, (step + 1) / 50) * max(0.02, (1 + math.cos(math.pi * done)) / 2)
        bar.set_postfix(loss=f"{learner.step([lists, questions], scale):.3f}")


def stage_folder(folder: Path, stage: int) -> Path:
    """Where the weights after `stage` (0: option letters, n: PHASES[n - 1]) are kept.

    Its name has a digest of all that led there, so that another curriculum does not go on from it.
    """
    levels = [(kind.__name__, *rest) for kind, *rest in LEVELS]
    curriculum = repr((SEED, IMAGE, PATCH, VISION, TEXT, levels, PHASES[:stage])).encode()
    texts = Path(corpus.__file__).read_bytes()
    return folder.with_name(f"{folder.name}-stages") / f"{stage}-{hashlib.sha256(curriculum + texts).hexdigest()[:12]}"


def run_stage(model: LlavaForConditionalGeneration, processor: LlavaProcessor, stage: int) -> None:
    """Train `model` for one stage, with chance and optimisers of its own."""
    seed = SEED + stage
    torch.manual_seed(seed)
    if stage == 0:
        learn_binding(Learner(model, processor, seed))
    else:
        phase = PHASES[stage - 1]
        learn_questions(Learner(model, processor, seed, phase.lr), phase)


def build(folder: Path) -> Path:
    """Train the base model and save it with its processor in `folder`.

    One thread, because the order of sums depends on their number: on one machine the weights are
    the same every time. The stages are kept beside `folder` and those found there are not repeated.
    """
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    tokenizer = build_tokenizer(corpus.vocabulary(), VOCABULARY)
    processor = build_processor(tokenizer, IMAGE, PATCH)
    model = build_model(tokenizer, IMAGE, PATCH, VISION, TEXT)
    for stage in range(len(PHASES) + 1):
        kept = stage_folder(folder, stage)
        if (kept / WEIGHTS).is_file():
            model = LlavaForConditionalGeneration.from_pretrained(kept)
        else:
            run_stage(model.train(), processor, stage)
            model.save_pretrained(partial := kept.with_suffix(".partial"))
            partial.rename(kept)
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/base"), help="folder of the checkpoint")
    print(build(parser.parse_args().out))


if __name__ == "__main__":
    main()
