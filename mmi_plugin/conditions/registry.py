"""Names in, conditions out, the same in tasks, configs, results and on the command line; and what they draw from.

A name may carry strengths: `unrelated_text@sentences=4@position=after`. What is not named has its default.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import get_args, get_type_hints

from PIL import Image

from mmi_plugin.errors import InputError, nearest
from mmi_plugin.items import Family, Item, image_hash, stream
from mmi_plugin.pictures import SUFFIXES, Picture, read_picture
from mmi_plugin.plugins import load_plugins

PHOTOS = ("china.jpg", "flower.jpg")


def photos() -> list[Image.Image]:
    """The sample photographs, in `load_sample_images`' order."""
    return [Image.open(scikit_folder() / "images" / name) for name in PHOTOS]


def scikit_folder() -> Path:
    """The data files that scikit-learn ships, without importing it, which takes longer than an evaluation's start."""
    (package,) = find_spec("sklearn").submodule_search_locations
    return Path(package) / "datasets"


@lru_cache
def general_facts() -> tuple[str, ...]:
    """The built-in sentences, one true general fact each."""
    text = resources.files("mmi_plugin.conditions").joinpath("facts.txt").read_text(encoding="utf-8")
    return tuple(line.strip() for line in text.splitlines() if line.strip())


@lru_cache
def sample_photos(crops_per_photo: int = 12, size: int = 224) -> tuple[Image.Image, ...]:
    """Crops of the two photographs that scikit-learn ships: a pool that needs no download."""
    crops: list[Image.Image] = []
    for photo in photos():
        columns = crops_per_photo // 3
        step_x, step_y = (photo.width - size) // (columns - 1), (photo.height - size) // 2
        corners = [(x * step_x, y * step_y) for y in range(3) for x in range(columns)]
        crops += [photo.crop((x, y, x + size, y + size)) for x, y in corners]
    return tuple(crops)


@lru_cache
def folder_photos(folder: str) -> tuple[Picture, ...]:
    """Every image file at or below `folder`, by name. Raises InputError when there is none."""
    files = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not files:
        raise InputError(f"pool {folder!r}: the folder holds no image")
    return tuple(Picture(partial(read_picture, path), f"pool image {path}") for path in files)


@dataclass(frozen=True)
class Pools:
    """`sentences`: unrelated ones. `images`: irrelevant photographs. `canvas`: side in pixels of
    generated images. `draws`: how many distinct noise images and screenshots there are."""

    sentences: Sequence[str] = field(default_factory=general_facts)
    images: Sequence[Image.Image | Picture] = field(default_factory=sample_photos)
    canvas: int = 224
    draws: int = 64

    @staticmethod
    @lru_cache
    def default() -> Pools:
        """Return the pools that the package ships, made once."""
        return Pools()

    def digest(self) -> str:
        """SHA-256 of the pools' content."""
        parts = [*self.sentences, *map(image_hash, self.images), str(self.canvas), str(self.draws)]
        return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()


Perturbation = Callable[..., Item]
"""`(item, rng, pools, *, strengths) -> item`."""

Strength = int | str

REFERENCE: dict[str, str] = {"image_heavy": "clean", "text_heavy": "random_pixels", "vqa": "clean"}
"""Per family the origin that every other condition is compared with."""

INSTRUCTED = "instructed_"
"""Begins the name of a condition whose prompt also says to ignore what was added."""


@dataclass(frozen=True)
class Parameter:
    """A strength of a condition: its default and its valid values, a range of integers or texts."""

    default: Strength
    valid: range | tuple[str, ...]

    def parse(self, text: str, where: str) -> Strength:
        """Return the value that `text` says, or raise an InputError that begins with `where`."""
        if isinstance(self.valid, range):
            if text.isascii() and text.isdecimal() and int(text) in self.valid:
                return int(text)
            raise InputError(f"{where} is {text!r}, not an integer from {self.valid[0]} to {self.valid[-1]}")
        if text not in self.valid:
            raise InputError(f"{where} is {text!r}: {nearest(text, self.valid)}")
        return text


