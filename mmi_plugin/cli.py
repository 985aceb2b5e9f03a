"""The console script `mmi`: a command line in, an exit status out. What a command needs is imported when it runs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import mmi_plugin
from mmi_plugin import commands as runs
from mmi_plugin.disk import NotWritten, check_writable
from mmi_plugin.errors import InputError, complain
from mmi_plugin.plugins import include

FOLDERS, FILES = ("out", "plots"), ("html", "csv", "json", "md", "latex", "docs", "facts_file")
"""Arguments that say where a command writes."""
Commands = "argparse._SubParsersAction[argparse.ArgumentParser]"


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; `run` of what it parses is the command's function."""
    root = argparse.ArgumentParser(prog="mmi", description=mmi_plugin.__doc__)
    commands = root.add_subparsers(dest="command", required=True)
    _add_demo(commands)
    _add_leaderboard(commands)
    _add_data(commands.add_parser("data", help="prepare data").add_subparsers(dest="data_command", required=True))
    _add_sweeps(commands)
    _add_training(commands)
    _add_eval(commands)
    return root


def main(argv: Sequence[str] | None = None) -> int:
    """Run `mmi`; return the exit status: 0 done, 1 a step failed, 2 bad input."""
    root = parser()
    args, rest = root.parse_known_args(argv)
    if rest and "fields" not in args:
        root.error(f"unrecognized arguments: {' '.join(rest)}")
    args.fields = rest
    try:
        for name in ("seeds", "limit", "workers", "items", "batch_size"):
            value = getattr(args, name, None)
            if isinstance(value, int) and value < 1:
                raise InputError(f"--{name} is {value}: it must be at least 1")
        for name, is_file in (*dict.fromkeys(FOLDERS, False).items(), *dict.fromkeys(FILES, True).items()):
            if (place := getattr(args, name, None)) is not None:
                check_writable(place, str(place), is_file)
        include(getattr(args, "include_path", None))
        return args.run(args)
    except (InputError, NotWritten) as error:
        complain(error)
        return 2 if isinstance(error, InputError) else 1
    except BrokenPipeError:  # whoever read the output has seen enough, as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left goes there at the exit
        return 1


def _add_demo(commands: Commands) -> None:
    demo = commands.add_parser("demo", help="diagnose a small base model, mitigate, diagnose again; needs no network")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), help="results folder (default: %(default)s)")
    demo.add_argument("--ablation", action="store_true", help="train every row of the ablation, not only ours")
    demo.add_argument("--seeds", type=int, default=None, help="seeds of each row (default: 1; with --ablation 3)")
    demo.add_argument(
        "--rows", nargs="+", default=None, metavar="ROW", help="rows to train, for example d_aug ours published"
    )
    demo.add_argument(
        "--from-scratch", action="store_true", help="train the base model first instead of loading the shipped one"
    )
    demo.set_defaults(run=runs.demo)


def _add_leaderboard(commands: Commands) -> None:
    board = commands.add_parser(
        "leaderboard", help="rank evaluated models by worst-case accuracy, with intervals and paired tests"
    )
    board.add_argument(
        "results",
        nargs="+",
        metavar="RESULTS",
        help="output folder of lmms_eval, or NAME=FOLDER to name its model; one NAME for several folders: its seeds",
    )
    board.add_argument("--baseline", metavar="NAME", help="model that the others are compared with")
    board.add_argument(
        "--margin",
        type=float,
        default=2.0,
        metavar="POINTS",
        help="how much worse than the baseline VQA may get and still count as not harmed (default: 2)",
    )
    board.add_argument(
        "--allow-different-prompts",
        action="store_true",
        help="test models against the baseline whose processor, template, system prompt or decoding differs",
    )
    board.add_argument(
        "--common", action="store_true", help="compare models that share some tasks only, by those that all were asked"
    )
    board.add_argument("--csv", type=Path, metavar="F", help="write every number, one a line")
    board.add_argument("--json", type=Path, metavar="F", help="write every number with provenance")
    board.add_argument("--md", type=Path, metavar="F", help="write Markdown tables")
    board.add_argument("--latex", type=Path, metavar="F", help="write the ranking as a LaTeX table (booktabs)")
    board.add_argument("--html", type=Path, metavar="F", help="write one self-contained page with an item browser")
    board.add_argument(
        "--pictures",
        action="store_true",
        help="show the pictures of data sets beyond the embedded ones: reads what the results name, folders and hub",
    )
    board.add_argument("--plots", type=Path, metavar="DIR", help="write the figures as PNG, SVG and PDF")
    _add_include_path(board)
    board.set_defaults(run=runs.leaderboard)


