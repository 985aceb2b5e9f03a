"""The command line of `mmi data facts`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmi_plugin.errors import InputError

DESCRIPTION = "write facts on the wrong options of an image-heavy task, once, with a language model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", metavar="TASK", help="a task of this package, for example mmi_food101")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="F", help="file that is written, or continued: a .jsonl"
    )
    parser.add_argument("--model", required=True, help="folder or hub id of a chat model; with --base_url its name")
    parser.add_argument("--base_url", metavar="URL", help="OpenAI-compatible server, for example http://host:8000/v1")
    parser.add_argument("--include_path", type=Path, metavar="DIR", help="folder of YAMLs with TASK")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N items")


def run(args: argparse.Namespace) -> int:
    """Write the facts, name what is left without; return 0. Raises InputError for bad input."""
    from mmi_plugin.facts.write import write_facts
    from mmi_plugin.facts.writers import over_http, with_transformers
    from mmi_plugin.harness.documents import Selection
    from mmi_plugin.harness.task_files import find_task
    from mmi_plugin.sources.facts_file import FactsFile, check_fact

    if args.limit is not None and args.limit < 1:
        raise InputError(f"--limit is {args.limit}: it must be positive")
    task = find_task(args.task, args.include_path)
    options = {key: value for key, value in task.options.items() if key != "facts"}
    bench = Selection.parse(options, task.split, args.task).benchmark()
    if bench.family != "image_heavy":
        raise InputError(f"{args.task} is {bench.family}: only image-heavy tasks use facts on wrong options")
    items = bench.items[: args.limit]
    file = FactsFile(args.out)
    by_id = {item.id: item for item in bench.items}
    for key, facts in file.facts.items():
        if key not in by_id:
            raise InputError(f"{args.out}: item {key} is none of {args.task}")
        for option, fact in facts.items():
            check_fact(by_id[key], option, fact, str(args.out))
    write = over_http(args.base_url, args.model) if args.base_url else with_transformers(args.model)
    without = write_facts(items, file, write, args.model)
    for key, option in without[:10]:
        print(f"no usable fact: item {key}, option {option!r}", file=sys.stderr)
    print(f"{args.out}: facts on {len(items)} items, {len(without)} wrong options without one")
    return 0