@dataclass(frozen=True)
class Condition:
    """A named intervention.

    kind: the name without strengths and `instructed_`; draws depend on it alone, so that two
        strengths of one condition draw alike (four sentences are the first four of ten).
    seen: whether the published training uses it. published: whether the paper's benchmark does;
        these are what a task asks by default. Another strength than the default is neither.
    version: raised with any change of what it produces, so that results of two versions never mix.
    instruction: a line before everything else that says to ignore what was added, or "".
    """

    name: str
    kind: str
    families: tuple[str, ...]
    seen: bool
    published: bool
    version: int
    perturb: Perturbation
    parameters: Mapping[str, Parameter]
    instruction: str = ""
    strength: Mapping[str, Strength] = field(default_factory=dict)

    def __call__(self, item: Item, seed: int = 0, pools: Pools | None = None) -> Item:
        """Return `item` under this condition: a pure function of (item, condition, seed)."""
        if item.family not in self.families:
            raise InputError(
                f"condition {self.name!r} is for {'/'.join(self.families)}, item {item.id} is {item.family}"
            )
        rng = stream(item.id, self.kind, seed)
        changed = self.perturb(item, rng, pools or Pools.default(), **self.strength)
        if not self.instruction:
            return changed
        return replace(changed, context="\n".join(filter(None, (self.instruction, changed.context))))

    def at(self, **strength: Strength) -> Condition:
        """Return the condition at this strength, the rest by default, under its one name: strengths that
        are not default, in declared order."""
        other = {
            key: strength[key]
            for key, parameter in self.parameters.items()
            if strength.get(key, parameter.default) != parameter.default
        }
        base = CONDITIONS[self.name.split("@")[0]]
        if not other:
            return base
        name = "".join([base.name, *(f"@{key}={value}" for key, value in other.items())])
        return replace(base, name=name, strength=other, seen=False, published=False)


CONDITIONS: dict[str, Condition] = {}
PLUGINS = "mmi_plugin.conditions"
"""The entry points under which other packages name modules with conditions."""


def condition(
    *families: Family, seen: bool = True, published: bool = True, version: int = 1, ignore: str = ""
) -> Callable[[Perturbation], Perturbation]:
    """Register a function `(item, rng, pools, *, strengths) -> item` as a condition under its own name.

    A strength is a keyword with a default, annotated `Annotated[type, valid values]`. With `ignore`,
    a line that says to ignore what was added, `instructed_NAME` is registered too.
    """

    def register(perturb: Perturbation) -> Perturbation:
        name, hints = perturb.__name__, get_type_hints(perturb, include_extras=True)
        strengths = {
            key: Parameter(parameter.default, get_args(hints[key])[1])
            for key, parameter in inspect.signature(perturb).parameters.items()
            if parameter.kind is parameter.KEYWORD_ONLY
        }
        if (other := CONDITIONS.get(name)) is not None and other.perturb.__module__ != perturb.__module__:
            raise InputError(
                f"condition {name!r} is registered by {other.perturb.__module__}, too: give it another name"
            )
        made = Condition(name, name, families, seen, published, version, perturb, strengths)
        CONDITIONS[name] = made
        if ignore:
            name = INSTRUCTED + name
            CONDITIONS[name] = replace(made, name=name, seen=False, published=False, instruction=ignore)
        return perturb

    return register


@lru_cache(maxsize=1024)
def get(name: str) -> Condition:
    """Return the condition `name`, or raise an InputError with the nearest valid name or strength."""
    head, *settings = name.split("@")
    if head not in CONDITIONS:
        load_plugins(PLUGINS)
    if head not in CONDITIONS:
        raise InputError(f"unknown condition {head!r}: {nearest(head, CONDITIONS)}")
    base, strength = CONDITIONS[head], {}
    for setting in settings:
        key, _, value = setting.partition("=")
        where = f"condition {name!r}: strength {key!r}"
        if not base.parameters:
            raise InputError(f"{where}: {head} has no strengths")
        if key not in base.parameters:
            raise InputError(f"{where} is unknown: {nearest(key, base.parameters)}")
        if key in strength:
            raise InputError(f"{where} is given twice")
        strength[key] = base.parameters[key].parse(value, where)
    return base.at(**strength)


def for_family(family: str, seen_only: bool = False) -> tuple[str, ...]:
    """Return the family's published conditions, its reference first."""
    load_plugins(PLUGINS)
    names = [c.name for c in CONDITIONS.values() if family in c.families and (c.seen if seen_only else c.published)]
    return tuple(sorted(names, key=lambda name: name != REFERENCE[family]))


def check_names(names: Sequence[str], family: str) -> tuple[str, ...]:
    """Return `names` as their conditions spell them.

    Raises InputError for one that is unknown, of another family, or the same as another one, and for none.
    """
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise InputError(f"conditions are {names!r}, not a list of names")
    checked = []
    for name in names:
        if family not in get(name).families:
            valid = [other for other, made in CONDITIONS.items() if family in made.families]
            raise InputError(f"condition {name!r} is not for {family}: {nearest(name, valid)}")
        checked.append(get(name).name)
    if not checked or len(set(checked)) != len(checked):
        raise InputError(f"conditions are {names!r}: one or more different ones are needed")
    return tuple(checked)
