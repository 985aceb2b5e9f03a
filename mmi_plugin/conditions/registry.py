"""Names in, conditions out, the same in tasks, configs, results and on the command line.

A name may carry strengths: `unrelated_text@sentences=4@position=after`. What is not named has its default.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal, get_args, get_type_hints

from mmi_plugin.conditions.pools import Pools
from mmi_plugin.errors import InputError, nearest
from mmi_plugin.item import Family, Item, stream
from mmi_plugin.plugins import load_plugins

Perturbation = Callable[..., Item]
"""`(item, rng, pools, *, strengths) -> item`."""

Strength = int | float | str
Role = Literal["interferes", "matches", "apart"]

REFERENCE: dict[str, str] = {"image_heavy": "clean", "text_heavy": "random_pixels", "vqa": "clean"}
"""Per family the origin that every other condition is compared with."""

INSTRUCTED = "instructed_"
"""Begins the name of a condition whose prompt also says to ignore what was added."""


FLOOR = "asked_again"
"""The condition that changes nothing. What flips under it flips by arithmetic alone."""


IN_IMAGE = "rendered_question"
"""The condition whose prompt is an image alone: what was asked cannot be read off the text of a sample."""


@dataclass(frozen=True)
class Between:
    """The numbers above `least`, up to `most`, as the valid values of a strength."""

    least: float
    most: float

    def index(self, value: float) -> float:
        """Return where a value stands in their order."""
        return value

    def parse(self, text: str) -> float | None:
        """Return the number that `text` says, an integer where it is one; None for no such number."""
        try:
            value = float(text)
        except ValueError:
            return None
        if not self.least < value <= self.most:  # which no NaN is
            return None
        return int(value) if value.is_integer() else value


@dataclass(frozen=True)
class Parameter:
    """A strength of a condition: its default and its valid values, a range of integers, numbers or texts."""

    default: Strength
    valid: range | Between | tuple[str, ...]

    def parse(self, text: str, where: str) -> Strength:
        """Return the value that `text` says, or raise an InputError that begins with `where`."""
        if isinstance(self.valid, range):
            if text.isascii() and text.isdecimal() and int(text) in self.valid:
                return int(text)
            raise InputError(f"{where} is {text!r}, not an integer from {self.valid[0]} to {self.valid[-1]}")
        if isinstance(self.valid, Between):
            if (value := self.valid.parse(text)) is None:
                span = f"above {self.valid.least:g}, up to {self.valid.most:g}"
                raise InputError(f"{where} is {text!r}, not a number {span}")
            return value
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
    role: `interferes` where it adds what must not matter (and for the reference itself), `matches` where it names the
        right option, else `apart`. Only the first are in worst cases and in means over conditions.
    apart_at: strengths with which it is `apart`, as they leave nothing that decides.
    version: raised with any change of what it produces, so that results of two versions never mix.
    instruction: a line before everything else that says to ignore what was added, or "".
    names_option: whether it names an option, which a free-form question does not have.
    attack: by what, and in which space, an adversary at evaluation moves what it leaves as the reference has it (see
        `mmi_plugin.attacks.Attack`); None for a condition that changes the item itself.
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
    names_option: bool = False
    attack: tuple[str, str] | None = None
    strength: Mapping[str, Strength] = field(default_factory=dict)
    role: Role = "interferes"
    apart_at: Mapping[str, Strength] = field(default_factory=dict)

    def __call__(self, item: Item, seed: int = 0, pools: Pools | None = None) -> Item:
        """Return `item` under this condition: a pure function of (item, condition, seed)."""
        if item.family not in self.families:
            raise InputError(
                f"condition {self.name!r} is for {'/'.join(self.families)}, item {item.id} is {item.family}"
            )
        if self.names_option and not item.options:
            raise InputError(f"condition {self.name!r} names an option, and item {item.id} has no options")
        if self.attack and not item.options:
            raise InputError(f"condition {self.name!r} attacks letters of options, and item {item.id} has no options")
        kind = REFERENCE[item.family] if self.name == FLOOR or self.attack else self.kind
        rng, pools = stream(item.id, kind, seed), pools or Pools.default()
        if item.form != pools.form:
            item = replace(item, image=item.picture, form=pools.form)
        changed = self.perturb(item, rng, pools, **self.strength)
        if not self.instruction:
            return changed
        return replace(changed, context="\n".join(filter(None, (self.instruction, changed.context))))

    @property
    def values(self) -> dict[str, Strength]:
        """Every strength with its value, default or not."""
        return {name: parameter.default for name, parameter in self.parameters.items()} | dict(self.strength)

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
        role = "apart" if base.apart_at.items() & other.items() else base.role
        return replace(base, name=name, strength=other, seen=False, published=False, role=role)


CONDITIONS: dict[str, Condition] = {}


def as_reference(item: Item, rng: random.Random, pools: Pools) -> Item:
    """Return the item as its family's reference condition shows it."""
    return CONDITIONS[REFERENCE[item.family]].perturb(item, rng, pools)


def condition(
    *families: Family,
    seen: bool = True,
    published: bool = True,
    version: int = 1,
    ignore: str = "",
    role: Role = "interferes",
    names_option: bool = False,
    attack: tuple[str, str] | None = None,
    apart_at: Mapping[str, Strength] | None = None,
) -> Callable[[Perturbation], Perturbation]:
    """Register a function `(item, rng, pools, *, strengths) -> item` as a condition under its own name.

    A strength is a keyword with a default, annotated `Annotated[type, valid values]`. With `ignore`,
    a line that says to ignore what was added, `instructed_NAME` is registered too. names_option: of an item with
    options alone, as it names one. attack, apart_at: see `Condition`.
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
        own = {"attack": attack, "names_option": names_option, "role": role, "apart_at": dict(apart_at or {})}
        made = Condition(name, name, families, seen, published, version, perturb, strengths, **own)
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
        load_plugins("mmi_plugin.conditions")
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
    load_plugins("mmi_plugin.conditions")
    names = [c.name for c in CONDITIONS.values() if family in c.families and (c.seen if seen_only else c.published)]
    return tuple(sorted(names, key=lambda name: name != REFERENCE[family]))


def fitting(names: Sequence[str], metric: str | None) -> tuple[str, ...]:
    """Return those of `names` that fit: free-form questions, which a metric scores, have no option to be named."""
    return tuple(name for name in names if not (metric and get(name).names_option))


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


def perturbing(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the reference and of what interferes."""
    return tuple(name for name in names if get(name).role == "interferes")
