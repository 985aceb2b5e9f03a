"""A command line in, a trained checkpoint with its record and model card out: parse, check, train, save."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from mmi_plugin.disk import NotWritten, check_writable, locked
from mmi_plugin.errors import BadRows, InputError, complain, plain, stoppable, stopped
from mmi_plugin.files import STARTED, write_whole
from mmi_plugin.sources import Benchmark
from mmi_plugin.trainers.config import MMIConfig, parse
from mmi_plugin.trainers.data import check_rows, load_benchmarks, make_groups, sampler_of
from mmi_plugin.trainers.evaluation import EvaluationCallback
from mmi_plugin.trainers.once import StoppedElsewhere
from mmi_plugin.trainers.record import run_record, setup
from mmi_plugin.trainers.resume import check_free, check_same, checkpoint_to_resume, last_checkpoint, wanted
from mmi_plugin.trainers.saving import FINISHED, TRAINED, NonFiniteLoss, load_checkpoint, save_state
from mmi_plugin.trainers.trainer import MMITrainer

LATER = 2.0  # seconds after which a process ends whose fault it was not: launchers name, and kill after, the first
SKIPPED = "skipped_rows.txt"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or after one line on stderr 2 for bad input, 1 for a loss that is no number or a
    disk that takes no more, 128 + N after signal N."""
    args = None
    try:
        with stoppable():
            args = parse(sys.argv[1:] if argv is None else argv)
            train(args)
    except (InputError, NonFiniteLoss, NotWritten) as error:
        left = f"; {_left(args)}" if args and isinstance(error, NotWritten) else ""
        complain(f"{error}{left}")
        return 2 if isinstance(error, InputError) else 1
    except StoppedElsewhere:
        time.sleep(LATER)
        return 1
    except KeyboardInterrupt as stop:
        name, status = stopped(stop)
        complain(f"stopped by {name}" + (f"; {_left(args)}" if args else ""))
        return status
    return 0


def _left(args: MMIConfig) -> str:
    """Return what there is to go on from, for someone whose run has ended early."""
    last = last_checkpoint(Path(args.output_dir))
    if last is None:
        return f"no checkpoint was saved in {args.output_dir}"
    return f"the last checkpoint is {last}: --resume_from_checkpoint true goes on from there"


def train(args: MMIConfig) -> MMITrainer:
    """Train as `args` says; leave model, processor and a record of the run in `output_dir`."""
    check_writable(Path(args.output_dir), f"field 'output_dir': {args.output_dir}")
    if not wanted(args):
        check_free(args)
    bad = BadRows(args.on_bad_row == "skip")
    benchmarks = load_benchmarks(args, bad)
    EvaluationCallback(args)  # tasks that cannot be asked, and
    sampler_of(args, make_groups(args, benchmarks))  # a mix that does not fit is known before the model is loaded
    writer = args.process_index == 0
    with locked(Path(args.output_dir), "another training") if writer else nullcontext():
        if writer:
            _forget_killed(Path(args.output_dir))
        return _train(args, benchmarks, bad)


def _forget_killed(out: Path) -> None:
    """Remove what a killed run had not put in its place."""
    for name in (MMITrainer.STAGE, TRAINED, FINISHED):
        shutil.rmtree(out / name, ignore_errors=True)
    for path in out.glob(f"*{STARTED}"):
        path.unlink()


def _train(args: MMIConfig, benchmarks: list[Benchmark], bad: BadRows) -> MMITrainer:
    resume = checkpoint_to_resume(args)
    if resume:
        check_same(resume, setup(args))
    else:
        check_free(args)
    model, processor = load_checkpoint(args)
    benchmarks = check_rows(args, benchmarks, processor, bad)
    record = run_record(args, benchmarks, bad, processor)
    _list_skipped(args, bad)
    trainer = MMITrainer(model, args, make_groups(args, benchmarks), processing_class=processor)
    trainer.record = record
    try:
        trainer.train(str(resume) if resume else None)
    except NonFiniteLoss as error:
        error.args = (f"{error}; state before it saved in {save_state(trainer, error)}",)
        raise
    trainer.push_to_hub() if args.push_to_hub else trainer.save_model()
    return trainer


def _list_skipped(args: MMIConfig, bad: BadRows) -> None:
    """Write the rows that were left out to a file, and say how many they are."""
    if bad.lines and args.process_index == 0:
        listed = Path(args.output_dir) / SKIPPED
        write_whole(listed, "".join(f"{line}\n" for line in bad.lines))
        print(
            f"skipped {len(bad.lines)} bad rows, listed in {listed}; the first: {plain(bad.lines[0])}", file=sys.stderr
        )
