"""What the harness takes of lmms-eval beyond its extension points: it is there, and is used as we take it."""

from __future__ import annotations

from pathlib import Path

import pytest
from lmms_eval import __main__ as upstream
from lmms_eval import evaluator, evaluator_utils
from lmms_eval.api.instance import unwrap_generation_output
from lmms_eval.cli import dispatch, power_cmd, tasks_cmd

from mmi_plugin import harness
from mmi_plugin.harness import compat
from mmi_plugin.harness.task_manager import QuickTaskManager
from mmi_plugin.models.generate import Reply
from mmi_plugin.results import Record
from tests.foreign import Foreign, check, private_uses

LOOKED_UP = {
    "lmms_eval.__main__:cli_evaluate_single": upstream.cli_evaluate,
    "lmms_eval.__main__:TaskManager": upstream.cli_evaluate_single,
    "lmms_eval.__main__:EvaluationTracker": upstream.cli_evaluate_single,
    "lmms_eval.__main__:WandbLogger": upstream.cli_evaluate,
    "lmms_eval.evaluator_utils:stderr_for_metric": evaluator_utils.TaskOutput.calculate_aggregate_metric,
    "lmms_eval.__main__:collect_task_sizes": upstream._run_power_analysis,
    "lmms_eval.cli.power_utils:collect_task_sizes": power_cmd.run_power,
    "lmms_eval.tasks:TaskManager": tasks_cmd.run_tasks,
    "lmms_eval.evaluator:evaluate": evaluator.simple_evaluate.__wrapped__,
}
"""Where each name that is replaced is read at every call."""


@pytest.mark.parametrize("name", compat.FOREIGN, ids=lambda name: name.path)
def test_a_name_of_lmms_eval_is_there(name: Foreign) -> None:
    check(name)


@pytest.mark.parametrize("path", LOOKED_UP)
def test_a_name_that_is_replaced_is_read_where_we_replace_it(path: str) -> None:
    name = path.rpartition(":")[2]
    assert path in {name.path for name in compat.FOREIGN}
    assert name in LOOKED_UP[path].__code__.co_names, f"{LOOKED_UP[path].__qualname__} no longer reads {path}"


@pytest.mark.parametrize("name", compat.FOREIGN, ids=lambda name: name.path)
def test_a_name_that_is_gone_is_named(name: Foreign, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(name.path.replace(":", "."))
    with pytest.raises(LookupError, match=f"{name.path} is gone; since {name.since}, needed: "):
        check(name)


def test_what_is_replaced_comes_back() -> None:
    theirs = evaluator.evaluate
    with pytest.raises(RuntimeError), compat.replaced({"lmms_eval.evaluator:evaluate": len}):
        assert evaluator.evaluate is len
        raise RuntimeError
    assert evaluator.evaluate is theirs


def test_probabilities_stay_with_an_answer() -> None:
    text, counts = unwrap_generation_output(compat.result(Reply("B", 2, (0.25, 0.75), {"loss": [0.5]})))
    assert (text, counts.to_dict(), compat.probabilities_of(counts)) == ("B", {"output_tokens": 2}, (0.25, 0.75))
    assert compat.attack_of(counts) == {"loss": [0.5]}
    assert compat.probabilities_of(unwrap_generation_output("B")[1]) is None


def test_a_scored_document_is_logged_as_its_record_and_counted_under_every_metric() -> None:
    record = Record("1", "clean", 0, "A", "B", "b")
    scored, logged = compat.Scored(record, ("accuracy/clean", "worst_case")), {}
    logged.update(scored)
    assert logged == record.to_dict()
    assert dict(scored.items()) == {"accuracy/clean": record, "worst_case": record}
    assert {"update", "items"} <= set(evaluator._process_document_results.__code__.co_names) | set(
        evaluator.evaluate.__wrapped__.__code__.co_names
    )


def test_the_index_of_tasks_says_kinds_and_members() -> None:
    index = QuickTaskManager("mmi_demo").task_index
    assert {index[name]["type"] for name in ("mmi_demo", "mmi_all")} == {"group"}
    assert {index[name]["type"] for name in ("mmi_demo_digits", "mmi_mmlu")} == {"python_task"}
    assert Path(index["mmi_mmlu"]["yaml_path"]).name == "mmi_mmlu.yaml"


def test_the_stock_command_line_leaves_by_sys_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `fail_stock` waits for it."""
    source = Path(upstream.__file__).read_text(encoding="utf-8")
    assert "main()\n    sys.exit(0)" in source
    monkeypatch.setattr(compat.sys, "argv", ["/venv/bin/lmms-eval"])
    monkeypatch.setattr(compat.sys, "exit", dispatch.sys.exit)
    monkeypatch.setattr(compat, "_checks", [])
    compat.fail_stock(lambda: ["a record is missing"])
    with pytest.raises(SystemExit) as stop:
        dispatch.sys.exit(0)
    assert stop.value.code == 1


def test_no_private_name_of_others_stands_outside_compat(tmp_path: Path) -> None:
    assert private_uses(Path(harness.__file__).parent) == []
    (tmp_path / "bad.py").write_text(
        "from lmms_eval import _x\nclass A(B):\n    def f(self):\n        return self._theirs + other._y\n"
        "    def _mine(self):\n        return self._mine, getattr(A, '_z')\n"
    )
    assert private_uses(tmp_path) == [
        "bad.py:1 _x",
        "bad.py:4 self._theirs",
        "bad.py:4 other._y",
        "bad.py:6 getattr(A, '_z')",
    ]
