"""The lower bounds of what the package requires, as constraints for pip: python tests/floors.py > FILE

With the name of an extra, what that requires.
"""

from __future__ import annotations

import sys
from itertools import chain
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from setuptools.config.pyprojecttoml import read_configuration


def settings() -> dict[str, Any]:
    """What pyproject.toml says."""
    return read_configuration(Path(__file__).parents[1] / "pyproject.toml", expand=False)


def requirements() -> list[Requirement]:
    """All that the package and its extras require."""
    project = settings()["project"]
    return [*map(Requirement, chain(project["dependencies"], *project["optional-dependencies"].values()))]


def bound(requirement: Requirement, operator: str) -> str:
    """The version that a requirement names with `operator`, once. Raises ValueError where it does not."""
    versions = [spec.version for spec in requirement.specifier if spec.operator == operator]
    if len(versions) != 1:
        raise ValueError(f"{requirement}: not one version with {operator!r}")
    return versions[0]


if __name__ == "__main__":
    if sys.argv[1:]:
        print(*settings()["project"]["optional-dependencies"][sys.argv[1]], sep="\n")
    else:
        print(*sorted({f"{found.name}=={bound(found, '>=')}" for found in requirements()}), sep="\n")
