"""What a sweep trains: a config as it is, and with one field changed at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mmi_plugin.configs
from mmi_plugin.conditions import get
from mmi_plugin.errors import InputError, nearest
from mmi_plugin.files import read_mapping
from mmi_plugin.item import FAMILIES

if TYPE_CHECKING:
    from mmi_plugin.trainers.config import MMIConfig


AXES = Path(next(iter(mmi_plugin.configs.__path__))) / "ablation" / "axes.yaml"
SET_HERE = ("seed", "data_seed", "output_dir")
"""Fields that the sweep sets itself."""
_KEYS = ("field", "values", "needs", "asks")


@dataclass(frozen=True)
class Axis:
    """The values of one field, as texts in the order in which they are shown; `own` is the config's. asks: conditions
    under which all settings are asked beside those of the tasks."""

    name: str
    field: str
    values: tuple[str, ...]
    needs: Mapping[str, tuple[str, ...]]
    own: str = ""
    asks: tuple[str, ...] = ()

    @property
    def others(self) -> list[Setting]:
        return [Setting(self.field, value) for value in self.values if value != self.own]

    def within(self, config: MMIConfig) -> Axis:
        """Return the axis with the config's own value among its values."""
        own = getattr(config, self.field)
        if own is None and (family := self.field.removesuffix("_conditions")) in FAMILIES:
            own = config.conditions_of(family)  # those that the config stands for
        own = as_text(own)
        values = self.values if own in self.values else (own, *self.values)
        if own not in self.values and all(map(_is_number, values)):
            values = tuple(sorted(values, key=float))
        return replace(self, values=values, own=own)

    def applies(self, config: MMIConfig) -> bool:
        return all(as_text(getattr(config, field)) in values for field, values in self.needs.items())


@dataclass(frozen=True)
class Setting:
    """One field changed; without a field the config as it is or, not `trained`, the base."""

    field: str = ""
    value: str = ""
    trained: bool = True

    @property
    def name(self) -> str:
        if self.field:
            return f"{self.field}={self.value}"
        return "own" if self.trained else "base"

    @property
    def argv(self) -> list[str]:
        return [f"--{self.field}", *self.value.split(":")] if self.field else []


OWN, BASE = Setting(), Setting(trained=False)


@dataclass(frozen=True)
class Plan:
    """The axes with the config's own values, and each setting once: the base, the config as it is, the others."""

    axes: tuple[Axis, ...]
    settings: tuple[Setting, ...]
    left_out: tuple[str, ...]

    @property
    def asks(self) -> tuple[str, ...]:
        """The conditions under which all settings are asked beside those of the tasks."""
        return tuple(dict.fromkeys(name for axis in self.axes for name in axis.asks))


def make_plan(axes: Sequence[Axis], argv: Sequence[str], only: Sequence[str] | None = None) -> Plan:
    """Return the plan of a sweep around the config that the command line `argv` of the trainer stands for.

    Raises InputError for an unknown axis in `only`, one that means nothing with this config, a field that
    the sweep sets itself, and whatever the config itself refuses, with each of the values.
    """
    for option in argv:
        if option.lstrip("-").split("=")[0] in SET_HERE and option.startswith("--"):
            raise InputError(f"{option.split('=')[0]} is set by the sweep itself")
    config = parsed(argv)
    names = [axis.name for axis in axes]
    for name in only or ():
        if name not in names:
            raise InputError(f"unknown axis {name!r}: {nearest(name, names)}")
    chosen = [axis for axis in axes if only is None or axis.name in only]
    for axis in chosen:
        if only and not axis.applies(config):
            wanted = " and ".join(f"{field} among {', '.join(values)}" for field, values in axis.needs.items())
            raise InputError(f"axis {axis.name!r} changes nothing in this config: it needs {wanted}")
    kept = tuple(axis.within(config) for axis in chosen if axis.applies(config))
    changed = dict.fromkeys(setting for axis in kept for setting in axis.others)
    for setting in changed:
        parsed([*argv, *setting.argv])
    return Plan(kept, (BASE, OWN, *changed), tuple(axis.name for axis in chosen if not axis.applies(config)))


def parsed(argv: Sequence[str]) -> MMIConfig:
    """Return the config of a trainer's command line. Raises InputError for a bad one, or a mix that does not fit."""
    from mmi_plugin.trainers.groups import check_mix
    from mmi_plugin.trainers.run import parse  # imports torch and TRL, and is no part of the core

    config = parse(argv)
    check_mix(config.mix, config.per_device_train_batch_size * config.gradient_accumulation_steps)
    return config


def read_axes(path: Path = AXES) -> list[Axis]:
    """Return the axes that a YAML declares. Raises InputError that names file and axis."""
    axes = read_mapping(path, "axes by name")
    return [_axis(f"{path}: axis {name!r}", str(name), entry) for name, entry in axes.items()]


def _axis(where: str, name: str, entry: Any) -> Axis:
    if not isinstance(entry, dict) or not isinstance(entry.get("values"), list) or not entry.get("field"):
        raise InputError(f"{where}: needs 'field' and a list of 'values'")
    for key in entry:
        if key not in _KEYS:
            raise InputError(f"{where}: unknown key {key!r}: {nearest(str(key), _KEYS)}")
    needs = {field: tuple(map(as_text, values)) for field, values in (entry.get("needs") or {}).items()}
    from mmi_plugin.trainers.config import MMIConfig

    for field in (entry["field"], *needs):
        if field not in MMIConfig.__dataclass_fields__:
            raise InputError(f"{where}: unknown field {field!r}: {nearest(field, MMIConfig.__dataclass_fields__)}")
    try:
        asks = tuple(get(asked).name for asked in map(str, entry.get("asks") or ()))
    except InputError as error:
        raise InputError(f"{where}: key 'asks': {error}") from error
    return Axis(name, entry["field"], tuple(map(as_text, entry["values"])), needs, asks=asks)


def as_text(value: object) -> str:
    """Return a field's value as it is shown and compared: 0.1, pgd, 2:1:2."""
    if isinstance(value, (list, tuple)):
        return ":".join(map(as_text, value))
    return f"{value:g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
