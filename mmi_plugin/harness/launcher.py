"""A command line in, lmms-eval's run of it with our tasks and an honest exit status out: the script `lmms_eval`."""

from __future__ import annotations

import argparse
import copy
import gc
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from lmms_eval.cli import dispatch

from mmi_plugin.disk import NotWritten
from mmi_plugin.errors import InputError, complain, stoppable, stopped
from mmi_plugin.harness import manifests
from mmi_plugin.plugins import include

OURS = {"--resume": "goes on with", "--floor": "adds to", "--trackio_args": "logs", "--tensorboard_args": "logs"}
"""Flags beside those of upstream's command line, and what they do to an evaluation; the last two take a value."""
HELP = {
    "--resume": "go on from the answers that a killed run of the same command left below --output_path",
    "--floor": "ask each item's reference once more: what flips then flips by arithmetic alone",
    "--trackio_args": "arguments of trackio.init, as project=P: numbers and answers are logged there",
    "--tensorboard_args": "arguments of SummaryWriter, as log_dir=D: numbers and answers are logged there",
}
Evaluate = Callable[[argparse.Namespace], tuple[dict[str, Any] | None, dict[str, Any] | None]]


def main(argv: Sequence[str] | None = None, modules: bool = True) -> int:
    """Run lmms-eval's command line with `argv` (default: the process's own) and return the status.

    Four flags are ours: `--resume` goes on from the answers that a run of the same command left, `--floor` asks each
    item's reference once more, to see what flips by arithmetic alone, `--trackio_args` (of trackio.init) and
    `--tensorboard_args` (of SummaryWriter) log there what `--wandb_args` logs to wandb. modules: run those of the
    folder `--include_path`, as a user expects who has named it.
    0: everything was evaluated and written. 2: bad input, said in one line. 128 + N: ended by signal N. 1: the rest.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    failures: list[str] = []
    before = sys.argv
    gc.disable()  # imports leave no garbage, and looking for it took 1.4 of the 5.9 s to the first request
    try:
        ours, arguments = _split(arguments)
        sys.argv = ["lmms_eval", *arguments]
        ours.modules = modules
        with stoppable(), _ours(arguments, failures, ours):
            dispatch.main()
    except SystemExit as stop:
        if {"-h", "--help"} & set(arguments) and (arguments[0] == "eval" or arguments[0].startswith("-")):
            print(f"\n{_parser().format_help()}")
        return _status(stop)
    except InputError as error:
        complain(error)
        return 2
    except KeyboardInterrupt as stop:
        name, status = stopped(stop)
        complain(f"stopped by {name}")
        return status
    finally:
        sys.argv = before
        gc.unfreeze()
        gc.enable()
    for failure in failures:
        complain(failure)
    return 1 if failures else 0


def _split(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the values of our flags, and the arguments without them. Raises InputError for one without its value."""
    try:
        return _parser().parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise InputError(f"{error.argument_name}: {error.message}") from error


def _parser() -> argparse.ArgumentParser:
    usage = "lmms_eval --model mmi_hf --model_args pretrained=DIR --tasks TASKS [--flag ...]"
    parser = argparse.ArgumentParser(usage=usage, add_help=False, allow_abbrev=False, exit_on_error=False)
    group = parser.add_argument_group("flags of mmi-plugin, beside those that lmms_eval eval --help lists")
    for flag in OURS:
        group.add_argument(flag, help=HELP[flag], **({} if flag.endswith("_args") else {"action": "store_true"}))
    return parser


