"""An evaluation's results in; out to wandb, trackio and TensorBoard the same numbers and the same table of samples."""

from __future__ import annotations

import inspect
import json
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pandas as pd
from lmms_eval.loggers import WandbLogger

from mmi_plugin.errors import InputError, nearest, plain, shorten
from mmi_plugin.harness.flags import key_values

Rows = Sequence[Mapping[str, Any]]
Samples = Mapping[str, Rows]
Track = Callable[[Mapping[str, Any], Samples], None]
_COLUMNS = (
    *(
        "doc_id",
        "item_id",
        "condition",
        "seed",
        "input",
        "options",
        "target",
        "gold",
        "raw",
        "filtered_resps",
        "parsed",
    ),
    *("named", "probabilities", "cut_off", "failure"),
)
_SHOWN, _CELL = 1000, 2000  # rows of TensorBoard's text, characters of a cell there


def numbers(results: Mapping[str, Any]) -> dict[str, float]:
    """Return every number of lmms-eval's `results`, standard errors too, as TASK/METRIC."""
    return {
        f"{task}/{name.removesuffix(',none')}": value
        for task, found in results["results"].items()
        for name, value in found.items()
        if isinstance(value, int | float)
    }


def table(rows: Rows) -> pd.DataFrame:
    """Return logged samples of one task as a table: what was asked, what was said, what was read; lists as JSON."""
    columns = [name for name in _COLUMNS if any(name in row for row in rows)]
    return pd.DataFrame([[_cell(row.get(name)) for name in columns] for row in rows], columns=columns, dtype=object)


def _cell(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float) else json.dumps(value, default=str)


class Wandb(WandbLogger):
    """lmms-eval's logger, which takes "N/A" and names with a slash amiss, and samples only before they are written.

    failures: takes a line where wandb has not taken the results; upstream says so at level INFO and goes on.
    """

    def __init__(self, failures: list[str], **options: Any) -> None:
        self._failures = failures
        with _one_line("wandb"):
            self._package = _package("wandb")
            _check(self._package.init, "wandb", options)
            super().__init__(**options)

    def post_init(self, results: Mapping[str, Any]) -> None:
        known = {kind: _without_gaps(results[kind]) for kind in ("results", "groups") if kind in results}
        super().post_init({**results, **known})

    def log_eval_result(self) -> None:
        with self._noted():
            super().log_eval_result()

    def log_eval_samples(self, samples: Samples) -> None:
        with self._noted():
            for task, rows in samples.items():
                self.run.log({f"{task}_eval_results": self._package.Table(dataframe=table(rows))})

    @contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._failures.append(f"--wandb_args: not logged: {plain(str(error))}")
            raise


def _without_gaps(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {task: {name: value for name, value in found.items() if value != "N/A"} for task, found in tasks.items()}


def trackers(args: Namespace) -> list[Track]:
    """Return what logs to each place that our flags `trackio_args` and `tensorboard_args` name.

    Raises InputError for a package that is not there, an option that it does not have, or one that it refuses.
    """
    opened: list[Track] = []
    if args.trackio_args is not None:
        opened.append(_trackio(key_values(args, "trackio_args")))
    if args.tensorboard_args is not None:
        opened.append(_tensorboard(key_values(args, "tensorboard_args")))
    return opened


def _trackio(options: dict[str, Any]) -> Track:
    with _one_line("trackio"):
        package = _package("trackio")
        _check(package.init, "trackio", options)
        run = package.init(**options)

    def track(results: Mapping[str, Any], samples: Samples) -> None:
        run.log(numbers(results))
        for task, rows in samples.items():
            run.log({f"{task}_eval_results": package.Table(dataframe=table(rows))})
        package.finish()

    return track


def _tensorboard(options: dict[str, Any]) -> Track:
    from torch.utils.tensorboard import SummaryWriter  # slow to import

    with _one_line("tensorboard"):
        _check(SummaryWriter, "tensorboard", options)
        writer = SummaryWriter(**options)

    def track(results: Mapping[str, Any], samples: Samples) -> None:
        with writer:
            for name, value in numbers(results).items():
                writer.add_scalar(name, value)
            for task, rows in samples.items():
                writer.add_text(f"{task}_eval_results", _markdown(table(rows)))

    return track


def _markdown(samples: pd.DataFrame) -> str:
    """Return the first rows as the Markdown that TensorBoard shows, which takes HTML out."""
    head = [list(samples.columns), ["---"] * len(samples.columns)]
    body = [[shorten(plain(str(cell)), _CELL).replace("|", "\\|") for cell in row] for row in samples.values[:_SHOWN]]
    lines = ["| " + " | ".join(line) + " |" for line in [*head, *body]]
    rest = [f"\nThe first {_SHOWN} of {len(samples)}."] if len(samples) > _SHOWN else []
    return "\n".join([*lines, *rest])


def _package(name: str) -> Any:
    if find_spec(name) is None:
        raise InputError(f"--{name}_args: the package {name} is not installed")
    return import_module(name)


def _check(call: Callable[..., Any], name: str, options: Mapping[str, Any]) -> None:
    """Raise InputError for an option that is not one of `call`, or a required one that is missing."""
    known = inspect.signature(call).parameters
    for option in options:
        if option not in known:
            raise InputError(f"--{name}_args: no option {option!r}: {nearest(option, known)}")
    try:
        inspect.signature(call).bind(**options)
    except TypeError as error:
        raise InputError(f"--{name}_args: {error}") from error


@contextmanager
def _one_line(name: str) -> Iterator[None]:
    """Within, what a place of logs says against our opening it leaves as an InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"--{name}_args: {plain(str(error))}") from error
