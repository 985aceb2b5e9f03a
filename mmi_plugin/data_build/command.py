"""The command line of `mmi data build`."""

from __future__ import annotations

import argparse
from pathlib import Path

DESCRIPTION = "make a training set from public data, from the hub or from local copies below MMI_DATA_ROOT"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, help="recipe, for example configs/data/paper.yaml")
    parser.add_argument("--out", type=Path, required=True, help="folder of the training set, for --train_file")


def run(args: argparse.Namespace) -> int:
    """Build, and print a line per part; return 0."""
    from mmi_plugin.data_build.build import build
    from mmi_plugin.data_build.recipe import read_recipe

    manifest = build(read_recipe(args.config), args.out)
    for name, part in manifest["parts"].items():
        items = sum(part["items"].values())
        left = f"{part['skipped']} bad rows left out, {part['refused']} test items refused"
        print(f"{name}: {items} items of {part['read']} rows in {len(part['shards'])} shards; {left}")
    return 0