def _ours(arguments: Sequence[str], failures: list[str], ours: argparse.Namespace) -> AbstractContextManager[None]:
    """Return what puts us into the command that upstream's dispatcher will run. Raises InputError for a stray flag."""
    flags = arguments[1:] if arguments[:1] == ["eval"] else arguments
    if flags and flags[0].startswith("-") and not {"-h", "--help", "--tui"} & set(flags):
        return _our_evaluation(failures, ours)
    for flag in (flag for flag in OURS if getattr(ours, flag.removeprefix("--")) not in (None, False)):
        raise InputError(f"{flag} {OURS[flag]} an evaluation: it needs --model and --tasks")
    if arguments[:1] not in (["tasks"], ["power"], ["models"]):
        return nullcontext()
    from mmi_plugin.harness.compat import replaced, theirs_of

    if arguments[:1] == ["models"]:
        known = "lmms_eval.models:AVAILABLE_CHAT_TEMPLATE_MODELS"
        return replaced({known: theirs_of(known) | {one.model_id: one.chat_class_path for one in manifests()}})
    from mmi_plugin.harness.task_manager import QuickTaskManager

    def with_ours(verbosity: str, include_path: str | None = None) -> QuickTaskManager:
        return QuickTaskManager("list", include_path, verbosity)

    sizes = partial(_sizes, ours)
    return replaced({"lmms_eval.tasks:TaskManager": with_ours, "lmms_eval.cli.power_utils:collect_task_sizes": sizes})


def _sizes(ours: argparse.Namespace, *args: Any, include_path: str | None = None, **options: Any) -> dict[str, int]:
    from mmi_plugin.harness.task_manager import task_sizes

    _include(ours, include_path)
    return task_sizes(*args, include_path=include_path, **options)


def _include(ours: argparse.Namespace, folder: str | None) -> None:
    """Run the modules of `--include_path`, if it is a user's."""
    include(folder if ours.modules else None)


def _status(stop: SystemExit) -> int:
    if stop.code is None:
        return 0
    if isinstance(stop.code, int):
        return stop.code
    print(stop.code, file=sys.stderr)
    return 1


@contextmanager
def _our_evaluation(failures: list[str], flags: argparse.Namespace) -> Iterator[None]:
    """Put ourselves between upstream's command line and its evaluation of one set of arguments.

    Upstream catches every Exception of an evaluation, prints it and exits 0. An InputError leaves
    as SystemExit, which upstream lets through; anything else is noted in `failures` on its way.
    """
    try:
        from lmms_eval.__main__ import cli_evaluate_single

        from mmi_plugin.harness.compat import replaced
        from mmi_plugin.harness.trackers import Wandb

        def watched(args: argparse.Namespace) -> Any:
            try:
                return _evaluate(cli_evaluate_single, args, failures, flags)
            except InputError as error:
                complain(error)
                raise SystemExit(2) from error
            except Exception as error:
                failures.append(f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}")
                raise

        ours = {
            "cli_evaluate_single": watched,
            "collect_task_sizes": partial(_sizes, flags),
            "WandbLogger": partial(Wandb, failures),
        }
        with replaced({f"lmms_eval.__main__:{name}": value for name, value in ours.items()}):
            yield
    except KeyboardInterrupt as stop:  # see _kept for those that come later
        name, status = stopped(stop)
        complain(f"stopped by {name} before anything was asked")
        raise SystemExit(status) from stop


def _evaluate(theirs: Evaluate, args: argparse.Namespace, failures: list[str], ours: argparse.Namespace) -> Any:
    """Run upstream's evaluation of `args` with our task manager, and check what came out."""
    from lmms_eval import evaluator

    from mmi_plugin.harness import flags
    from mmi_plugin.harness.compat import Swallowed, replaced, stderr_for_metric, theirs_of
    from mmi_plugin.harness.journal import Evaluation
    from mmi_plugin.harness.task_manager import LISTINGS, QuickTaskManager
    from mmi_plugin.harness.trackers import trackers

    if not args.tasks:
        raise InputError("--tasks is missing")
    _include(ours, args.include_path)
    limit = None if args.limit == -1 else args.limit
    options = limit, args.offset, ours.floor
    tasks = QuickTaskManager(args.tasks, args.include_path, args.verbosity, args.model, *options)
    args = copy.copy(args)
    if args.tasks not in LISTINGS:
        flags.check_values(args, ours.resume)
        _prepare(args, tasks)
        flags.check_tasks(args, tasks.own)
        if ours.floor and not tasks.own:
            raise InputError("--floor asks references of this package's tasks, and --tasks names none of them")
    places = trackers(ours) if int(os.environ.get("RANK", 0)) == 0 else []
    run = Evaluation(copy.copy(args), tasks.own, ours.resume)
    errors = "lmms_eval.evaluator_utils:stderr_for_metric"
    put = {
        errors: partial(stderr_for_metric, theirs_of(errors)),
        "lmms_eval.__main__:TaskManager": lambda *_, **__: tasks,
        "lmms_eval.__main__:EvaluationTracker": run.tracker,
        "lmms_eval.evaluator:evaluate": partial(run.evaluate, evaluator.evaluate),
    }
    gc.freeze()
    gc.enable()
    with closing(run), _kept(run):
        with replaced(put), closing(Swallowed()) as swallowed:
            results, samples = theirs(args)
            run.publish()
        if results is not None:
            missing = _missing(args, tasks.own, results)
            silent = swallowed.lines(failed=sum(len(task.failed) for task in tasks.own.values()))
            failures.extend([*silent, *missing])
            if silent or not missing:  # an answer beside an error is none to go on from
                run.forget()
            for track in places:
                track(results, samples or {})
    return results, samples


