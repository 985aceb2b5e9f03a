"""Prompts in, the inputs of these and of their contrasts out: baselines without training.

A baseline is one entry of `METHODS`: the contrast, how both logits combine, which tokens stay possible. The rows of
a batch and their contrasts run through the model side by side; `combine` makes one answer of both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image

from mmi_plugin.errors import InputError, nearest
from mmi_plugin.item import LETTERS, image_hash, stream
from mmi_plugin.models.chats import Chat, images_of, mapped
from mmi_plugin.models.decode import Decoding
from mmi_plugin.models.prompt import Prompts
from mmi_plugin.models.tokens import Tensors

Settings = Mapping[str, Any]
_STEPS, _BETAS, _SIGMOID = 1000, (1e-5, 5e-3), 6.0  # of VCD's diffusion
_STEEPEST = 60.0  # exponent of M3ID's weight, which would leave fp32 after some thousand tokens


@dataclass(frozen=True)
class Method:
    """`settings`: names and defaults. With l of the prompt, u of its `contrast` and w = `weight(settings, t)` at the
    t-th token (the first is 1): l + w (l - u) is decoded from, or l - u where `ratio`.

    contrast: the prompt itself with its pixels `noised`, with a `random_image`, or `without_image`, `without_text`.
    options_alone: where an item's options are answered, these alone are possible. instruction: ends the question.
    Its `alpha` from `start_layer` on to before `end_layer` (0: all) is how much more images are attended to there.
    """

    settings: Settings
    contrast: str | None = None
    weight: Callable[[Settings, int], float] = lambda own, t: own.get("alpha", 0.0)
    ratio: bool = False
    options_alone: bool = False
    instruction: str = ""


_CONTRASTIVE = {"alpha": 1.0, "beta": 0.1}
METHODS: dict[str, Method] = {
    "vcd": Method({**_CONTRASTIVE, "step": 500, "seed": 0}, "noised"),
    "m3id": Method({"decay": 0.02}, "without_image", lambda own, t: math.expm1(min(own["decay"] * t, _STEEPEST))),
    "pai": Method(
        {"alpha": 0.2, "guidance": 1.1, "beta": 0.1, "start_layer": 2, "end_layer": 0},
        "without_image",
        lambda own, t: own["guidance"] - 1,
    ),
    "debias": Method({"beta": 0.1}, "without_image", ratio=True, options_alone=True),
    "without_image": Method(_CONTRASTIVE, "without_image"),
    "without_text": Method(_CONTRASTIVE, "without_text"),
    "chain_of_thought": Method(
        {"tokens": 256},
        instruction="Reason in a few short sentences first. Then end with a line of its own: The answer is ...",
    ),
    "describe_first": Method(
        {"tokens": 256},
        instruction="First describe in a sentence or two what the image shows and what is asked. "
        "Then end with a line of its own: The answer is ...",
    ),
    "self_consistency": Method({"samples": 5, "temperature": 0.7, "seed": 0}),
    "cut": Method({"beta": 0.1}),
    "shift": Method({"letter": "A", "by": 1.0}),
    "random_image": Method({**_CONTRASTIVE, "seed": 0}, "random_image"),
}
CONTROLS = ("cut", "shift", "random_image")
"""What explains gains of contrasts that are none of the contrast."""

_LEAST: dict[str, float] = {"step": 0, "seed": 0, "samples": 1, "tokens": 1, "guidance": 1, "by": -math.inf}
_MOST: dict[str, float] = {"step": _STEPS - 1, "beta": 1}
_NEVER_ZERO = ("decay", "temperature")


@dataclass(frozen=True)
class Baseline:
    """One of `METHODS` with all its settings."""

    name: str
    settings: Settings = field(default_factory=dict)

    @classmethod
    def take(cls, name: str | None, given: dict[str, Any]) -> Baseline | None:
        """Return the baseline `name` with its settings, NAME_SETTING, which leave `given`; None for none.

        Raises InputError for an unknown baseline or setting, one of another baseline, and a value that cannot be.
        """
        if name is not None and name not in METHODS:
            raise InputError(f"--model_args: baseline {name!r}: {nearest(str(name), METHODS)}")
        known = {f"{one}_{key}": (one, key) for one, method in METHODS.items() for key in method.settings}
        found = dict(METHODS[name].settings) if name else {}
        for key in list(given):
            owner, own = known.get(key, ("", ""))
            if owner and owner != name:
                raise InputError(f"--model_args: {key} acts with baseline={owner} only")
            if not owner and name and key.startswith(f"{name}_"):
                raise InputError(f"--model_args: {key}: {nearest(key, [f'{name}_{one}' for one in found])}")
            if owner:
                found[own] = _value(key, own, given.pop(key), found[own])
        return cls(name, found) if name else None

    @property
    def method(self) -> Method:
        """What it does."""
        return METHODS[self.name]

    @property
    def samples(self) -> int:
        """How many answers are drawn, of which most decide."""
        return self.settings.get("samples", 1)

    @property
    def attends_more(self) -> bool:
        """Whether the prompt's images are attended to more than the model does."""
        return "start_layer" in self.settings and self.settings["alpha"] > 0

    @property
    def reads_options(self) -> bool:
        """Whether it acts on the tokens of options."""
        return self.method.options_alone or "letter" in self.settings

    def to_dict(self) -> dict[str, Any]:
        """Return the record of a run, as JSON has it."""
        said = {"instruction": self.method.instruction} if self.method.instruction else {}
        return {"name": self.name, **self.settings, **said}

    def decoding(self, decoding: Decoding) -> Decoding:
        """Return the decoding with room for what the instruction asks for."""
        return replace(decoding, max_new_tokens=max(decoding.max_new_tokens, self.settings.get("tokens", 1)))

    def chat(self, chat: Chat) -> Chat:
        """Return a chat with the instruction at the end of its question."""
        if not self.method.instruction:
            return chat
        last = {**chat[-1], "content": [*chat[-1]["content"], _text(f"\n{self.method.instruction}")]}
        return [*chat[:-1], last]

    def inputs(self, prompts: Prompts, chats: Sequence[Chat]) -> Tensors:
        """Return the model's inputs for a batch of prompts and, after all of them, for their contrasts."""
        if self.method.contrast is None:
            return prompts.inputs(chats)
        if not any(images_of(chat) for chat in chats):
            prompts.say_once(f"baseline {self.name} cannot act on prompts without an image: there is no contrast")
        others = [_CONTRASTS[self.method.contrast](chat, self.settings) for chat in chats]
        inputs = prompts.inputs([*chats, *others])
        return _noised(inputs, prompts, chats, self.settings) if self.method.contrast == "noised" else inputs


