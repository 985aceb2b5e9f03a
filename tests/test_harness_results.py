"""The reader of results folders, on a real run that is then damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mmi_plugin.errors import InputError
from mmi_plugin.harness.launcher import main
from mmi_plugin.results.runs import newest_results, read_run
from tests.harness_runs import OUR_MODEL, arguments

TASK = "mmi_demo_digits"


@pytest.fixture(scope="module")
def original(tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("original")
    run = arguments(tiny_llava, TASK, out, "--gen_kwargs", "max_new_tokens=1", "--batch_size", "8", limit=8)
    assert main([*OUR_MODEL, *run]) == 0
    return out


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "run"))


def _samples(run: Path) -> Path:
    results = newest_results(run)
    return results.with_name(results.name.replace("_results.json", f"_samples_{TASK}.jsonl"))


def test_a_run_reads_back(run: Path) -> None:
    result = read_run(run)[TASK]
    assert (result.task, result.family, result.seed) == (TASK, "image_heavy", 0)
    assert (result.numbers["items"], len(result.records)) == (2, 8)


def test_the_newest_run_of_a_folder_is_read(run: Path) -> None:
    old = newest_results(run)
    new = old.with_name(f"99990101_000000{old.name[15:]}")
    new.write_text(old.read_text(encoding="utf-8"), encoding="utf-8")
    assert newest_results(run) == new
    with pytest.raises(InputError, match=rf"99990101_000000_samples_{TASK}.jsonl: missing"):
        read_run(run)


@pytest.mark.parametrize("field", ["item_id", "condition", "seed", "gold", "parsed", "raw", "named"])
def test_a_missing_field_is_named_with_its_row(run: Path, field: str) -> None:
    path = _samples(run)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    del rows[2][field]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(InputError, match=rf"{path.name}: row 3: field '{field}' is missing"):
        read_run(run)


def test_a_field_of_the_wrong_type_is_named(run: Path) -> None:
    path = _samples(run)
    path.write_text(path.read_text(encoding="utf-8").replace('"seed": 0', '"seed": "x"', 1), encoding="utf-8")
    with pytest.raises(InputError, match=r"row 1: field 'seed' is 'x'"):
        read_run(run)


def test_a_half_written_row_is_named(run: Path) -> None:
    path = _samples(run)
    path.write_text(path.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    with pytest.raises(InputError, match=rf"{path.name}: row 8: not JSON"):
        read_run(run)


def test_a_folder_without_results_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"{tmp_path.name}: holds no results"):
        read_run(tmp_path)
