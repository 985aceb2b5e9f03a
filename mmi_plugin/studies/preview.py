"""A task or a user's own questions in; what a model will see of them, how much and for how long, out."""

from __future__ import annotations

import argparse
from pathlib import Path
from time import perf_counter
from typing import Any

from mmi_plugin.conditions import get
from mmi_plugin.documents import Documents, Selection, documents, perturbed
from mmi_plugin.errors import InputError
from mmi_plugin.files import write_whole
from mmi_plugin.harness.flags import key_values
from mmi_plugin.harness.task_manager import find_task, find_tasks
from mmi_plugin.item import Item, messages
from mmi_plugin.models.chats import content, images_of, texts_alone
from mmi_plugin.models.prompt import Prompts
from mmi_plugin.report.items import thumbnail
from mmi_plugin.report.preview import Preview, Shown, ShownItem, to_html, to_terminal
from mmi_plugin.studies.own_data import TASK, options

TRIAL = 32  # prompts that are asked for an estimate, about
MINUTE, HOUR = 60, 3600


def run(args: argparse.Namespace) -> int:
    """Print the preview that the command line asks for, and write its page; return 0. Raises InputError."""
    asked = _selections(args)
    prompts, model, remark = _speaker(args)
    size = int(args.batch_size or 16)
    previews = []
    for name, selection in asked.items():
        bench = selection.benchmark()
        shown = [_item(selection, item, prompts) for item in bench.items[: args.items]]
        prompts_of_task = len(bench.items) * len(selection.conditions)
        estimate = _estimate(selection, model, size, prompts_of_task) if model else ""
        previews.append(Preview(name, _counts(selection), shown, estimate))
    if args.html:
        write_whole(args.html, to_html(previews, remark))
    print(to_terminal(previews, remark))
    return 0


def _selections(args: argparse.Namespace) -> dict[str, Selection]:
    """Return what is asked by the name of its task. Raises InputError for flags that do not fit it."""
    own = {"--images": args.images, "--family": args.family, "--columns": args.columns, "--metric": args.metric}
    given = [flag for flag, value in own.items() if value]
    if Path(args.what).exists() or given:
        if args.family is None:
            raise InputError(f"{args.what}: --family is missing: image_heavy, text_heavy or vqa")
        kwargs = options(args.what, args.images, args.family, args.columns, args.metric, args.conditions, args.versions)
        return {TASK: Selection.parse(kwargs, args.split or "test", str(kwargs["path"]))}
    if args.split is not None:
        raise InputError(f"--split: {args.what} has its own split")
    chosen = {} if args.conditions is None else {"conditions": args.conditions.split(",")}
    found = {name: find_task(name, args.include_path) for name in find_tasks(args.what, args.include_path)}
    return {name: Selection.parse({**task.options, **chosen}, task.split, name) for name, task in found.items()}


def _speaker(args: argparse.Namespace) -> tuple[Prompts | None, Any, str]:
    """Return what makes prompts, the model where there is one, and a remark on how prompts are shown."""
    given = key_values(args, "model_args")
    if not given:
        return (
            None,
            None,
            "Turns as they are; --model_args pretrained=DIR or processor=DIR shows a model's prompts.",
        )
    if "pretrained" in given:
        from mmi_plugin.harness.model import MmiHf

        model = MmiHf(**given, device=args.device, batch_size=int(args.batch_size or 16))
        return model.prompts, model, f"Prompts of {given['pretrained']}."
    from mmi_plugin.models.families import prompts_of
    from mmi_plugin.models.load import load_processor

    name = given.pop("processor", None)
    if name is None:
        raise InputError("--model_args: neither pretrained=DIR, a model, nor processor=DIR, its processor alone")
    return prompts_of(load_processor(str(name), **given)), None, f"Prompts of the processor of {name}."


def _counts(selection: Selection) -> str:
    bench, names = selection.benchmark(), selection.conditions
    asked = f"{len(bench.items):,} items under {len(names)} conditions are {len(bench.items) * len(names):,} prompts"
    seen = sum(get(name).seen for name in names)
    return f"{asked} ({bench.family}; {seen} of the conditions are used in training)."


def _item(selection: Selection, item: Item, prompts: Prompts | None) -> ShownItem:
    made = [
        _shown(name, perturbed(selection.benchmark(), item, name, selection.seed), prompts)
        for name in selection.conditions
    ]
    right = f"{item.gold} ({item.answer})" if item.options else " / ".join(dict.fromkeys(item.answers))
    return ShownItem(item.id, right, made)


def _shown(name: str, item: Item, prompts: Prompts | None) -> Shown:
    chat = messages(item)
    pictures = [f"[image {image.width} x {image.height}]\n" for image in images_of(chat)]
    if prompts is None:
        turns = (f"{turn['role']}: " * (len(chat) > 1) + content(turn) for turn in texts_alone(chat))
        text, size, images = "\n".join(turns), "", "".join(pictures)
    else:
        tokens = prompts.inputs([chat])["input_ids"].shape[1]
        text, size, images = prompts.text(chat), f"{tokens:,} tokens", ""
    added = next((part for part in (item.context, item.context_after) if part), "")
    before, found, after = text.partition(added) if added else (text, "", "")
    uri = thumbnail(item.images) if pictures else None
    sizes = ", ".join(picture.strip("[]\n") for picture in pictures) or "no image"
    moved = "before an adversary acts" if get(name).attack else ""
    return Shown(name, before, found, after, ", ".join(filter(None, [sizes, size, moved])), images, uri)


def _estimate(selection: Selection, model: Any, size: int, total: int) -> str:
    """Return how long all prompts will take, from a trial of a few."""
    from mmi_plugin.models.evaluate import SETTINGS, ask

    bench, names = selection.benchmark(), selection.conditions

    def seconds(asked: Documents) -> float:
        before = perf_counter()
        ask(model.scorer, asked, SETTINGS, size)
        return perf_counter() - before

    few = documents(bench, names, selection.seed, max(1, TRIAL // len(names)))
    seconds(documents(bench, names, selection.seed, 1))  # what the first prompts alone take
    taken, count = seconds(few), len(few.rows)
    return f"About {_time(taken / count * total)} on {model.device}, from a trial of {count} prompts ({taken:.1f} s)."


def _time(seconds: float) -> str:
    if seconds < MINUTE:
        return f"{seconds:.0f} s"
    return f"{seconds / MINUTE:.0f} min" if seconds < HOUR else f"{seconds / HOUR:.1f} h"
