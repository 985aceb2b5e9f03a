"""lmms-eval's requests in, answers out: `mmi_hf`, any image-text-to-text model of transformers as a chat model."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms
from loguru import logger
from tqdm import tqdm

from mmi_plugin.answers import THOUGHTS
from mmi_plugin.errors import InputError, nearest
from mmi_plugin.harness.compat import failed, result
from mmi_plugin.models.baselines import Baseline
from mmi_plugin.models.evaluate import THINKING, Scorer, query_of
from mmi_plugin.models.families import prompts_of
from mmi_plugin.models.generate import Query
from mmi_plugin.models.load import fingerprint, load_model, load_processor
from mmi_plugin.models.meter import BatchSize, Trace
from mmi_plugin.models.order import OrderKey, answer_all, order_key, shared_images
from mmi_plugin.models.prompt import Prompts

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class MmiHf(lmms):
    """Greedy answers with the probability of each option; a batch answers as single rows do.

    Prompts that show the same image share it, see `models.evaluate.Scorer`.

    `device` and `dtype` default to what accelerate chooses and to bf16 on a GPU, fp32 on a CPU.
    Weights are read from safetensors only. chat_template_kwargs: variables of the chat template, a JSON object or
    `enable_thinking` by itself. max_thinking_tokens: what a thought may take, beside the tokens of the answer.
    deterministic: no answer depends on the batch it is in. trace: write a profile of five batches into `folder`, which
    an evaluation sets to that of its results. batch_size: a number, or "auto" for one found by trial, up to
    max_batch_size. baseline: what answers are decoded by, see `models.baselines`, with its settings as further
    arguments (`vcd_alpha`). processor: a folder or hub id with it, for weights without one. settings: of the
    processor, as `max_pixels`. Raises InputError for arguments or a checkpoint that cannot be used.
    """

    is_simple = False
    folder: Path | None = None
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
        chat_template_kwargs: Mapping[str, Any] | str | None = None,
        enable_thinking: bool | None = None,
        max_thinking_tokens: int = THINKING,
        processor: str | None = None,
        processor_kwargs: Mapping[str, Any] | str | None = None,
        deterministic: bool = False,
        trace: bool = False,
        baseline: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        self.baseline = Baseline.take(baseline, settings)
        _check_given(pretrained, {"deterministic": deterministic, "trace": trace}, settings)
        fixed, most = _batch_size(batch_size, max_batch_size)
        self.batch_size = fixed or "auto"
        thinking = _positive("--model_args: max_thinking_tokens", max_thinking_tokens, least=0)
        variables = _mapping("chat_template_kwargs", chat_template_kwargs, enable_thinking=enable_thinking)
        settings |= _mapping("processor_kwargs", processor_kwargs)
        self.accelerator = Accelerator()
        alone = self.accelerator.num_processes == 1
        self.device = _device(device) if device and alone else self.accelerator.device
        place = (processor, "main") if processor else (pretrained, revision)
        loaded = load_processor(*place, trust_remote_code, **settings)
        self._prompts = prompts_of(loaded, None, variables)
        how = {"device_map": device_map, "attn_implementation": attn_implementation}
        own = {"revision": revision, "trust_remote_code": trust_remote_code}
        self._model = load_model(pretrained, dtype=_dtype(dtype, self.device), **how, **own)
        if device_map is None:
            self._model.to(self.device)
        self._thinking, self._deterministic, self._scorer = thinking, deterministic, None
        self._sizes = {sharing: BatchSize(self._model.device, fixed, most) for sharing in (True, False)}
        self._shared, self.thoughts, self._traces = set[str](), THOUGHTS, trace and self.rank == 0
        self.record = {
            **fingerprint(loaded),
            "chat_template_kwargs": variables,
            "max_thinking_tokens": thinking,
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "deterministic": deterministic,
        }

    @property
    def prompts(self) -> Prompts:
        """What makes prompts of chats."""
        return self._prompts

    @property
    def scorer(self) -> Scorer:
        """What answers, made when first asked: `thoughts` may be set until then."""
        if self._scorer is None:
            self._scorer = Scorer(
                self._model, self._prompts, True, self.thoughts, self._thinking, self._deterministic, self.baseline
            )
            if self._scorer.opened:
                tag = self._scorer.opened.strip()
                logger.info(
                    f"the chat template opens a thought ({tag}), which may take {self._thinking} tokens "
                    "(--model_args max_thinking_tokens=N), beside those of the answer"
                )
        return self._scorer

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """Return one answer per request, in their order; `Guarded` says what happens to those that fail."""
        keys = [self._order_key(request) for request in requests]
        self._shared = shared_images(keys)
        guarded = Guarded(self._answer)
        trace = Trace(self.folder or Path(), self._model.device, "batches") if self._traces else None
        with tqdm(total=len(requests), desc="Model Responding", disable=self.rank != 0) as bar:

            def report(place: int, answer: GenerationResult) -> None:
                self.cache_hook.add_partial("generate_until", requests[place], answer)
                bar.update()

            def answer(places: list[int]) -> list[GenerationResult]:
                size = self._sizes[keys[places[0]].image in self._shared]
                with size.trial(len(places), self.scorer.meter), trace.round() if trace else nullcontext():
                    answers = guarded([requests[place] for place in places])
                    if guarded.most is not None:
                        size.limit(guarded.most)
                return answers

            with closing(trace) if trace else nullcontext():
                found = answer_all(self.scorer.ordered(keys), lambda sharing: self._sizes[sharing].now, answer, report)
        logger.info(f"mmi_hf: {', '.join(f'{name} {value}' for name, value in self.run.items())}")
        return found

    @property
    def run(self) -> dict[str, Any]:
        """What the answers took on this process: time, arithmetic, memory, and the size of batches, found or given."""
        sizes = {"batch_size": self._sizes[False].now, "batch_size_sharing_images": self._sizes[True].now}
        return self.scorer.meter.to_dict() | (sizes if self.batch_size == "auto" else {"batch_size": self.batch_size})

    def _order_key(self, request: Instance) -> OrderKey:
        context, _, settings = request.args[:3]
        text = json.dumps(settings, sort_keys=True, default=str)
        return (
            order_key(self._document(request), text) if self._is_ours(request) else OrderKey(text, None, len(context))
        )

    def _documents(self, request: Instance) -> Any:
        _, _, _, _, task, split = request.args
        return self.task_dict[task][split]

    def _document(self, request: Instance) -> Mapping[str, Any]:
        return self._documents(request)[request.args[3]]

    def _is_ours(self, request: Instance) -> bool:
        """Whether its document is one of `documents`, and says what images and options it has."""
        return "image_key" in getattr(self._documents(request), "column_names", ())

    def _answer(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        answers = self.scorer.answer([self._query(request) for request in requests], requests[0].args[2])
        return [result(answer) for answer in answers]

    def _query(self, request: Instance) -> Query:
        document = self._document(request)
        chat = _conversation(request.args[1](document))
        return query_of(document, chat, self._shared) if self._is_ours(request) else Query(chat)

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        raise InputError("mmi_hf generates answers; it has no likelihood requests")

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        raise InputError("mmi_hf answers in one round")


class Guarded:
    """Answers batches with `answer`, in order, whatever it raises; InputError passes.

    Out of memory halves the batch, and every later one; a request that fails alone is answered by `compat.failed`.
    """

    def __init__(self, answer: Callable[[Sequence[Instance]], list[GenerationResult]]) -> None:
        self._answer = answer
        self.most: int | None = None  # rows that memory has room for

    def __call__(self, rows: Sequence[Instance]) -> list[GenerationResult]:
        size = min(self.most or len(rows), len(rows))
        answers: list[GenerationResult] = []
        while len(answers) < len(rows):
            part = rows[len(answers) : len(answers) + size]
            try:
                answers += self._answer(part)
                continue
            except InputError:
                raise
            except Exception as error:
                logger.opt(exception=error).debug(f"a batch of {len(part)} failed")
                caught = error.with_traceback(None)  # the traceback holds the tensors of the batch
            if len(part) == 1:
                answers.append(failed(caught))
            elif _is_out_of_memory(caught):
                size = self._halve(len(part))
            else:
                answers += [answer for row in part for answer in self([row])]
        return answers

    def _halve(self, size: int) -> int:
        if self.most is None:
            logger.warning(f"out of memory with a batch of {size}: it is halved until it fits")
        self.most = size // 2
        clear_device_cache(garbage_collection=True)
        return self.most


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)


def _check_given(pretrained: str, truths: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raise InputError without a checkpoint, a setting may be `pretrained`, misspelled; and for no truth value."""
    for name, value in truths.items():
        if not isinstance(value, bool):
            raise InputError(f"--model_args: {name} is {value!r}, not True or False")
    if pretrained:
        return
    known = set(inspect.signature(MmiHf).parameters) - {"batch_size", "max_batch_size", "settings"}
    for name in settings:
        raise InputError(f"--model_args: mmi_hf has no argument {name!r}: {nearest(name, known)}")
    raise InputError("--model_args: pretrained=FOLDER is missing")


