"""`mmi_hf`: any transformers image-text-to-text model as an lmms-eval chat model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms
from tqdm import tqdm

from mmi_plugin.errors import InputError, nearest
from mmi_plugin.harness.answer import result
from mmi_plugin.harness.checkpoint import load_model, load_processor
from mmi_plugin.harness.failures import Guarded
from mmi_plugin.harness.order import Request, batches, served
from mmi_plugin.harness.scorer import Row, Scorer

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class MmiHf(lmms):
    """Greedy answers with the probability of each option; a batch answers as single rows do.

    Prompts that show the same image share it, see `scorer`.

    `device` and `dtype` default to what accelerate chooses and to bf16 on a GPU, fp32 on a CPU.
    Weights are read from safetensors only. Raises InputError for arguments or a checkpoint that
    cannot be used.
    """

    is_simple = False
    reports_answers = True  # to the cache hook, batch by batch

    def __init__(
        self,
        pretrained: str = "",
        revision: str = "main",
        dtype: str = "auto",
        device: str | None = None,
        device_map: str | None = None,
        attn_implementation: str | None = None,
        trust_remote_code: bool = False,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__()
        for name in unknown:
            raise InputError(f"--model_args: mmi_hf has no argument {name!r}: {nearest(name, _arguments())}")
        if not pretrained:
            raise InputError("--model_args: pretrained=FOLDER is missing")
        self.batch_size = _positive(batch_size)
        self.accelerator = Accelerator()
        self._rank = self.accelerator.process_index
        self._world_size = self.accelerator.num_processes
        self.device = torch.device(device) if device and self._world_size == 1 else self.accelerator.device
        self._model = load_model(
            pretrained,
            revision=revision,
            dtype=_dtype(dtype, self.device),
            device_map=device_map,
            attn_implementation=attn_implementation,
            trust_remote_code=trust_remote_code,
        )
        if device_map is None:
            self._model.to(self.device)
        processor = load_processor(pretrained, revision, trust_remote_code)
        self._scorer = Scorer(self._model, processor, self.batch_size, pretrained)
        self._served: set[str] = set()

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """Return one answer per request, in their order; `failures` says what happens to those that fail."""
        answers: dict[int, GenerationResult] = {}
        guarded = Guarded(self._answer)
        with tqdm(total=len(requests), desc="Model Responding", disable=self._rank != 0) as bar:
            for batch in self._batches(requests):
                rows = [requests[index] for index in batch]
                for index, answer in zip(batch, guarded(rows), strict=True):
                    answers[index] = answer
                    self.cache_hook.add_partial("generate_until", requests[index], answer)
                bar.update(len(batch))
        return [answers[index] for index in range(len(requests))]

    def _batches(self, requests: Sequence[Instance]) -> Iterator[list[int]]:
        """Yield the indices of requests that are answered together, in a good order."""
        keys = []
        for request in requests:
            context, _, settings = request.args[:3]
            image = self._document(request)["image_key"] if self._is_ours(request) else None
            keys.append(Request(json.dumps(settings, sort_keys=True, default=str), image, len(context)))
        self._served = served(keys)
        return batches(keys, self.batch_size)

    def _documents(self, request: Instance) -> Any:
        _, _, _, _, task, split = request.args
        return self.task_dict[task][split]

    def _document(self, request: Instance) -> Mapping[str, Any]:
        return self._documents(request)[request.args[3]]

    def _is_ours(self, request: Instance) -> bool:
        """Whether its document is one of `harness.documents`, and says what images and options it has."""
        return "image_key" in getattr(self._documents(request), "column_names", ())

    def _answer(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        answers = self._scorer.answer([self._row(request) for request in requests], requests[0].args[2])
        return [result(answer.text, answer.tokens, answer.probabilities) for answer in answers]

    def _row(self, request: Instance) -> Row:
        document = self._document(request)
        chat = _conversation(request.args[1](document))
        if not self._is_ours(request):
            return Row(chat)
        return Row(chat, tuple(document["choices"]), document["image_key"] in self._served)

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        raise InputError("mmi_hf generates answers; it has no likelihood requests")

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        raise InputError("mmi_hf answers in one round")


def _arguments() -> list[str]:
    return ["pretrained", "revision", "dtype", "device", "device_map", "attn_implementation", "trust_remote_code"]


def _positive(batch_size: int | str) -> int:
    if not str(batch_size).isdecimal() or int(batch_size) < 1:
        raise InputError(f"--batch_size is {batch_size!r}, not a positive integer")
    return int(batch_size)


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in _DTYPES:
        raise InputError(f"--model_args: dtype {name!r}: {nearest(name, _DTYPES)}")
    return _DTYPES[name]


def _conversation(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Turn lmms-eval's messages into those of transformers."""
    return [{"role": turn["role"], "content": [_part(part) for part in turn["content"]]} for turn in messages]


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    if part["type"] == "text":
        return {"type": "text", "text": part["text"]}
    if part["type"] == "image":
        return {"type": "image", "image": part["url"]}
    raise InputError(f"mmi_hf takes text and images, not {part['type']}")
