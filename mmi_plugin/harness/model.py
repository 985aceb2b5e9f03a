"""`mmi_hf`: any transformers image-text-to-text model as an lmms-eval chat model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from tqdm import tqdm

from mmi_plugin.errors import InputError, nearest
from mmi_plugin.harness.checkpoint import load_model, load_processor
from mmi_plugin.harness.failures import Guarded

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_MAX_NEW_TOKENS = 128  # for a task that does not say


class MmiHf(lmms):
    """Greedy generation in batches, padded on the left: a batch answers as single rows do.

    `device` and `dtype` default to what accelerate chooses and to bf16 on a GPU, fp32 on a CPU.
    Weights are read from safetensors only. Raises InputError for arguments or a checkpoint that
    cannot be used.
    """

    is_simple = False

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
        self.processor = load_processor(pretrained, revision, trust_remote_code)

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
        """Yield indices of requests with equal settings and similar length, the longest first."""

        def key(index: int) -> tuple[str, int]:
            context, _, settings = requests[index].args[:3]
            return json.dumps(settings, sort_keys=True, default=str), -len(context)

        batch: list[int] = []
        for index in sorted(range(len(requests)), key=key):
            if batch and (len(batch) == self.batch_size or key(index)[0] != key(batch[0])[0]):
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch

    def _answer(self, rows: Sequence[Instance]) -> list[GenerationResult]:
        documents = [self.task_dict[task][split][doc] for _, _, _, doc, task, split in (row.args for row in rows)]
        chats = [row.args[1](document) for row, document in zip(rows, documents, strict=True)]
        return self._generate([_conversation(chat) for chat in chats], rows[0].args[2])

    @torch.inference_mode()
    def _generate(self, chats: list[list[dict[str, Any]]], settings: Mapping[str, Any]) -> list[GenerationResult]:
        if settings.get("do_sample") or settings.get("num_beams", 1) > 1:
            raise InputError(f"mmi_hf decodes greedily, and the task asks for {dict(settings)}")
        inputs = self.processor.apply_chat_template(
            chats,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            processor_kwargs={"padding": True, "return_tensors": "pt"},
        ).to(self._model.device, self._model.dtype)
        tokenizer = self.processor.tokenizer
        output = self._model.generate(
            **inputs,
            max_new_tokens=settings.get("max_new_tokens", _MAX_NEW_TOKENS),
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=self._model.generation_config.eos_token_id or tokenizer.eos_token_id,
        )
        new = output[:, inputs["input_ids"].shape[1] :]
        texts = tokenizer.batch_decode(new, skip_special_tokens=True)
        lengths = (new != tokenizer.pad_token_id).sum(dim=1).tolist()
        return [
            GenerationResult(_cut(text, settings.get("until") or ()), TokenCounts(output_tokens=length))
            for text, length in zip(texts, lengths, strict=True)
        ]

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


def _cut(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.split(stop)[0] if stop else text
    return text
