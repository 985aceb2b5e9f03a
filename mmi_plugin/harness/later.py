"""Import when first used what an evaluation imports and hardly ever uses."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

MODULES: dict[str, tuple[str, ...]] = {
    "evaluate": (),
    "lmms_eval.filters.extraction": ("RegexFilter", "WhitespaceFilter", "MultiChoiceRegexFilter"),
    "lmms_eval.llm_judge": (".launcher",),
    "scipy.optimize": ("linear_sum_assignment",),
}
"""What is put off, and its functions, classes and (with a dot) submodules that are imported at the start and do not
run it.

`evaluate` (with all pipelines of transformers), `extraction` (with a table of all of Unicode) and `llm_judge` (with
clients of servers) serve tasks of lmms-eval's own; `scipy.optimize` serves losses of object detection.
"""


class _Unused(ModuleType):
    """A module that runs its code when a name or a submodule of it is first asked for.

    `importlib.util.LazyLoader` does not do: it is set off by `inspect`, which reads `__file__` of all modules.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _StandIn(self, name) if name in MODULES.get(self.__name__, ()) else getattr(_run(self), name)


def _run(module: ModuleType) -> ModuleType:
    """Return `module`, run now if it was not before."""
    if isinstance(module, _Unused):
        module.__class__ = ModuleType
        module.__spec__.loader.run(module)
    return module


class _StandIn:
    """What `from module import name` gets for a function or class: called or subclassed, it is the real one."""

    def __init__(self, module: ModuleType, name: str) -> None:
        self._module, self._name = module, name

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return getattr(_run(self._module), self._name)(*arguments, **options)

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[Any, ...]:
        return (getattr(_run(self._module), self._name),)


class _Later(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Unused(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Run nothing yet."""

    def run(self, module: ModuleType) -> None:
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)


class _Imported(Loader):
    """Gives out a module that was imported while its own import was under way."""

    def __init__(self, module: ModuleType) -> None:
        self._module, self._spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: object = None) -> ModuleSpec | None:
        package, _, part = name.rpartition(".")
        if isinstance(sys.modules.get(package), _Unused) and f".{part}" not in MODULES[package]:
            _run(sys.modules[package])
            if name in sys.modules:
                return ModuleSpec(name, _Imported(sys.modules[name]))
        spec = PathFinder.find_spec(name, path) if name in MODULES else None
        if spec is not None and spec.loader is not None:
            spec.loader = _Later(spec.loader)
        return spec


def install() -> None:
    """Put off the import of `MODULES` from now on, in this process."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
