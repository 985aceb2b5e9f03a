"""Go on when a model fails: halve a batch that is too large, set a request apart that raises."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from lmms_eval.api.instance import GenerationResult, Instance
from loguru import logger

from mmi_plugin.errors import InputError

Answer = Callable[[Sequence[Instance]], list[GenerationResult]]
_MARK = "[LMMS_EVAL_REQUEST_FAILED"  # also what lmms-eval's own clients of servers answer
_MARKS = (_MARK, "[LMMS_EVAL_BUDGET_EXCEEDED")


def failed(error: Exception) -> GenerationResult:
    """Return the answer that stands for a request which raised `error`; `failure_of` reads it."""
    lines = str(error).strip().splitlines()
    return GenerationResult(f"{_MARK}] {type(error).__name__}: {lines[0] if lines else ''}")


def failure_of(answer: str) -> str | None:
    """Return why the model gave no answer; None when it gave one."""
    return answer.partition("] ")[2] or answer if answer.startswith(_MARKS) else None


class Swallowed:
    """Counts what a model of lmms-eval logs as an error and goes on from, with an empty answer or without an image."""

    def __init__(self) -> None:
        self._said: Counter[str] = Counter()
        self._sink = logger.add(self._note, level="ERROR", format="{message}", filter=_by_a_model)

    def _note(self, message: str) -> None:
        self._said[message.strip().partition("\n")[0]] += 1

    def lines(self, failed: int = 0) -> list[str]:
        """Return one line that counts the errors; none when there are no more than the `failed` answers that say so."""
        first, total = next(iter(self._said), None), self._said.total()
        return [f"the model went on from {total} errors, the first: {first}"] if total > failed else []

    def close(self) -> None:
        logger.remove(self._sink)


def _by_a_model(record: Mapping[str, Any]) -> bool:
    return (record["name"] or "").startswith("lmms_eval.models.")


_checks: list[Callable[[], list[str]]] = []


def fail_stock(lines: Callable[[], list[str]]) -> None:
    """Let lmms-eval's own command line, where it runs this process, end with status 1 and `lines()` if there are any.

    It goes on after any error, and leaves with 0.
    """
    if Path(sys.argv[0]).parts[-2:] != ("lmms_eval", "__main__.py") and Path(sys.argv[0]).name != "lmms-eval":
        return
    if not _checks:
        _checks.append(Swallowed().lines)
        sys.exit = partial(_leave, sys.exit)
    _checks.append(lines)


def _leave(leave: Callable[[Any], NoReturn], status: Any = None) -> NoReturn:
    found = [] if status else [line for lines in _checks for line in lines()]
    for line in found:
        print(f"error: {line}", file=sys.stderr)
    leave(1 if found else status)


class Guarded:
    """Answers batches with `answer`, in order, whatever it raises; InputError passes.

    Out of memory halves the batch, and every later one; a request that fails alone is answered by `failed`.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._most: int | None = None  # rows that memory has room for

    def __call__(self, rows: Sequence[Instance]) -> list[GenerationResult]:
        size = min(self._most or len(rows), len(rows))
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
        if self._most is None:
            logger.warning(f"out of memory with a batch of {size}: it is halved until it fits")
        self._most = size // 2
        clear_device_cache(garbage_collection=True)
        return self._most


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)
