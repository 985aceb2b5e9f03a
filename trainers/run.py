"""A command line in, a trained checkpoint with its record and model card out: parse, check, train, save."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from transformers import ProcessorMixin

from mmi_plugin.disk import NotWritten, locked, writing
from mmi_plugin.errors import BadRows, InputError, complain, plain, stoppable, stopped
from mmi_plugin.files import STARTED, versions, write_whole
from mmi_plugin.models.load import base_of, fingerprint, weights_hash
from mmi_plugin.sources import Benchmark
from mmi_plugin.trainers.config import OWN_FIELDS, MMIConfig, parse
from mmi_plugin.trainers.data import check_rows, data_hash, load_benchmarks, make_groups, sampler_of
from mmi_plugin.trainers.evaluation import EvaluationCallback
from mmi_plugin.trainers.meter import RATES
from mmi_plugin.trainers.once import StoppedElsewhere
from mmi_plugin.trainers.resume import (
    RECORD,
    check_free,
    check_same,
    checkpoint_to_resume,
    clear,
    code_hash,
    last_checkpoint,
    seal,
)
from mmi_plugin.trainers.saving import NonFiniteLoss, finish, go_on_with_adapters, load_checkpoint, save_state
from mmi_plugin.trainers.trainer import MMITrainer

LATER = 2.0  # seconds after which a process ends whose fault it was not: launchers name, and kill after, the first
SKIPPED = "skipped_rows.txt"
TRAINED, FINISHED = ".trained", ".finished"  # what is not in its place yet
CITATION = """@misc{modality-interference,
  author        = {Rui Cai and Bangzheng Li and Xiaofei Wen and Muhao Chen and Zhe Zhao},
  title         = {Diagnosing and Mitigating Modality Interference in Multimodal Large Language Models},
  year          = {2025},
  eprint        = {2505.19616},
  archivePrefix = {arXiv}
}"""
USE = """from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("FOLDER")
processor = AutoProcessor.from_pretrained("FOLDER")"""
ADAPTERS_USE = """These are LoRA adapters and no model of their own: `{base}`, which must still be what it was, is
loaded with them. With `peft` installed the lines below do so, and so does `mmi_hf`. `--lora_r {r} --model_name_or_path
FOLDER` trains them further; with `--lora_r 0` they are merged in, and all weights learn. `--merge_lora true` saves a
whole model."""
COMMON = ("learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size", "seed", "data_seed")
TIMES = (*RATES, "peak_share", "peak_memory_gb", "epoch", "step")


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
    bad = BadRows(args.on_bad_row == "skip")
    benchmarks = load_benchmarks(args, bad)
    evaluation = EvaluationCallback(args)
    sampler_of(args, make_groups(args, benchmarks))  # a mix that does not fit is known before the model is loaded
    writer = args.process_index == 0
    with locked(Path(args.output_dir), "another training") if writer else nullcontext():
        if writer:
            _forget_killed(Path(args.output_dir))
        return _train(args, benchmarks, bad, evaluation)


def _forget_killed(out: Path) -> None:
    """Remove what a killed run had not put in its place."""
    for name in (MMITrainer.STAGE, TRAINED, FINISHED):
        shutil.rmtree(out / name, ignore_errors=True)
    for path in out.glob(f"*{STARTED}"):
        path.unlink()


def _train(args: MMIConfig, benchmarks: list[Benchmark], bad: BadRows, evaluation: EvaluationCallback) -> MMITrainer:
    resume = checkpoint_to_resume(args)
    if resume:
        check_same(resume, _setup(args))
    else:
        check_free(args)
    model, processor = load_checkpoint(args)
    benchmarks = check_rows(args, benchmarks, processor, bad)
    record = run_record(args, benchmarks, bad, processor)
    if resume:
        check_same(resume, record)
    elif args.process_index == 0:
        clear(Path(args.output_dir))
    _list_skipped(args, bad)
    groups = make_groups(args, benchmarks)
    trainer = MMITrainer(model, args, groups, sampler_of(args, groups), processor)
    go_on_with_adapters(args, trainer.model)
    trainer.seal = partial(seal, record=record)
    evaluation.attach(trainer)
    try:
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    except NonFiniteLoss as error:
        error.args = (f"{error}; state before it saved in {save_state(trainer, error)}",)
        raise
    if resume:
        trainer.rotate()  # a kill may have left more, and no step been left to take
    _save(trainer, record)
    return trainer


def _save(trainer: MMITrainer, record: Mapping[str, Any]) -> None:
    """Leave the model, the record of the run and, last, the model card in the output folder, each file whole."""
    args, out = trainer.args, Path(trainer.args.output_dir)
    trained, whole = out / TRAINED, out / FINISHED
    with writing(out, "the trained model"):
        try:
            trainer.save_model(str(trained))
            if trainer.is_world_process_zero():
                if args.merge_lora or args.base_share > 0:
                    finish(args, trained).save_pretrained(whole)
                    trainer.processing_class.save_pretrained(whole)
                _move(whole if whole.is_dir() else trained, out)
                write_whole(out / RECORD, json.dumps(record, indent=2, sort_keys=True, default=str) + "\n")
                write_whole(out / "README.md", model_card(args, record, trainer.state.log_history))
        finally:
            if trainer.is_world_process_zero():
                for folder in (trained, whole):
                    shutil.rmtree(folder, ignore_errors=True)


def _move(folder: Path, out: Path) -> None:
    """Move all files of a folder into another one, the weights last."""
    for path in sorted(folder.iterdir(), key=lambda path: path.suffix == ".safetensors"):
        path.replace(out / path.name)


def _list_skipped(args: MMIConfig, bad: BadRows) -> None:
    """Write the rows that were left out to a file, and say how many they are."""
    if bad.lines and args.process_index == 0:
        listed = Path(args.output_dir) / SKIPPED
        write_whole(listed, "".join(f"{line}\n" for line in bad.lines))
        print(
            f"skipped {len(bad.lines)} bad rows, listed in {listed}; the first: {plain(bad.lines[0])}", file=sys.stderr
        )


def run_record(args: MMIConfig, benchmarks: list[Benchmark], bad: BadRows, processor: ProcessorMixin) -> dict[str, Any]:
    """Return what made the checkpoint: config, code, versions, start, data, processor and template, seeds."""
    items = {bench.name: len(bench.items) for bench in benchmarks}
    return {
        **_setup(args),
        "conditions": {bench.family: args.conditions_of(bench.family) for bench in benchmarks},
        "data": {"hash": data_hash(args, benchmarks), "items": items, "skipped": len(bad.lines), **bad.counts},
        "processor": fingerprint(processor),
        "start": weights_hash(str(args.model_name_or_path)),
    }


def _setup(args: MMIConfig) -> dict[str, Any]:
    """Return the part of the record that is known before anything is loaded."""
    seeds = {"seed": args.seed, "data_seed": args.data_seed}
    made = {"config": args.to_dict(), "code": code_hash(), "versions": versions()}
    return {"seeds": seeds, **made, "processes": args.world_size}


def model_card(args: MMIConfig, record: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> str:
    """Return the Markdown of README.md.

    record: what training.json says. history: the logs of the run; each metric's last value is taken.
    """
    head = yaml.safe_dump(
        {
            "base_model": args.model_name_or_path,
            "library_name": "transformers",
            "pipeline_tag": "image-text-to-text",
            "tags": ["modality-interference"],
        },
        sort_keys=False,
    )
    name = str(args.model_name_or_path)
    config = {name: getattr(args, name) for name in (*OWN_FIELDS, *COMMON)}
    items = {name: f"{count} items" for name, count in record["data"]["items"].items()}
    last = {name: value for log in history for name, value in log.items() if isinstance(value, (int, float))}
    parts = [
        f"---\n{head}---",
        "# Trained against modality interference",
        f"`{args.model_name_or_path}`, fine-tuned so that what must not matter, a text beside a picture or a picture"
        " beside a text, does not change its answers. `training.json` has the whole configuration and all versions.",
        "## Data",
        _table(("data", ""), {**items, "bad rows left out": record["data"]["skipped"]}),
        f"SHA-256 of all that was seen: `{record['data']['hash']}`",
        "## Configuration",
        _table(("field", "value"), {name: value for name, value in config.items() if value is not None}),
        "## Metrics",
        "Last logged values; `eval_` are shares on the first test items of a task, a sanity check and not a result.",
        _table(("metric", "last"), {name: f"{value:.4g}" for name, value in last.items() if name not in TIMES}),
        "## Use",
        *(
            [ADAPTERS_USE.format(base=base_of(name) or name, r=args.lora_r)]
            if args.lora_r and not args.merge_lora
            else []
        ),
        f"```python\n{USE}\n```",
        "Diagnosed again with `lmms_eval --model mmi_hf --model_args pretrained=FOLDER --tasks mmi_all`.",
        "## Citation",
        f"```bibtex\n{CITATION}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _table(head: tuple[str, str], rows: Mapping[str, Any]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in rows.items())])
