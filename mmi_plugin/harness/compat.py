"""Names of lmms-eval that are private, patched or taken for more than they promise: all of them stand here.

`tests/test_harness_compat.py` names the one that another version does not have. What has an extension point goes
through it: `mmi_hf` is a model of lmms-eval's registry (an entry point), tasks are classes that YAMLs name, and what
is put in below for lmms-eval's own are subclasses of its `TaskManager` and `EvaluationTracker`.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, ItemsView, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any, NoReturn

from lmms_eval.api.instance import GenerationResult, TokenCounts
from loguru import logger

from mmi_plugin.errors import complain
from mmi_plugin.models.compat import Foreign
from mmi_plugin.models.generate import Reply
from mmi_plugin.results import Record

MAIN, API, POWER = "lmms_eval.__main__", "lmms_eval.api", "lmms_eval.cli.power_utils"
FOREIGN = (
    Foreign(f"{MAIN}:cli_evaluate_single", "0.7.3", "its caller prints what it raises and exits with 0", ("args",)),
    Foreign(f"{MAIN}:TaskManager", "0.7.3", "ours knows our tasks, none of them twice, cut by whole items"),
    Foreign(f"{MAIN}:EvaluationTracker", "0.7.3", "ours writes the results last, at once", mentions="self.date_id"),
    Foreign(f"{MAIN}:WandbLogger", "0.7.3", 'ours logs what theirs stops at: "N/A", slashes', ("kwargs",)),
    Foreign(
        "lmms_eval.evaluator_utils:stderr_for_metric", "0.7.3", "ours knows our numbers", ("metric", "bootstrap_iters")
    ),
    Foreign(f"{MAIN}:collect_task_sizes", "0.7.3", "--power-analysis counts items of ours, not prompts"),
    Foreign(f"{POWER}:collect_task_sizes", "0.7.3", "so does the subcommand `power`"),
    Foreign("lmms_eval.tasks:TaskManager", "0.7.3", "the subcommand `tasks` lists our tasks"),
    Foreign(
        "lmms_eval.models:AVAILABLE_CHAT_TEMPLATE_MODELS", "0.7.3", "so does `models`, which reads no entry points"
    ),
    Foreign("lmms_eval.tasks:TaskManager.task_index", "0.7.3", "which names are groups and tags, of what members"),
    Foreign("lmms_eval.evaluator:evaluate", "0.7.3", "ours passes it a journal of answers", ("lm", "response_cache")),
    Foreign(f"{API}.instance:TokenCounts", "0.7.3", "of an answer, only text and counts stay", ("output_tokens",)),
    Foreign(f"{API}.model:lmms.set_cache_hook", "0.7.3", "models report each answer as it comes", ("cache_hook",)),
    Foreign(f"{API}.model:CacheHook.add_partial", "0.7.3", "to this method of it", ("attr", "req", "res")),
)
"""Since: the lower bound in pyproject.toml, which is the oldest version that was looked at."""


@contextmanager
def replaced(values: Mapping[str, Any]) -> Iterator[None]:
    """Within, lmms-eval finds `values` under names of `FOREIGN`."""
    theirs = {path: theirs_of(path) for path in values}
    _put(values)
    try:
        yield
    finally:
        _put(theirs)


def theirs_of(path: str) -> Any:
    """Return what stands under a name of `FOREIGN`, a submodule included. Raises AttributeError, ImportError."""
    module, _, names = path.partition(":")
    return attrgetter(names)(import_module(module))


def _put(values: Mapping[str, Any]) -> None:
    for path, value in values.items():
        module, _, name = path.partition(":")
        setattr(import_module(module), name, value)


@dataclass
class Counts(TokenCounts):
    """Token counts, the probability of each option, and what an attack took.

    lmms-eval keeps an answer's text and its token counts with the request and drops everything
    else, so the probabilities travel in the counts.
    """

    probabilities: tuple[float, ...] | None = None
    attack: dict[str, Any] | None = None


def result(reply: Reply) -> GenerationResult:
    """Return an answer in the form that lmms-eval takes from a model."""
    counts = Counts(output_tokens=reply.tokens, probabilities=reply.probabilities, attack=reply.attack)
    return GenerationResult(reply.text, counts)


def probabilities_of(counts: TokenCounts | None) -> tuple[float, ...] | None:
    """Return the probabilities of the options; None where the model gave none."""
    return getattr(counts, "probabilities", None)


def attack_of(counts: TokenCounts | None) -> dict[str, Any] | None:
    """Return what an attack took; None where there was none."""
    return getattr(counts, "attack", None)


class Scored(dict[str, Any]):
    """What `process_results` returns for one document.

    lmms-eval copies the mapping into the sample log and aggregates what `.items()` gives. So the
    log gets the fields of the record once, and every metric gets the record.
    """

    def __init__(self, record: Record, metrics: Sequence[str]) -> None:
        super().__init__(record.to_dict())
        self._scores = dict.fromkeys(metrics, record)

    def items(self) -> ItemsView[str, Any]:
        return self._scores.items()


@dataclass(frozen=True)
class Aggregation:
    """One of our numbers, as lmms-eval aggregates it, and its standard error; None where there is none."""

    number: Callable[[Sequence[Record]], float]
    error: Callable[[Sequence[Record]], float | None]

    def __call__(self, records: Sequence[Record]) -> float:
        return self.number(records)


def stderr_for_metric(
    theirs: Callable[..., Any], metric: Any, bootstrap_iters: int
) -> Callable[[Sequence[Any]], Any] | None:
    """Return what gives the standard error of `metric`; called in place of lmms-eval's function, which knows only its
    own metrics by identity. It shows "N/A" for what is none."""
    if not isinstance(metric, Aggregation):
        return theirs(metric=metric, bootstrap_iters=bootstrap_iters)

    def error(records: Sequence[Record]) -> float | str:
        found = metric.error(records)
        return "N/A" if found is None else found

    return error if bootstrap_iters > 0 else None


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

    It goes on after any error and leaves with `sys.exit(0)`, which is the one place to say otherwise.
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
        complain(line)
    leave(1 if found else status)
