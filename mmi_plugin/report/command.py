"""`mmi leaderboard`: results folders in, a ranking and its files out."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

from mmi_plugin.errors import InputError

DESCRIPTION = "rank evaluated models by worst-case accuracy, with intervals and paired tests"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "results", nargs="+", metavar="RESULTS", help="output folder of lmms_eval, or NAME=FOLDER to name its model"
    )
    parser.add_argument("--baseline", metavar="NAME", help="model that the others are compared with")
    parser.add_argument(
        "--allow-different-prompts",
        action="store_true",
        help="test models against the baseline whose processor, template, system prompt or decoding differs",
    )
    parser.add_argument("--csv", type=Path, metavar="F", help="write every number, one a line")
    parser.add_argument("--json", type=Path, metavar="F", help="write every number with provenance")
    parser.add_argument("--md", type=Path, metavar="F", help="write Markdown tables")
    parser.add_argument("--html", type=Path, metavar="F", help="write one self-contained page with an item browser")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="write the figures as PNG and SVG")


def run(args: argparse.Namespace) -> int:
    """Write what `args` asks for and print the ranking; return 0. Raises InputError for bad input."""
    from mmi_plugin.report import files
    from mmi_plugin.report.board import build
    from mmi_plugin.report.files import plain
    from mmi_plugin.results.runs import find_baseline, read_runs

    runs = read_runs(args.results)
    board = build(runs, find_baseline(args.baseline, runs, args.allow_different_prompts))
    for path, make in ((args.csv, files.to_csv), (args.json, files.to_json), (args.md, files.to_markdown)):
        if path:
            _write(path, make(board))
    if args.html:
        from mmi_plugin.report.board_page import to_html

        _write(args.html, to_html(board))
    if args.plots:
        from mmi_plugin.report.figures import figures, save_figures

        save_figures(figures(board), args.plots)
    print(files.overview(board, plain))
    print("\n".join(textwrap.wrap(files.note(board, plain), 120)))
    return 0


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
