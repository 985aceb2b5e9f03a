"""A config in, the items and groups of its run out, checked before anything long starts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

from PIL import Image
from transformers import ProcessorMixin

from mmi_plugin.errors import BadRows, InputError
from mmi_plugin.items import FAMILIES, Item, target, user_text
from mmi_plugin.models.families import prompts_of
from mmi_plugin.pictures import Picture
from mmi_plugin.sources import Benchmark, load
from mmi_plugin.sources.records import read_records
from mmi_plugin.sources.shards import read_built
from mmi_plugin.trainers.collator import GroupCollator
from mmi_plugin.trainers.config import MMIConfig
from mmi_plugin.trainers.groups import Group, Groups, RatioBatchSampler

SIDES = (64, 4096)  # pixels: no image has more tokens than one of such sides
SEAM = 4  # tokens by which those around an image may differ from text without it
_STAND_IN = Image.new("RGB", (32, 32))


class LengthCheck:
    """Holds items against `max_length`. Most need no image for it, and many no tokenizer: a text has no
    more tokens than bytes, an image no more than the largest."""

    def __init__(self, args: MMIConfig, processor: ProcessorMixin) -> None:
        self._most = args.max_length
        turns = {"system_prompt": args.system_prompt, "chat_template_kwargs": args.chat_template_kwargs}
        self._exact = GroupCollator(processor, args.max_length, args.data_seed, **turns)
        self._loose = GroupCollator(processor, None, args.data_seed, **turns)
        self._prompts = prompts_of(processor, *turns.values())
        self._turn = len(self._prompts.said(self._prompts.chat(Item("", "vqa", "", ""), "")).text.encode())
        self._turns = {0}  # of earlier turns, numbers that the chat template is known to render
        self._image = self._most_image_tokens() if self._most else 0

    def check(self, item: Item, draw: Callable[[Item], Group], where: str) -> None:
        """Raise an InputError that begins with `where` if a row of the item has too many tokens, or earlier turns
        that the chat template refuses or rewrites.

        draw: from the item, or the item with another image, to its group.
        """
        if len(item.history) not in self._turns:
            self._check_turns(item, where)
        if self._most is None:
            return
        # Conditions that add text do not look at the image, and would decode it.
        light = draw(replace(item, image=_STAND_IN) if isinstance(item.picture, Picture) else item)
        room = self._most - self._image * max(len(row.pictures) for row in light.rows)
        if max(map(_bytes, light.rows)) + self._turn * (1 + len(item.history)) <= room:
            return
        try:
            if self._tokens(light) > room:
                self._exact([draw(item)])
        except InputError as error:
            longest = max(("answer", "question"), key=lambda name: len(getattr(item, name)))
            raise InputError(f"{where}: field '{longest}': {error}") from error

    def _check_turns(self, item: Item, where: str) -> None:
        try:
            self._prompts.said(self._prompts.chat(replace(item, image=None), target(item)), f"item {item.id}")
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        self._turns.add(len(item.history))

    def _tokens(self, group: Group) -> int:
        """Return the tokens of the group's longest row without its images."""
        bare = tuple(replace(row, image=None, added_images=()) for row in group.rows)
        return self._loose([replace(group, rows=bare)])["input_ids"].shape[1]

    def _most_image_tokens(self) -> int:
        tokens = []
        for width, height in product(SIDES, SIDES):
            item = Item("probe", "vqa", "?", "?", image=Image.new("RGB", (width, height)))
            # A processor refuses shapes that it cannot scale, which no row can then have either.
            with suppress(ValueError, ZeroDivisionError):
                tokens.append(self._loose([Group("", (item,))])["input_ids"].shape[1])
        return max(tokens, default=0) - self._tokens(Group("", (Item("probe", "vqa", "?", "?"),))) + SEAM


def _bytes(row: Item) -> int:
    texts = [user_text(row), target(row), *(text for turn in row.history for text in turn)]
    return sum(len(text.encode()) for text in texts)


