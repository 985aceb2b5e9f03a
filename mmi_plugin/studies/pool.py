"""Processes of one thread each, which make runs side by side: the fastest way for a small model."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from types import TracebackType
from typing import Any

from mmi_plugin.studies.demo import environment

_COMMAND = (sys.executable, "-m", "mmi_plugin.studies.worker")


class WorkerPool:
    """At most `size` workers, started when they are needed. A worker that dies is replaced."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._own = threading.local()
        self._started: list[subprocess.Popen[str]] = []

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._started:
            process.kill()
            process.communicate()

    def replies(self, jobs: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield (index of the job, reply of the worker) as they come."""
        with ThreadPoolExecutor(self._size) as threads:
            waiting = {threads.submit(self._ask, job): index for index, job in enumerate(jobs)}
            try:
                for future in as_completed(waiting):
                    yield waiting[future], future.result()
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                for process in self._started:
                    process.kill()
                raise

    def _ask(self, job: Mapping[str, Any]) -> dict[str, Any]:
        process = self._process()
        try:
            print(json.dumps(job), file=process.stdin, flush=True)
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if line:
            return json.loads(line)
        return {"error": f"the process ended with status {process.wait()}"}

    def _process(self) -> subprocess.Popen[str]:
        """This thread's worker."""
        process = getattr(self._own, "process", None)
        if process is None or process.poll() is not None:
            process = subprocess.Popen(
                _COMMAND, env=environment(threads=1), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            self._own.process = process
            self._started.append(process)
        return process
