"""Work before training, done by one process of a machine for all of them, and shared out over its cores."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import timedelta
from functools import cache
from multiprocessing import connection, get_context, parent_process
from typing import Any, TypeVar

import torch
from torch import distributed

from mmi_plugin.cores import cores
from mmi_plugin.errors import InputError
from mmi_plugin.trainers.config import MMIConfig

Part, Result = TypeVar("Part"), TypeVar("Result")
LONGEST = timedelta(days=7)  # that others wait
MOST = 16  # processes that check, where nothing else is asked for
FEW = 1000  # rows that are checked before other processes have begun
AHEAD = 4  # parts for each of them that are given out before the first is back
DONE, FAILED = "done", "failed"
_work: Callable[[Any], Any]


class StoppedElsewhere(RuntimeError):
    """The process that does the work for this one has failed, and has said why."""


def once(args: MMIConfig, work: Callable[[], Result]) -> Result:
    """Return work(), which the first process of each machine does and the others wait for; it must be picklable.

    Raises:
        StoppedElsewhere: in every process that did not fail itself, if one did.
    """
    if args.world_size == 1 or not distributed.is_initialized():
        return work()
    group, said = _waiting(), (FAILED, None) if args.local_process_index == 0 else None
    heard: list[tuple[str, Any] | None] = [None] * args.world_size
    try:
        if said:
            said = DONE, work()
    finally:
        distributed.all_gather_object(heard, said, group)
    if (FAILED, None) in [one and (one[0], None) for one in heard]:
        raise StoppedElsewhere
    return heard[args.process_index - args.local_process_index][1]


@cache
def _waiting() -> distributed.ProcessGroup:
    """All processes, which may wait for each other longer than for a step."""
    return distributed.new_group(backend="gloo", timeout=LONGEST)


def processes_of(args: MMIConfig, rows: int) -> int:
    """Return how many processes check so many rows: `dataset_num_proc`, by default one a core; for a few rows one."""
    if rows <= FEW:
        return 1
    return args.dataset_num_proc or min(MOST, cores())


def in_processes(work: Callable[[Part], Result], parts: Iterable[Part], processes: int) -> Iterator[Result]:
    """Yield work(part) of every part in order, done in copies of this process, whose results must be picklable.

    An InputError of `parts` is raised after the results before it. Raises InputError also if a process is killed.
    """
    failures: list[InputError] = []
    parts = _until(parts, failures)
    yield from _forked(work, parts, processes) if processes > 1 else map(work, parts)
    if failures:
        raise failures[0]


def _until(parts: Iterable[Part], failures: list[InputError]) -> Iterator[Part]:
    try:
        yield from parts
    except InputError as error:
        failures.append(error)


def _forked(work: Callable[[Part], Result], parts: Iterable[Part], processes: int) -> Iterator[Result]:
    waiting: deque[Future[Result]] = deque()
    configured = "TOKENIZERS_PARALLELISM" in os.environ
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # or tokenizers warn in every copy
    pool = ProcessPoolExecutor(processes, get_context("fork"), _begin, (work,))
    try:
        for part in parts:
            waiting.append(pool.submit(_do, part))
            if len(waiting) == AHEAD * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise InputError("a process that checks rows was killed from outside; is there too little memory?") from error
    finally:
        pool.shutdown(cancel_futures=True)
        if not configured:
            del os.environ["TOKENIZERS_PARALLELISM"]


def _begin(work: Callable[[Any], Any]) -> None:
    """Begin as a copy that works, and that ends with the process it is a copy of."""
    global _work
    _work = work
    torch.set_num_threads(1)  # a copy waits for ever for threads that its original has begun
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other one answers it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(parent_process().sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os.kill(os.getpid(), signal.SIGKILL)  # the main thread may wait for work that does not come


def _do(part: Any) -> Any:
    return _work(part)
