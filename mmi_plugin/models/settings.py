"""How an answer is decoded, read from lmms-eval's `generation_kwargs`; everything else in them is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mmi_plugin.errors import InputError, nearest


@dataclass(frozen=True)
class Decoding:
    """Greedy decoding. The answer ends before the first of `stops`; `repetition_penalty` and
    `no_repeat_ngram_size` mean what they mean in transformers; 0 and 1.0 change nothing."""

    max_new_tokens: int = 128
    min_new_tokens: int = 0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    stops: tuple[str, ...] = ()

    @classmethod
    def parse(cls, settings: Mapping[str, Any]) -> Decoding:
        """Return what `generation_kwargs` of a task with those of `--gen_kwargs` ask for.

        A None leaves the default, as in lmms-eval. Raises InputError for a key that would have no effect, a value
        of another type or out of range, and whatever is not greedy.
        """
        found: dict[str, Any] = {}
        for key, given in settings.items():
            value = None if key not in _TEXTS and str(given).lower() in ("none", "null") else given
            if key in _READERS and value is not None:
                found[key] = _READERS[key](key, value)
            elif key in _ONLY:
                _check_only(key, value)
            elif key in _ELSEWHERE and value not in (None, ""):
                raise InputError(f"--gen_kwargs: {key} is no setting of the decoding: give {_ELSEWHERE[key]}")
            elif key not in (*_READERS, *_ELSEWHERE):
                raise InputError(f"--gen_kwargs: no setting {key!r}: {nearest(key, (*_READERS, *_ONLY))}")
        stops = tuple(stop for key in _TEXTS for stop in found.pop(key, ()))
        decoding = cls(**found, stops=stops)
        if decoding.min_new_tokens > decoding.max_new_tokens:
            raise InputError(
                f"--gen_kwargs: min_new_tokens is {decoding.min_new_tokens}, more than max_new_tokens, "
                f"{decoding.max_new_tokens}"
            )
        return decoding

    def cut(self, text: str) -> str:
        """Return `text` up to the first stop in it."""
        return text[: min((text.find(stop) for stop in self.stops if stop in text), default=len(text))]

    def to_dict(self) -> dict[str, Any]:
        """Return the record of a run: all fields, as JSON has them."""
        return {**asdict(self), "stops": list(self.stops)}


def _check_only(key: str, value: Any) -> None:
    """Raise InputError unless `value` asks for what is done anyway."""
    reason, *valid = _ONLY[key]
    if value is not None and not any(value == one and type(value) in (type(one), float) for one in valid):
        raise InputError(f"--gen_kwargs: {key}={value!r}: mmi_hf {reason}: {key}={valid[0]!r}")


def _integer(least: int) -> Callable[[str, Any], int]:
    def read(key: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1 or value < least:
            raise InputError(f"--gen_kwargs: {key} is {value!r}, not an integer of {least} or more")
        return int(value)

    return read


def _positive(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InputError(f"--gen_kwargs: {key} is {value!r}, not a positive number")
    return float(value)


def _texts(key: str, value: Any) -> tuple[str, ...]:
    """Read a text or a list of texts; on a command line a list is written as JSON."""
    if isinstance(value, str) and value.startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            value = [value]
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"--gen_kwargs: {key} is {value!r}, not a text or a list of texts")
    return tuple(text for text in texts if text)


_READERS: dict[str, Callable[[str, Any], Any]] = {
    "max_new_tokens": _integer(1),
    "min_new_tokens": _integer(0),
    "repetition_penalty": _positive,
    "no_repeat_ngram_size": _integer(0),
    "until": _texts,
    "stop_sequences": _texts,
}
_TEXTS = ("until", "stop_sequences")
_ONLY: dict[str, tuple[Any, ...]] = {  # why, and the values that ask for what is done anyway
    **{key: ("decodes greedily", 0, 1) for key in ("top_k", "top_p")},
    **{key: ("decodes greedily", 1) for key in ("num_beams", "num_return_sequences", "length_penalty")},
    "temperature": ("decodes greedily", 0),
    "do_sample": ("decodes greedily", False),
    "early_stopping": ("decodes greedily", False),
    "use_cache": ("keeps keys and values", True),
    "image_aspect_ratio": ("leaves images as they are to the processor", "original"),
    "visual_cot": ("answers in text", False),
    "skip_special_tokens": ("answers in text", True),
}
"""Those of images are for models of lmms-eval that prepare images, or make them, themselves."""
_ELSEWHERE = {
    "max_pixels": "--model_args max_pixels=N",
    "min_pixels": "--model_args min_pixels=N",
    "system_prompt": "--system_instruction TEXT",
}
