"""Jobs in, their results out: what is kept is used again, the rest is made in processes side by side.

A worker is this module run as a program: a job per line on stdin, a reply per line on stdout. Starting Python, torch
and TRL takes a third of the time of a small training, so one worker does many jobs.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mmi_plugin.files import write_whole

_COMMAND = (sys.executable, "-m", "mmi_plugin.studies.jobs")
_BAR = re.compile(r"(\d+/\d+) \[[^\]]*\]")
_LOOK = 0.5  # seconds between two looks at the log of what runs


def offline(threads: int) -> dict[str, str]:
    """Return the environment of jobs that ask no hub, with so many threads each."""
    return {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True)
class Job:
    """A call of `function` ("module:name") with `arguments`; these and its result are JSON.

    file: where the result is kept; it is used again only under the same `key`, everything that decides it.
    log: what the call prints.
    """

    title: str
    function: str
    arguments: Mapping[str, Any]
    file: Path
    key: Mapping[str, Any]
    log: Path

    def kept(self) -> Any | None:
        """Return the result of an earlier run with the same key, if there is one."""
        if not self.file.is_file():
            return None
        saved = json.loads(self.file.read_text(encoding="utf-8"))
        return saved.get("result") if saved.get("key") == json.loads(json.dumps(self.key)) else None

    def keep(self, result: Any) -> Any:
        """Write the result, whole or not at all, and return it."""
        write_whole(self.file, json.dumps({"key": self.key, "result": result}))
        return result


class JobFailed(RuntimeError):
    """A job ended with an error. `status`: of the process that runs it."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


def make_all(
    jobs: Sequence[Job], workers: int, environment: Mapping[str, str] | None = None
) -> tuple[dict[int, Any], dict[str, str]]:
    """Return the results by the jobs' places in `jobs`, and of each that failed the error by its title.

    At most `workers` jobs run at a time, begun in the order of `jobs`, each with this `environment` beside the
    process's own. A failed job stops no other. Without workers they run in this process, and say what they say;
    what they raise goes on.
    """
    made = {index: result for index, job in enumerate(jobs) if (result := job.kept()) is not None}
    missing = [index for index in range(len(jobs)) if index not in made]
    failed: dict[str, str] = {}
    if not workers:
        return made | {
            index: jobs[index].keep(_call(jobs[index].function, jobs[index].arguments)) for index in missing
        }, {}
    bar = tqdm(total=len(jobs), initial=len(made), unit="run", disable=not missing)
    with bar, WorkerPool(min(workers, max(1, len(missing))), environment) as pool:
        for place, reply in pool.replies([jobs[index] for index in missing], bar):
            job = jobs[missing[place]]
            if "error" in reply:
                failed[job.title] = f"{reply['error']} (log: {job.log})"
                tqdm.write(f"failed: {job.title}: {failed[job.title]}", file=sys.stderr)
            else:
                made[missing[place]] = job.keep(reply["result"])
                tqdm.write(f"{job.title}: {reply['result']['seconds']:.0f} s", file=sys.stderr)
            bar.update()
    return made, failed


class WorkerPool:
    """At most `size` workers, started when they are needed. A worker that dies is replaced."""

    def __init__(self, size: int, environment: Mapping[str, str] | None = None) -> None:
        self._size, self._environment = size, {**os.environ, **(environment or {})}
        self._own = threading.local()
        self._started: list[subprocess.Popen[str]] = []

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._started:
            process.kill()
            process.communicate()

    def replies(self, jobs: Sequence[Job], bar: tqdm | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield (place of the job, reply of its worker) as they come: {"result": ...} or {"error": one line}.

        On `bar` stands the progress of the job whose log tells any.
        """
        with ThreadPoolExecutor(self._size) as threads:
            waiting = {threads.submit(self._ask, job): place for place, job in enumerate(jobs)}
            try:
                while waiting:
                    done = wait(waiting, _LOOK, FIRST_COMPLETED).done
                    if bar is not None:
                        bar.set_postfix_str(_progress(waiting, jobs))
                    yield from ((waiting.pop(future), future.result()) for future in done)
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                for process in self._started:
                    process.kill()
                raise

    def _ask(self, job: Job) -> dict[str, Any]:
        process = self._process()
        order = {"function": job.function, "arguments": job.arguments, "log": str(job.log)}
        try:
            print(json.dumps(order), file=process.stdin, flush=True)
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        return json.loads(line) if line else {"error": f"the process ended with status {process.wait()}"}

    def _process(self) -> subprocess.Popen[str]:
        """This thread's worker."""
        process = getattr(self._own, "process", None)
        if process is None or process.poll() is not None:
            process = subprocess.Popen(
                _COMMAND, env=self._environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            self._own.process = process
            self._started.append(process)
        return process


def _progress(waiting: Mapping[Future[Any], int], jobs: Sequence[Job]) -> str:
    """Return the title and the last progress bar of the first running job whose log has one."""
    for job in (jobs[place] for future, place in waiting.items() if future.running()):
        if job.log.is_file():
            bars = _BAR.findall(job.log.read_bytes()[-2000:].decode(errors="replace"))
            if bars:
                return f"{job.title}: {bars[-1]}"
    return ""


def main() -> int:
    """Serve until stdin ends. What a job prints goes to its own log."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as replies:
        for line in sys.stdin:
            print(json.dumps(_reply(json.loads(line))), file=replies, flush=True)
    return 0


def _reply(order: Mapping[str, Any]) -> dict[str, Any]:
    log = Path(order["log"])
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file:
        sys.stdout.flush()
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    try:
        return {"result": _call(order["function"], order["arguments"])}
    except Exception as error:  # of whatever kind: this job is named, and the next one goes on
        traceback.print_exc()
        return {"error": " ".join(f"{type(error).__name__}: {error}".split())}
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _call(function: str, arguments: Mapping[str, Any]) -> Any:
    module, _, name = function.partition(":")
    return getattr(import_module(module), name)(**arguments)


if __name__ == "__main__":
    sys.exit(main())