def _add_data(commands: Commands) -> None:
    facts = commands.add_parser(
        "facts", help="write facts on the wrong options of an image-heavy task, once, with a language model"
    )
    facts.add_argument("task", metavar="TASK", help="a task of this package, for example mmi_food101")
    facts.add_argument(
        "--out",
        type=Path,
        required=True,
        dest="facts_file",
        metavar="F",
        help="file that is written, or continued: a .jsonl",
    )
    facts.add_argument("--model", required=True, help="folder or hub id of a chat model; with --base_url its name")
    facts.add_argument("--base_url", metavar="URL", help="OpenAI-compatible server, for example http://host:8000/v1")
    _add_include_path(facts)
    facts.add_argument("--limit", type=int, metavar="N", help="only the first N items")
    facts.set_defaults(run=runs.facts)
    built = commands.add_parser(
        "build", help="make a training set from public data, from the hub or from local copies below MMI_DATA_ROOT"
    )
    built.add_argument("--config", type=Path, required=True, help="recipe, for example configs/data/paper.yaml")
    built.add_argument("--out", type=Path, required=True, help="folder of the training set, for --train_file")
    _add_include_path(built)
    built.set_defaults(run=runs.build)


def _add_include_path(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--include_path", type=Path, metavar="DIR", help="folder of your own task YAMLs and of modules mmi_*.py"
    )


def _add_model(command: argparse.ArgumentParser) -> None:
    """Let a command take which model is asked, and how."""
    command.add_argument("--model", default="mmi_hf", help="model of lmms_eval (default: %(default)s)")
    command.add_argument("--model_args", required=True, help="its arguments, for example pretrained=FOLDER")
    for name in runs.AS_IN_LMMS_EVAL:
        command.add_argument(f"--{name}", help="as in lmms_eval")


def _add_sweeps(commands: Commands) -> None:
    curve = commands.add_parser(
        "sweep", help="ask a task under one condition at several strengths, and draw the dose-response curve"
    )
    curve.add_argument("task", metavar="TASK", help="a task of this package, for example mmi_demo_digits")
    curve.add_argument(
        "sweep", metavar="SWEEP", help="condition and values, for example unrelated_text@sentences=0,1,2,5,10,20"
    )
    curve.add_argument("--out", type=Path, required=True, help="results folder; another model adds its curve to it")
    _add_include_path(curve)
    _add_model(curve)
    curve.set_defaults(run=runs.sweep)
    _add_attack(commands)
    compared = commands.add_parser(
        "baselines", help="ask a model by every baseline without training and its controls: one board"
    )
    compared.add_argument("task", metavar="TASK", help="tasks or groups, as of lmms_eval --tasks: mmi_demo_digits")
    compared.add_argument("--out", type=Path, required=True, help="results folder")
    compared.add_argument("--only", nargs="+", metavar="NAME", help="baselines, for example vcd m3id cut")
    compared.add_argument(
        "--beside", nargs="+", default=[], metavar="NAME=RESULTS", help="further rows of the board: a trained model's"
    )
    _add_include_path(compared)
    _add_model(compared)
    compared.set_defaults(run=runs.baselines)
    made = commands.add_parser("convert", help="make safetensors of .bin files or of DeepSpeed's shards")
    made.add_argument("source", type=Path, metavar="IN", help="checkpoint folder, with .bin files or global_stepN")
    made.add_argument("out", type=Path, metavar="OUT", help="new folder")
    made.add_argument("--like", metavar="MODEL", help="folder or hub id with configuration and processor")
    made.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="of the weights (default: as in IN)")
    made.set_defaults(run=runs.convert)
    trained = commands.add_parser(
        "sweep-train",
        help="train a config with one field changed at a time, over seeds, on the embedded benchmark; table and "
        "figure. Fields of the trainer (--field value ...) are passed to every run.",
        allow_abbrev=False,
    )
    trained.add_argument("--config", type=Path, default=Path("configs/demo/ours.yaml"), help="default: %(default)s")
    trained.add_argument("--out", type=Path, default=Path("runs/sweep_train"), help="results folder (%(default)s)")
    trained.add_argument("--seeds", type=int, default=3, help="seeds of each setting (default: %(default)s)")
    trained.add_argument("--only", nargs="+", metavar="AXIS", help="axes to go along, for example eps steps")
    trained.add_argument("--axes", type=Path, help="YAML of axes (default: configs/ablation/axes.yaml)")
    trained.add_argument(
        "--docs", type=Path, metavar="FILE", help="write document and figure here, too: docs/ablations.md"
    )
    trained.add_argument("--title", help="head of the document")
    trained.add_argument("--limit", type=int, metavar="N", help="ask the first N validation items of each task only")
    trained.add_argument("--workers", type=int, help="runs at a time (default: one per core)")
    trained.set_defaults(run=lambda args: runs.sweep_train(args, trained), fields=[])


