"""The console script `mmi`."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mmi_plugin.data import build as build_command
from mmi_plugin.data import facts as facts_command
from mmi_plugin.errors import InputError
from mmi_plugin.report import command as leaderboard_command
from mmi_plugin.studies import ablation as ablation_command
from mmi_plugin.studies import sweep


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(prog="mmi", description=sys.modules["mmi_plugin"].__doc__)
    commands = root.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="diagnose a small base model, mitigate, diagnose again; needs no network")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), help="results folder (default: %(default)s)")
    demo.add_argument("--ablation", action="store_true", help="train every row of the ablation, not only ours")
    demo.add_argument("--seeds", type=int, default=None, help="seeds of each row (default: 1; with --ablation 3)")
    demo.add_argument("--rows", nargs="+", default=None, metavar="ROW", help="rows to train, for example d_aug ours")
    demo.add_argument(
        "--from-scratch", action="store_true", help="train the base model first instead of loading the shipped one"
    )
    demo.set_defaults(run=_demo)
    board = commands.add_parser("leaderboard", help=leaderboard_command.DESCRIPTION)
    leaderboard_command.add_arguments(board)
    board.set_defaults(run=leaderboard_command.run)
    data = commands.add_parser("data", help="prepare data").add_subparsers(dest="data_command", required=True)
    facts = data.add_parser("facts", help=facts_command.DESCRIPTION)
    facts_command.add_arguments(facts)
    facts.set_defaults(run=facts_command.run)
    built = data.add_parser("build", help=build_command.DESCRIPTION)
    build_command.add_arguments(built)
    built.set_defaults(run=build_command.run)
    curve = commands.add_parser("sweep", help=sweep.DESCRIPTION)
    sweep.add_arguments(curve)
    curve.set_defaults(run=sweep.run)
    trained = commands.add_parser("sweep-train", help=ablation_command.DESCRIPTION, allow_abbrev=False)
    ablation_command.add_arguments(trained)
    trained.set_defaults(run=ablation_command.run, fields=[])
    return root


def main(argv: Sequence[str] | None = None) -> int:
    """Run `mmi`; return the exit status: 0 done, 1 a step failed, 2 bad input."""
    root = parser()
    args, rest = root.parse_known_args(argv)
    if rest and "fields" not in args:
        root.error(f"unrecognized arguments: {' '.join(rest)}")
    args.fields = rest
    try:
        return args.run(args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _demo(args: argparse.Namespace) -> int:
    from mmi_plugin.studies.demo import DEFAULT_ROWS, TRAINED, CommandFailed, demo

    if args.seeds is not None and args.seeds < 1:
        raise InputError(f"--seeds is {args.seeds}: it must be at least 1")
    base = _base_from_scratch(args.out.absolute() / "base") if args.from_scratch else None
    rows = args.rows or (TRAINED if args.ablation else DEFAULT_ROWS)
    seeds = args.seeds or (3 if args.ablation else 1)
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        demo(args.out, rows, seeds, base)
    except CommandFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _base_from_scratch(folder: Path) -> Path:
    """Train the base model into `folder` and return it. What does this is in the repository, not in the wheel."""
    root = Path(__file__).resolve().parents[1]
    if not (root / "benchmarks" / "base" / "build.py").is_file():
        raise InputError("--from-scratch needs a clone of the repository; the shipped base is used without it")
    command = [sys.executable, "-m", "benchmarks.base.build", "--out", str(folder)]
    if subprocess.run(command, cwd=root, check=False).returncode:
        raise InputError(f"--from-scratch: {' '.join(command)} failed")
    return folder


if __name__ == "__main__":
    sys.exit(main())
