"""One run from config to checkpoint: parse, check, train, save."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers.trainer_utils import get_last_checkpoint
from trl import TrlParser

from mmi_plugin.errors import InputError, nearest
from mmi_plugin.provenance import versions
from mmi_plugin.sources import Benchmark
from mmi_plugin.trainers.checkpoint import load_checkpoint
from mmi_plugin.trainers.config import MMIConfig
from mmi_plugin.trainers.data import data_hash, load_benchmarks, make_groups
from mmi_plugin.trainers.trainer import MMITrainer, sampler_of

RECORD = "training.json"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 after one line on stderr if the input is bad."""
    try:
        train(parse(sys.argv[1:] if argv is None else argv))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def train(args: MMIConfig) -> MMITrainer:
    """Train as `args` says; leave model, processor and a record of the run in `output_dir`."""
    benchmarks = load_benchmarks(args)
    groups = make_groups(args, benchmarks)
    sampler = sampler_of(args, groups)
    resume = _checkpoint_to_resume(args)
    model, processor = load_checkpoint(args)
    trainer = MMITrainer(model, args, groups, sampler, processor)
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_model()
    if trainer.is_world_process_zero():
        record = json.dumps(run_record(args, benchmarks), indent=2, sort_keys=True, default=str)
        (Path(args.output_dir) / RECORD).write_text(record + "\n", encoding="utf-8")
    return trainer


def run_record(args: MMIConfig, benchmarks: list[Benchmark]) -> dict[str, Any]:
    """Return what made the checkpoint: resolved config, versions, data, seeds."""
    return {
        "config": args.to_dict(),
        "conditions": {bench.family: args.conditions_of(bench.family) for bench in benchmarks},
        "data": {"hash": data_hash(args, benchmarks), "items": {bench.name: len(bench.items) for bench in benchmarks}},
        "seeds": {"seed": args.seed, "data_seed": args.seed if args.data_seed is None else args.data_seed},
        "versions": versions(),
    }


class _Parser(TrlParser):
    """TrlParser whose complaints are one line, not a page of usage."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"command line: {message}")


def parse(argv: Sequence[str]) -> MMIConfig:
    """Return the config of `--config FILE --field value ...`; the command line wins over the file.

    Raises:
        InputError: a file that cannot be read, an unknown key, a value of the wrong kind.
    """
    argv = list(argv)
    source = _check_file(argv)
    parser = _Parser(MMIConfig, allow_abbrev=False)
    try:
        args, unknown = parser.parse_args_and_config(argv, return_remaining_strings=True)
    except InputError:
        raise
    except (ValueError, TypeError) as error:
        raise InputError(f"{source}: {str(error).splitlines()[0]}") from error
    if unknown:
        name = unknown[0].lstrip("-").split("=")[0]
        raise InputError(f"command line: unknown field {unknown[0]!r}: {nearest(name, MMIConfig.__dataclass_fields__)}")
    return args


def _check_file(argv: list[str]) -> str:
    """Check the keys of the config file, if there is one; return what to call the source of values."""
    if "--config" not in argv:
        return "command line"
    place = argv.index("--config") + 1
    if place == len(argv):
        raise InputError("command line: --config needs a file")
    path = Path(argv[place])
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds {type(content).__name__}, not fields and values")
    for key in content:
        if key not in MMIConfig.__dataclass_fields__:
            raise InputError(f"{path}: unknown field {key!r}: {nearest(str(key), MMIConfig.__dataclass_fields__)}")
    return str(path)


def _checkpoint_to_resume(args: MMIConfig) -> str | None:
    """Return the checkpoint folder that `resume_from_checkpoint` (true or a path) means."""
    wanted = args.resume_from_checkpoint
    if not wanted or str(wanted).lower() == "false":
        return None
    if str(wanted).lower() != "true":
        if not Path(wanted).is_dir():
            raise InputError(f"field 'resume_from_checkpoint': no folder {wanted}")
        return str(wanted)
    last = get_last_checkpoint(args.output_dir) if Path(args.output_dir).is_dir() else None
    if last is None:
        raise InputError(f"field 'resume_from_checkpoint': no checkpoint in {args.output_dir}")
    return last
