"""Which trainings a sweep of the trainer stands for, and what it refuses before the first."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmi_plugin.cli import main
from mmi_plugin.errors import InputError
from mmi_plugin.studies.plan import AXES, BASE, OWN, Axis, make_plan, read_axes
from mmi_plugin.trainers.objective import SETTINGS
from mmi_plugin.trainers.run import parse

OURS = ("--config", "configs/demo/ours.yaml", "--model_name_or_path", "none")


def test_every_part_of_the_method_has_an_axis() -> None:
    fields = {axis.field for axis in read_axes()}
    parts = {"eps", "pgd_steps", "step_rule", "attack_mask", "consistency", "consistency_weight", "mix"}
    assert parts <= fields


def test_an_axis_may_ask_under_further_conditions(tmp_path: Path) -> None:
    plan = make_plan(read_axes(), OURS, ["matching", "mix"])
    assert plan.asks == ("matching_text", "matching_text@picture=black")
    assert plan.axes[-1].own == "clean:unrelated_text:misleading_text", "those that the config stands for"
    assert make_plan(read_axes(), OURS, ["mix"]).asks == ()
    file = tmp_path / "axes.yaml"
    file.write_text("a: {field: eps, values: [1], asks: [matching_txt]}", encoding="utf-8")
    with pytest.raises(InputError, match=r"axis 'a': key 'asks': unknown condition 'matching_txt': .*matching_text"):
        read_axes(file)


def test_plan_changes_one_field_of_the_config_at_a_time() -> None:
    plan = make_plan(read_axes(), OURS)
    own = parse([*OURS, "--output_dir", "out"])
    assert plan.settings[:2] == (BASE, OWN)
    assert len(set(plan.settings)) == len(plan.settings) == 2 + sum(len(axis.values) - 1 for axis in plan.axes)
    for setting in plan.settings[2:]:
        changed = parse([*OURS, "--output_dir", "out", *setting.argv])
        differing = {
            name
            for name in type(own).__dataclass_fields__
            if getattr(own, name) != getattr(changed, name) and name not in ("logging_dir", "run_name")
        }
        assert differing == {setting.field}


def test_each_difference_of_the_published_objective_has_an_axis() -> None:
    """Or changes nothing in runs of one micro-batch a step of a LLaVA; or is the base's own."""
    published = ("--config", "configs/demo/published.yaml", "--model_name_or_path", "none")
    plan = make_plan(read_axes(AXES.with_name("published.yaml")), published)
    own = parse([*published, "--output_dir", "out"])
    nothing = {"loss_mean", "vqa_turns", "freeze"}
    taught = {"pool", "canvas", "unrelated_texts", "system_text", "closing_text", "question_header"}
    sizes = {"step_size"}  # has the unit of its rule, and comes with `profile`
    assert {axis.field for axis in plan.axes} == {"profile", *SETTINGS} - nothing - taught - sizes
    for axis in plan.axes:
        ours = parse([*published, "--output_dir", "out", *axis.others[0].argv])
        differing = {name for name in SETTINGS if getattr(own, name) != getattr(ours, name)}
        wanted = set(SETTINGS) - taught if axis.field == "profile" else {axis.field}
        assert differing == wanted
        by_name = {"fact_text": "composed", "sentence_draw": "distinct", "draws": 64}  # what the data has, as `own`
        assert all(getattr(ours, name) in (SETTINGS[name][0], by_name.get(name)) for name in differing)
    assert not plan.left_out


def test_own_value_stands_among_the_others_in_order() -> None:
    own = (*OURS, "--eps", "0.1", "--mix", "2", "3", "3")
    (eps,) = make_plan([Axis("eps", "eps", ("0.3", "0.03"), {})], own).axes
    assert (eps.values, eps.own) == (("0.03", "0.1", "0.3"), "0.1")
    (mix,) = make_plan([Axis("mix", "mix", ("4:2:2",), {})], own).axes
    assert (mix.values, mix.own) == (("2:3:3", "4:2:2"), "2:3:3")


def test_axis_that_changes_nothing_is_left_out_or_refused() -> None:
    without = (*OURS, "--adversary", "none")
    plan = make_plan(read_axes(), without)
    assert {"eps", "steps", "rule", "mask"} <= set(plan.left_out)
    assert "adversary" in {axis.name for axis in plan.axes}
    with pytest.raises(InputError, match=r"axis 'eps' changes nothing .* adversary among pgd"):
        make_plan(read_axes(), without, ["eps"])


@pytest.mark.parametrize(
    ("argv", "only", "message"),
    [
        (("--seed", "1"), None, "--seed is set by the sweep itself"),
        (("--epz", "1"), None, "epz"),
        ((), ["epss"], "unknown axis 'epss'.*eps"),
        (("--per_device_train_batch_size", "7"), ["mix"], "'mix' .* does not divide the 7 items"),
    ],
)
def test_bad_sweeps_are_refused(argv: tuple[str, ...], only: list[str] | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_plan(read_axes(), (*OURS, *argv), only)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "holds list"),
        ("eps: {values: [1]}", "axis 'eps': needs 'field'"),
        ("eps: {field: eps, values: 1}", "axis 'eps': needs 'field' and a list"),
        ("eps: {field: epz, values: [1]}", "unknown field 'epz'.*eps"),
        ("eps: {field: eps, values: [1], need: {}}", "unknown key 'need'.*needs"),
        ("a: [", "cannot be read"),
    ],
)
def test_bad_axes_name_file_and_axis(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "axes.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        read_axes(file)
    assert str(file) in str(caught.value)


def test_command_refuses_before_it_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["sweep-train", "--config", "configs/demo/ours.yaml", "--out", str(tmp_path / "out")]
    assert main([*command, "--epz", "1"]) == 2
    assert main([*command, "--seeds", "0"]) == 2
    assert main([*command, "--model_name_or_path", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "eps" in said
    assert "--seeds is 0" in said
    assert "model.safetensors is missing" in said
    assert not (tmp_path / "out").exists()
    assert AXES.is_file()
