"""What a data set's columns must be: checked before any row is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mmi_plugin.errors import InputError, nearest

if TYPE_CHECKING:
    from datasets import Features

Columns = Mapping[str, str]
"""Column name -> kind, a key of KINDS."""


def _is(feature: Any, kind: str, *dtypes: str) -> bool:
    return type(feature).__name__ == kind and (not dtypes or getattr(feature, "dtype", None) in dtypes)


def _text(feature: Any) -> bool:
    return _is(feature, "Value", "string", "large_string")


def _number(feature: Any) -> bool:
    return _is(feature, "Value") and "int" in feature.dtype


def _texts(feature: Any) -> bool:
    return _is(feature, "List") and _text(feature.feature)


def _choices(feature: Any) -> bool:
    return isinstance(feature, dict) and all(name in feature and _texts(feature[name]) for name in ("text", "label"))


def _image(feature: Any) -> bool:
    return _is(feature, "Image") or _text(feature)


KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "text": ("text", _text),
    "key": ("text or an integer", lambda feature: _text(feature) or _number(feature)),
    "index": ("an integer or a class label", lambda feature: _number(feature) or _is(feature, "ClassLabel")),
    "class": ("a class label or its name", lambda feature: _text(feature) or _is(feature, "ClassLabel")),
    "texts": ("a list of texts", _texts),
    "choices": ("lists 'text' and 'label'", _choices),
    "image": ("an image or a path", _image),
    "images": ("an image, a path or a list of them", lambda f: _image(f) or (_is(f, "List") and _image(f.feature))),
}
"""Kind -> (what an error calls it, whether a feature of `datasets` is of that kind)."""


def check_columns(features: Features, columns: Columns, where: str) -> None:
    """Raise an InputError that names the first column that is missing or of another kind."""
    for name, kind in columns.items():
        if name not in features:
            raise InputError(f"{where}: column {name!r} is missing: {nearest(name, features)}")
        wanted, fits = KINDS[kind]
        if not fits(features[name]):
            raise InputError(f"{where}: column {name!r} is {features[name]}, not {wanted}")
