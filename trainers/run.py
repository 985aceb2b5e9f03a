"""One run from config to checkpoint: parse, check, train, save."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from transformers import HfArgumentParser, ProcessorMixin
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

from mmi_plugin.errors import BadRows, InputError, nearest
from mmi_plugin.files import read_mapping, versions
from mmi_plugin.models.load import fingerprint
from mmi_plugin.sources import Benchmark
from mmi_plugin.trainers.card import model_card
from mmi_plugin.trainers.config import MMIConfig
from mmi_plugin.trainers.data import check_rows, data_hash, load_benchmarks, make_groups
from mmi_plugin.trainers.evaluation import EvaluationCallback
from mmi_plugin.trainers.saving import NonFiniteLoss, finish, load_checkpoint
from mmi_plugin.trainers.trainer import MMITrainer, sampler_of

RECORD = "training.json"
SKIPPED = "skipped_rows.txt"
TRAINED = ".trained"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or after one line on stderr 2 for bad input, 1 for a loss that is no number."""
    try:
        train(parse(sys.argv[1:] if argv is None else argv))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except NonFiniteLoss as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def train(args: MMIConfig) -> MMITrainer:
    """Train as `args` says; leave model, processor and a record of the run in `output_dir`."""
    bad = BadRows(args.on_bad_row == "skip")
    benchmarks = load_benchmarks(args, bad)
    evaluation = EvaluationCallback(args)
    sampler_of(args, make_groups(args, benchmarks))  # a mix that does not fit is known before the model is loaded
    resume = _checkpoint_to_resume(args)
    model, processor = load_checkpoint(args)
    benchmarks = check_rows(args, benchmarks, processor, bad)
    _list_skipped(args, bad)
    groups = make_groups(args, benchmarks)
    sampler = sampler_of(args, groups)
    trainer = MMITrainer(model, args, groups, sampler, processor)
    evaluation.attach(trainer)
    try:
        trainer.train(resume_from_checkpoint=resume)
    except NonFiniteLoss as error:
        error.args = (f"{error}; state before it saved in {trainer.save_state_of(error)}",)
        raise
    _save(trainer, benchmarks, bad)
    return trainer


def _save(trainer: MMITrainer, benchmarks: list[Benchmark], bad: BadRows) -> None:
    """Leave the model, the record of the run and, last, the model card in the output folder."""
    args, out = trainer.args, Path(trainer.args.output_dir)
    unfinished = args.merge_lora or args.base_share > 0
    trainer.save_model(str(out / TRAINED) if unfinished else None)
    if unfinished and trainer.is_world_process_zero():
        finish(args, out / TRAINED).save_pretrained(out)
        trainer.processing_class.save_pretrained(out)
        shutil.rmtree(out / TRAINED)
    if trainer.is_world_process_zero():
        record = run_record(args, benchmarks, bad, trainer.processing_class)
        text = json.dumps(record, indent=2, sort_keys=True, default=str)
        (out / RECORD).write_text(text + "\n", encoding="utf-8")
        (out / "README.md").write_text(model_card(args, record, trainer.state.log_history), encoding="utf-8")


def _list_skipped(args: MMIConfig, bad: BadRows) -> None:
    """Write the rows that were left out to a file, and say how many they are."""
    if bad.lines and args.process_index == 0:
        listed = Path(args.output_dir) / SKIPPED
        listed.parent.mkdir(parents=True, exist_ok=True)
        listed.write_text("".join(f"{line}\n" for line in bad.lines), encoding="utf-8")
        print(f"skipped {len(bad.lines)} bad rows, listed in {listed}; the first: {bad.lines[0]}", file=sys.stderr)


def run_record(args: MMIConfig, benchmarks: list[Benchmark], bad: BadRows, processor: ProcessorMixin) -> dict[str, Any]:
    """Return what made the checkpoint: resolved config, versions, data, processor and template, seeds."""
    items = {bench.name: len(bench.items) for bench in benchmarks}
    return {
        "config": args.to_dict(),
        "conditions": {bench.family: args.conditions_of(bench.family) for bench in benchmarks},
        "data": {"hash": data_hash(args, benchmarks), "items": items, "skipped": len(bad.lines)},
        "processor": fingerprint(processor),
        "seeds": {"seed": args.seed, "data_seed": args.data_seed},
        "versions": versions(),
    }


class _Parser(HfArgumentParser):
    """HfArgumentParser whose complaints are one line, not a page of usage."""

    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def parse(argv: Sequence[str]) -> MMIConfig:
    """Return the config of `--config FILE --field value ...`; the command line wins over the file.

    Raises:
        InputError: a file that cannot be read, an unknown field, a value of the wrong kind.
    """
    argv, source, defaults = list(argv), "command line", []
    if "--config" in argv:
        place = argv.index("--config")
        if place + 1 == len(argv):
            raise InputError("command line: --config needs a file")
        path = Path(argv[place + 1])
        argv = argv[:place] + argv[place + 2 :]
        defaults = _read_config(path)
        source = f"{path} with command line" if argv else str(path)
    try:
        args, unknown = _Parser(MMIConfig, allow_abbrev=False).parse_args_into_dataclasses(
            [*defaults, *argv], return_remaining_strings=True
        )
    except (ValueError, TypeError) as error:
        raise InputError(f"{source}: {' '.join(str(error).split())}") from error
    if unknown:
        raise InputError(f"command line: unknown field {unknown[0]!r}: {_nearest_field(unknown[0])}")
    return args


def _read_config(path: Path) -> list[str]:
    """Return the fields of a YAML file as command-line arguments, so that both are checked alike."""
    argv: list[str] = []
    for name, value in read_mapping(path, "fields and values").items():
        spec = MMIConfig.__dataclass_fields__.get(str(name))
        if spec is None:
            raise InputError(f"{path}: unknown field {name!r}: {_nearest_field(str(name))}")
        if isinstance(value, list):
            if "list" not in str(spec.type):
                raise InputError(f"{path}: field '{name}' is a list")
            argv += [f"--{name}", *map(str, value)]
        elif value is not None:
            argv.append(f"--{name}={json.dumps(value) if isinstance(value, dict) else value}")
    return argv


def _nearest_field(name: str) -> str:
    return nearest(name.lstrip("-").split("=")[0], MMIConfig.__dataclass_fields__)


def _checkpoint_to_resume(args: MMIConfig) -> str | None:
    """Return the checkpoint folder that `resume_from_checkpoint` (true or a path) means."""
    wanted = args.resume_from_checkpoint
    if not wanted or str(wanted).lower() == "false":
        return None
    if str(wanted).lower() != "true":
        if not (Path(wanted) / TRAINER_STATE_NAME).is_file():
            raise InputError(f"field 'resume_from_checkpoint': no whole checkpoint in {wanted}")
        return str(wanted)
    last = get_last_checkpoint(args.output_dir) if Path(args.output_dir).is_dir() else None
    if last is None:
        raise InputError(f"field 'resume_from_checkpoint': no checkpoint in {args.output_dir}")
    return last