def _batch_size(size: int | str, most: int | None) -> tuple[int | None, int | None]:
    """Return the size of batches, None for one that is to be found, and the most that this may be."""
    if str(size) != "auto" and most is not None:
        raise InputError("--max_batch_size is for --batch_size auto; without it --batch_size N is the most")
    fixed = None if str(size) == "auto" else _positive("--batch_size, a number or auto,", size)
    return fixed, None if most is None else _positive("--max_batch_size", most)


def _positive(flag: str, value: int | str, least: int = 1) -> int:
    if not str(value).isdecimal() or int(value) < least:
        raise InputError(f"{flag} is {value!r}, not {'a positive integer' if least else 'an integer from 0 on'}")
    return int(value)


def _mapping(name: str, value: Mapping[str, Any] | str | None, **more: Any) -> dict[str, Any]:
    """Return an argument that is a JSON object, with those of `more` that are given."""
    try:
        found = json.loads(value) if isinstance(value, str) else value or {}
    except ValueError:
        found = None
    if not isinstance(found, Mapping):
        raise InputError(f"--model_args: {name} is {value!r}, not a JSON object")
    return {**found, **{key: one for key, one in more.items() if one is not None}}


def _device(name: str) -> torch.device:
    """Return the device `--device` names. Raises InputError when this machine has none of that name."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"--device {name}: cannot be used here (cpu can): {reason}") from error


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