def load_benchmarks(args: MMIConfig, bad: BadRows | None = None) -> list[Benchmark]:
    """Return the train splits of `sources` and the items of `train_file`, by family.

    Raises:
        InputError: no data, an unknown source, one id in two places, a bad row; with `bad`, as that says.
    """
    bad = bad or BadRows()
    benchmarks = [load(name, "train") for name in args.sources or ()]
    if args.train_file:
        path = Path(args.train_file)
        rows = read_built(path) if path.is_dir() else read_records(path, args.image_folder, bad)
        for family in FAMILIES:
            part = {item.id: (where, item) for where, item in rows if item.family == family}
            if part:
                places = {key: where for key, (where, _) in part.items()}
                items = tuple(item for _, item in part.values())
                benchmarks.append(Benchmark(f"{path.name}:{family}", family, items, places=places))
    if not benchmarks:
        raise InputError("fields 'sources' and 'train_file' are both empty: no data to train on")
    return _distinct(benchmarks, bad)


def check_rows(
    args: MMIConfig, benchmarks: list[Benchmark], processor: ProcessorMixin, bad: BadRows | None = None
) -> list[Benchmark]:
    """Return the benchmarks without rows that cannot be made into tokens: an image placeholder in a
    text, or more tokens than `max_length`, as the conditions are drawn in the first round.

    Raises:
        InputError: the first such row, with its place and field; with `bad`, as that says.
    """
    bad = bad or BadRows()
    lengths, placeholder = LengthCheck(args, processor), prompts_of(processor).placeholder
    checked = []
    for bench in benchmarks:
        draw = partial(make_groups(args, [bench]).draw, pools=bench.pools, turn=0)
        kept = []
        for item in bench.items:
            with bad.watch():
                _check_placeholder(item, placeholder, bench.place(item))
                lengths.check(item, draw, bench.place(item))
                kept.append(item)
        checked.append(bench if len(kept) == len(bench.items) else replace(bench, items=tuple(kept)))
    return [bench for bench in checked if bench.items]


def make_groups(args: MMIConfig, benchmarks: Sequence[Benchmark]) -> Groups:
    """Return the groups of a run, whose draws depend on `data_seed`."""
    return Groups(benchmarks, {family: args.conditions_of(family) for family in FAMILIES}, args.data_seed)


def sampler_of(args: MMIConfig, groups: Groups) -> RatioBatchSampler:
    """Return the sampler of a run, or raise an InputError if the mix does not fit batch or data."""
    per_step = args.gradient_accumulation_steps * args.world_size
    return RatioBatchSampler(groups.families, args.mix, args.per_device_train_batch_size, per_step, args.data_seed)


def data_hash(args: MMIConfig, benchmarks: list[Benchmark]) -> str:
    """SHA-256 of every item, pool and condition that the run can see, and its seed."""
    digests = [bench.digest(args.conditions_of(bench.family), args.data_seed) for bench in benchmarks]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _distinct(benchmarks: list[Benchmark], bad: BadRows) -> list[Benchmark]:
    """Return the benchmarks, where an id that an earlier one has is a bad row."""
    seen: dict[str, str] = {}
    for number, bench in enumerate(benchmarks):
        kept = []
        for item in bench.items:
            with bad.watch():
                if item.id in seen:
                    raise InputError(f"{bench.place(item)}: field 'id' {item.id!r} is already in {seen[item.id]}")
                seen[item.id] = bench.name
                kept.append(item)
        if len(kept) < len(bench.items):
            benchmarks[number] = replace(bench, items=tuple(kept))
    return [bench for bench in benchmarks if bench.items]


def _check_placeholder(item: Item, placeholder: str, where: str) -> None:
    """Raise an InputError if a text holds what stands for an image in the prompt."""
    texts = {
        "question": [item.question],
        "answer": [item.answer],
        "options": item.options,
        "facts": item.facts.values(),
        "history": [text for turn in item.history for text in turn],
    }
    for name, parts in texts.items():
        if any(placeholder in part for part in parts):
            raise InputError(f"{where}: field '{name}' contains {placeholder!r}")
