"""`mmi attack`: a task under an adversary at several sizes through the harness, beside noise of the same sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmi_plugin.conditions import REFERENCE, check_names, get
from mmi_plugin.documents import Selection
from mmi_plugin.errors import InputError, plain
from mmi_plugin.harness.task_manager import find_task
from mmi_plugin.results.attacks import attacks, warnings
from mmi_plugin.results.runs import read_runs
from mmi_plugin.studies.sweep import ask

FULL = {"steps": "100", "restarts": "5"}
"""What conditions have by default is the quick setting."""


@dataclass(frozen=True)
class Asked:
    """space: of an `Attack`. eps: the sizes, as strengths of its conditions spell them. square: ask Square attack,
    too. settings: further strengths, of the conditions that have them, as `norm`."""

    space: str
    eps: Sequence[str]
    square: bool
    settings: Mapping[str, Any]

    def conditions(self, family: str) -> tuple[str, ...]:
        """Return the reference, noise at each size, and the attacks.

        Raises InputError for a size or setting that no condition has, and for a space of another family.
        """
        kinds = ["noise", "adversarial", *(["square"] if self.square else [])]
        unused = set(self.settings)
        names = [REFERENCE[family]]
        for kind in kinds:
            known = get(f"{kind}_{self.space}").parameters
            own = {name: value for name, value in self.settings.items() if name in known}
            unused -= set(own)
            size = "eps" if "eps" in known else "length"
            rest = "".join(f"@{name}={value}" for name, value in own.items())
            names += [f"{kind}_{self.space}@{size}={value}{rest}" for value in self.eps]
        for name in sorted(unused):
            raise InputError(f"--{name}: {self.space} has no such setting")
        return check_names(names, family)


def run(
    task: str, asked: Asked, out: Path, model_args: str, include_path: Path | None, flags: Mapping[str, Any]
) -> int:
    """Ask `task` under attack, unless that was done before; print and leave below `out` what it found; return 0, or
    the harness's status. Raises InputError for an unknown task and for what `Asked.conditions` refuses."""
    found = find_task(task, include_path)
    family = Selection.parse(found.options, found.split, task).benchmark().family
    name = f"{task}_{asked.space}"
    model = {"model": "mmi_hf", "model_args": model_args}
    status = ask(found, name, asked.conditions(family), out, model, flags)
    if not status:
        _print(out, name)
    return status


def _print(out: Path, task: str) -> None:
    for own in read_runs([str(out)]):
        result = own.results[task]
        reference = own.outcomes[task].conditions[0]
        clean = [record.right for record in result.records if record.condition == reference]
        print(
            f"{plain(own.name)}  {task}: {100 * sum(clean) / len(clean):.1f}% right of {len(clean)} under {reference}"
        )
        for one in attacks(result.records, result.conditions):
            share = f"{100 * one.accuracy.value:5.1f} [{100 * one.accuracy.low:.1f}, {100 * one.accuracy.high:.1f}]"
            climbed = f", loss {one.loss[0]:.3f} to {one.loss[-1]:.3f}" if one.loss else ""
            took = f"{one.seconds:.2f} s, {one.passes:.0f} passes an item, radius {one.radius:.4g}{climbed}"
            print(f"  {one.condition:44}  {share}  ({took})")
        for doubt in warnings(result.records, result.conditions):
            print(f"  warning: {doubt}")
    print(f"page: mmi leaderboard {out} --html page.html")
