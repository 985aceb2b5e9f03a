"""Train the base model of the demonstration from scratch: python -m mmi_plugin.demo.build_base

It learns what a pre-trained model knows (digits, capitals, sums, options by letter) from
captions that agree with their images, and is therefore misled by captions that do not.
"""

from __future__ import annotations

import torch
from torch.nn.functional import affine_grid, cross_entropy, grid_sample
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from mmi_plugin.demo import corpus
from mmi_plugin.demo.architecture import IMAGE_TOKEN

SEED = 0
IMAGE, PATCH = 32, 8
VISION, TEXT = (96, 3, 4), (128, 6, 4)
VOCABULARY = 2600
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
            image = f"{image_tokens}\n" if chat.image is not None and number == 0 else ""
            if chat.image is None:
                prompt = tokenizer.encode(text, add_special_tokens=False)
                reply = tokenizer.encode(answer, add_special_tokens=False)
            else:
                prompt = tokenizer.encode(f"USER: {image}{text}\nASSISTANT:\n", add_special_tokens=False)
                reply = tokenizer.encode(f"{answer}</s>", add_special_tokens=False)
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
        torch.optim.Muon(inner, lr=lr * 7, weight_decay=0.0),
        torch.optim.AdamW(outer, lr=lr, betas=(0.9, 0.98), weight_decay=0.01),
    ]
