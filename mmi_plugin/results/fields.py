"""JSON of an unknown hand in; objects and fields of the types that are wanted, or an InputError in one line out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mmi_plugin.errors import InputError, plain, shorten
from mmi_plugin.files import parse_json

Kinds = type | tuple[type, ...]
_DEPTH = 100  # of lists and objects within each other
_SHOWN = 80  # characters of a value in an error


def parse_object(text: str | bytes, where: str) -> dict[str, Any]:
    """Return a JSON object. Numbers that are none become None. Raises InputError for a name that occurs twice."""
    value = parse_json(text, where, object_pairs_hook=_unique, parse_constant=lambda _: None, parse_float=_finite)
    if not isinstance(value, dict):
        raise InputError(f"{where}: not a JSON object")
    if _is_deep(value):
        raise InputError(f"{where}: lists and objects are nested more than {_DEPTH} deep")
    return value


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"field {shown(next(name for name in names if names.count(name) > 1))} occurs twice")
    return found


def _finite(text: str) -> float | None:
    return value if math.isfinite(value := float(text)) else None


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_DEPTH):
        level = [inner for one in level if isinstance(one, dict | list) for inner in _inner(one)]
        if not level:
            return False
    return True


def _inner(one: dict[str, Any] | list[Any]) -> list[Any]:
    return list(one.values()) if isinstance(one, dict) else one


def part(row: Mapping[str, Any], name: str, where: object) -> dict[str, Any]:
    """Return an object within `row`, an empty one where it is missing."""
    return field(row, name, (dict, type(None)), where, needed=False) or {}


def field(row: Mapping[str, Any], name: str, kinds: Kinds, where: object, needed: bool = True) -> Any:
    if name not in row:
        if needed:
            raise InputError(f"{where}: field {name!r} is missing")
        return None
    value = row[name]
    if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is int):
        raise InputError(f"{where}: field {name!r} is {shown(value)}")
    return value


def shown(value: object) -> str:
    return shorten(plain(repr(value)), _SHOWN)