@contextmanager
def _kept(run: Any) -> Iterator[None]:
    """Within, a stop or a disk that takes no more leaves in one line that says what `run` keeps, as SystemExit."""
    try:
        yield
    except (KeyboardInterrupt, NotWritten) as end:
        name, status = stopped(end) if isinstance(end, KeyboardInterrupt) else ("", 1)
        complain(f"{f'stopped by {name}' if name else end}; {run.kept()}")
        raise SystemExit(status) from end


def _prepare(args: argparse.Namespace, tasks: Any) -> None:
    """Set in `args` what upstream is to do, now that our tasks are known to be sound."""
    names = tasks.match_tasks(args.tasks.split(","))
    args.tasks = ",".join(names)
    if tasks.own and (tasks.limit is not None or tasks.offset):
        if not tasks.all_own(names):
            raise InputError("--limit and --offset: run tasks of this package and others separately")
        # The tasks have cut themselves, by whole items; upstream must not cut again.
        args.requested_limit, args.requested_offset = args.limit, args.offset
        args.limit, args.offset = None, 0
    if args.use_cache:
        args.use_cache = _cache_of(args)


def _cache_of(args: argparse.Namespace) -> str:
    """Return a folder below `--use_cache` for this very checkpoint.

    Upstream's key holds the checkpoint's path, not its content: after training into the same
    folder it would bring back the answers of the old weights.
    """
    from mmi_plugin.harness.flags import key_values
    from mmi_plugin.models.load import stamp

    root = Path(args.use_cache)
    root = root.parent if root.suffix == ".db" else root
    return str(root / stamp(str(key_values(args, "model_args").get("pretrained", ""))))


def _missing(args: argparse.Namespace, own: dict[str, Any], results: dict[str, Any]) -> list[str]:
    """Return a line for every failed record of our tasks, every task that lacks some, files not written."""
    lines = []
    for name, task in own.items():
        lines += task.failures()
        found = results["results"].get(name, {}).get("items,none", 0)
        if found != task.expected_items:
            lines.append(f"{name}: {found} of {task.expected_items} items are complete")
    if lines or not own or not args.output_path:
        return lines
    try:
        return _unwritten(args, own, results["date"].replace(":", "-"))
    except InputError as error:
        return [str(error)]


def _unwritten(args: argparse.Namespace, own: dict[str, Any], date: str) -> list[str]:
    """Return what the files lack. Upstream only warns when it cannot write one."""
    from mmi_plugin.results.reading import RESULTS, read_results

    # Not the newest: others may write into this folder, too.
    written = next(Path(args.output_path).rglob(f"{date}{RESULTS}"), None)
    if written is None:
        return [f"{args.output_path}: the results of this run were not written"]
    if not args.log_samples:
        return []
    run = read_results(written)
    found = {name: len(run[name].records) if name in run else 0 for name in own}
    return [
        f"{name}: {found[name]} of {len(task.test_docs())} records were written"
        for name, task in own.items()
        if found[name] != len(task.test_docs())
    ]