def _value(key: str, name: str, given: Any, default: Any) -> Any:
    """Return a setting's value. Raises InputError for one of another type or out of range."""
    if isinstance(default, str):
        if given not in tuple(LETTERS):
            raise InputError(f"--model_args: {key} is {given!r}, not a capital letter")
        return given
    least, most = _LEAST.get(name, 0.0), _MOST.get(name, math.inf)
    number = isinstance(given, int | float) and not isinstance(given, bool) and math.isfinite(given)
    whole = isinstance(default, float) or (number and given == int(given))
    if not number or not whole or not least <= given <= most or (name in _NEVER_ZERO and not given):
        kind = "a number" if isinstance(default, float) else "an integer"
        bounds = f" from {least:g}" * (least > -math.inf) + f" to {most:g}" * (most < math.inf)
        raise InputError(f"--model_args: {key} is {given!r}, not {kind}{bounds}{', but 0' * (name in _NEVER_ZERO)}")
    return type(default)(given)


# --- contrasts


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _without_image(chat: Chat, settings: Settings) -> Chat:
    return mapped(chat, lambda role, part: [] if part["type"] == "image" else [part])


def _without_text(chat: Chat, settings: Settings) -> Chat:
    """Empty the user's texts; of a prompt without an image nothing would be left, so it stays."""
    if not images_of(chat):
        return chat
    return mapped(chat, lambda role, part: [_text("") if role == "user" and part["type"] == "text" else part])


def _random_image(chat: Chat, settings: Settings) -> Chat:
    def noise(image: Image.Image) -> Image.Image:
        pixels = stream("random_image", settings["seed"], image_hash(image)).randbytes(3 * image.width * image.height)
        return Image.frombytes("RGB", image.size, pixels)

    return mapped(chat, lambda role, part: [{**part, "image": noise(part["image"])} if "image" in part else part])


_CONTRASTS: dict[str, Callable[[Chat, Settings], Chat]] = {
    "noised": lambda chat, settings: chat,
    "without_image": _without_image,
    "without_text": _without_text,
    "random_image": _random_image,
}


def kept_signal(step: int) -> float:
    """Return the share of the variance that is the image's at a step, from 0 on, of VCD's diffusion."""
    low, high = _BETAS
    betas = torch.linspace(-_SIGMOID, _SIGMOID, _STEPS, dtype=torch.float64).sigmoid() * (high - low) + low
    return (1 - betas).cumprod(0)[step].item()


def generator(*names: object) -> torch.Generator:
    """Return a generator on the CPU, seeded by `names`: the same noise on every device."""
    return torch.Generator().manual_seed(stream(*names).getrandbits(63))


def _noised(inputs: Tensors, prompts: Prompts, chats: Sequence[Chat], settings: Settings) -> Tensors:
    """Return inputs of prompts and, after them, of the same prompts again, whose normalised pixels get noise.

    Whose pixels are whose is found by preparing the images of each prompt by themselves, as families lay them out
    differently and pad them. Raises InputError where these are not found again.
    """
    if "pixel_values" not in inputs:
        return inputs
    pixels, signal = inputs["pixel_values"].clone(), kept_signal(settings["step"])
    shown = [prompts.joined(images_of(chat)) for chat in chats]
    alone = [prompts.images([images])[0]["pixel_values"] if images else None for images in shown]
    by_row = len(pixels) == 2 * len(chats) and all(own is None or len(own) == 1 for own in alone)
    place = len(pixels) // 2
    for images, own in zip(shown, alone, strict=True):
        count = int(by_row) if own is None else len(own)
        if own is not None:
            part = (slice(place, place + count), *(slice(size) for size in own.shape[1:]))
            if pixels[part].shape != own.shape or not torch.allclose(pixels[part], own, atol=1e-4):
                raise InputError(
                    f"baseline=vcd: {type(prompts.processor).__name__} does not show which pixels are of which prompt: "
                    "baseline=random_image or without_image"
                )
            noise = generator("vcd", settings["seed"], *map(image_hash, images))
            drawn = torch.randn(own.shape, generator=noise)
            pixels[part] = math.sqrt(signal) * own + math.sqrt(1 - signal) * drawn
        place += count
    return {**inputs, "pixel_values": pixels}
