"""Twelve questions that a tiny model learns by heart, asked again through lmms-eval."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmi_plugin.harness.launcher import main
from mmi_plugin.results import TaskResult
from mmi_plugin.results.runs import read_run
from mmi_plugin.trainers import run
from tests.harness_runs import TASKS

OPTIONS = ("cat", "dog", "fox", "owl")
WORDS = ["apple", "bread", "chair", "dance", "eagle", "flame", "grape", "house", "island", "jungle", "kettle", "lemon"]
GOLD = {word: "ABCD"[place * 7 % 4] for place, word in enumerate(WORDS)}
TASK = """include: {base}
task: mmi_twelve
dataset_kwargs:
  source: openbookqa
  path: {data}
  conditions: [white]
"""


def question(word: str) -> str:
    return f"Which goes with {word}?"


def whole_question(word: str) -> str:
    """A free-form question whose prompt is that of the item with its options."""
    listed = [f"{letter}: {option}" for letter, option in zip("ABCD", OPTIONS, strict=True)]
    return "\n".join([question(word), "Option:", *listed, "Answer with the letter of one option."])


def train(checkpoint: Path, out: Path, answer: Callable[[str], str] | None = None, **fields: Any) -> Path:
    """Train on the twelve, with the letter or, free-form, with `answer(word)`; return the folder of the model."""
    out.mkdir(parents=True, exist_ok=True)
    rows = [{"id": word, "type": "text_heavy", "question": question(word), "options": OPTIONS} for word in WORDS]
    rows = [{**row, "answer": OPTIONS["ABCD".index(GOLD[row["id"]])]} for row in rows]
    mix, given = "0 1 0", {"text_heavy_conditions": "white"}
    if answer is not None:
        rows = [
            {"id": word, "type": "vqa", "image": "white.png", "question": whole_question(word), "answer": answer(word)}
            for word in WORDS
        ]
        mix, given = "0 0 1", {}
        _white(out / "white.png")
    (out / "train.json").write_text(json.dumps(rows), encoding="utf-8")
    settings = {
        "model_name_or_path": checkpoint,
        "train_file": out / "train.json",
        "output_dir": out / "model",
        "per_device_train_batch_size": 12,
        "max_steps": 150,
        "learning_rate": 5e-3,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": 5,
        "max_length": 8000,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": "true",
        "bf16": "false",
        "disable_tqdm": "true",
        **given,
        **fields,
    }
    argv = [text for name, value in settings.items() for text in (f"--{name}", *str(value).split(" "))]
    run.train(run.parse([*argv, "--mix", *mix.split()]))
    return out / "model"


def _white(path: Path) -> None:
    """The picture of the condition `white`, so that a free-form row has the prompt that is asked."""
    from mmi_plugin.conditions import Pools, get
    from mmi_plugin.item import Item

    item = Item("x", "text_heavy", "?", "cat", OPTIONS)
    get("white")(item, 0, Pools()).image.save(path)


def ask(model: Path, out: Path, *flags: str, model_args: str = "") -> TaskResult:
    """Ask the twelve of a model with `mmi_hf`, by lmms-eval's command line."""
    folder = out / "data" / "main"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "id": word,
            "question_stem": question(word),
            "choices": {"text": OPTIONS, "label": list("ABCD")},
            "answerKey": GOLD[word],
        }
        for word in WORDS
    ]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tasks = out / "tasks"
    tasks.mkdir(exist_ok=True)
    (tasks / "utils.py").write_text((TASKS / "utils.py").read_text(encoding="utf-8"), encoding="utf-8")
    (tasks / "mmi_twelve.yaml").write_text(TASK.format(base=TASKS / "_mmi_base", data=out / "data"), encoding="utf-8")
    results = out / f"results{len(list(out.glob('results*')))}"
    arguments = ["--model_args", f"pretrained={model}{model_args}", "--include_path", str(tasks), "--batch_size", "5"]
    arguments += ["--tasks", "mmi_twelve", "--output_path", str(results), "--log_samples", *flags]
    assert main(["--model", "mmi_hf", *arguments]) == 0
    return read_run(results)["mmi_twelve"]