def _add_attack(commands: Commands) -> None:
    worst = commands.add_parser(
        "attack", help="ask a task under the worst that an adversary finds in the irrelevant modality, at several sizes"
    )
    worst.add_argument("task", metavar="TASK", help="a task of this package, for example mmi_demo_digits")
    worst.add_argument("--space", default="embeddings", help="embeddings, pixels or tokens (default: %(default)s)")
    worst.add_argument(
        "--eps", nargs="+", required=True, help="sizes: times the RMS of embeddings, 255ths of pixels, or tokens"
    )
    worst.add_argument("--norm", help="of pixels: linf (default) or l2")
    worst.add_argument("--text", help="embeddings of image-heavy items that move: prompt (default) or after_image")
    worst.add_argument("--steps", help="of each run (default: 20)")
    worst.add_argument("--restarts", help="of all runs (default: 1)")
    worst.add_argument("--full", action="store_true", help="100 steps and 5 restarts")
    worst.add_argument("--square", action="store_true", help="also without gradients, 1,000 queries an item")
    worst.add_argument("--out", type=Path, required=True, help="results folder")
    _add_include_path(worst)
    worst.add_argument("--model_args", required=True, help="of mmi_hf, for example pretrained=FOLDER")
    for name in runs.AS_IN_LMMS_EVAL:
        worst.add_argument(f"--{name}", help="as in lmms_eval")
    worst.set_defaults(run=runs.attack)


def _add_training(commands: Commands) -> None:
    trained = commands.add_parser(
        "train",
        help="train a config, by file or by bundled name, in one process; several: accelerate launch trainers/train.py",
        usage="mmi train CONFIG [--field value ...]   (mmi train --help lists the fields, mmi configs the configs)",
        add_help=False,  # the trainer's own help lists its fields
        allow_abbrev=False,
    )
    trained.set_defaults(run=runs.train, fields=[])
    commands.add_parser("configs", help="list the bundled training configs").set_defaults(run=runs.configs)


def _add_eval(commands: Commands) -> None:
    own = commands.add_parser(
        "eval", help="ask a model your own questions under all conditions of a family: results, ranking and page"
    )
    own.add_argument("--data", required=True, help=DATA)
    _add_data_flags(own, needed=True)
    own.add_argument("--out", type=Path, required=True, help="results folder")
    _add_include_path(own)
    _add_model(own)
    own.set_defaults(run=runs.evaluate)
    shown = commands.add_parser(
        "preview", help="show what a model will see under each condition, count the prompts, and estimate their time"
    )
    shown.add_argument("what", metavar="TASK|FILE", help=f"a task or group of this package, or with --family a {DATA}")
    _add_data_flags(shown, needed=False)
    _add_include_path(shown)
    shown.add_argument(
        "--items", type=int, default=2, metavar="N", help="show the first N items (default: %(default)s)"
    )
    shown.add_argument(
        "--model_args", help="pretrained=DIR: its own prompts, and a trial; processor=DIR: prompts alone"
    )
    shown.add_argument("--batch_size", type=int, help="of the trial (default: 16)")
    shown.add_argument("--device", help="of the trial, as in lmms_eval")
    shown.add_argument("--html", type=Path, metavar="F", help="write one page, with the images")
    shown.set_defaults(run=runs.preview)


DATA = ".jsonl, .parquet, .csv, published .json, folder, or data set of the hub"
COLUMNS = "what id, question, options (or A,B,C,D), answer, image, label, cluster, version and context are there"
VERSIONS = "of rows with one id: which value of version is clean, which is asked as given_NAME (misleading=corrupted)"


def _add_data_flags(command: argparse.ArgumentParser, needed: bool) -> None:
    """Let a command take how questions of one's own are read. needed: it takes nothing else."""
    command.add_argument(
        "--images", type=Path, metavar="DIR", help="where paths of images start (default: at the file)"
    )
    command.add_argument(
        "--family",
        required=needed,
        help="image_heavy, text_heavy or vqa: what decides the answer to your own questions",
    )
    command.add_argument("--columns", nargs="+", default=[], metavar="NAME=COLUMN", help=COLUMNS)
    command.add_argument("--versions", nargs="+", default=[], metavar="VALUE=NAME", help=VERSIONS)
    command.add_argument(
        "--metric", help="of questions without options: exact_match, anls or vqa_accuracy (lmms-eval's)"
    )
    command.add_argument("--split", help="split of a folder or on the hub (default: test)")
    command.add_argument(
        "--conditions", metavar="NAME,NAME", help="default: those of this package's tasks of the family, or of the task"
    )


if __name__ == "__main__":
    sys.exit(main())
