"""A process that makes one run after another: a job per line on stdin, a reply per line on stdout.

Starting Python, torch and TRL takes a third of the time of a run, so one process makes many.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from mmi_plugin.studies.ask import ask_checkpoint


def main() -> int:
    """Serve until stdin ends. What a run prints goes to its own log."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as replies:
        for line in sys.stdin:
            print(json.dumps(reply(json.loads(line))), file=replies, flush=True)
    return 0


def reply(job: dict[str, Any]) -> dict[str, Any]:
    """Return {"result": ...} or {"error": one line}."""
    log = Path(job["log"])
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file:
        sys.stdout.flush()
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    try:
        return {"result": make(job)}
    except Exception as error:  # of whatever kind: this run is named, and the next one goes on
        traceback.print_exc()
        return {"error": " ".join(f"{type(error).__name__}: {error}".split())}
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def make(job: dict[str, Any]) -> dict[str, Any]:
    """Train as `argv` says, or take `base` as it is without, and ask the benchmark.

    Returns answers by task, the last logged attack strength (None without an adversary) and seconds.
    """
    start, folder, strength = time.perf_counter(), Path(job["work"]), None
    if job["argv"] is not None:
        from mmi_plugin.trainers.run import parse, train

        if folder.exists():
            shutil.rmtree(folder)
        trainer = train(parse([*job["argv"], "--output_dir", str(folder)]))
        strengths = [log["attack_strength"] for log in trainer.state.log_history if "attack_strength" in log]
        strength = strengths[-1] if strengths else None
    answers = ask_checkpoint(folder if job["argv"] is not None else Path(job["base"]), job["limit"])
    if job["argv"] is not None:
        shutil.rmtree(folder)
    return {"answers": answers, "attack_strength": strength, "seconds": round(time.perf_counter() - start, 1)}


if __name__ == "__main__":
    sys.exit(main())
