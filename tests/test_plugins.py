"""Conditions and data sets of another package, installed as a user would or in a folder of `--include_path`, in tasks,
sweeps, boards, pages, training."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from transformers import AutoProcessor

from mmi_plugin import plugins
from mmi_plugin.cli import main as mmi
from mmi_plugin.conditions.registry import CONDITIONS, condition, get
from mmi_plugin.errors import InputError
from mmi_plugin.harness.launcher import main as lmms_eval
from mmi_plugin.models import families
from mmi_plugin.models.prompt import Prompts
from mmi_plugin.sources import SOURCES
from mmi_plugin.studies import lmms_eval as without_modules
from mmi_plugin.studies.demo import base_folder
from mmi_plugin.trainers import record as records
from mmi_plugin.trainers.config import MMIConfig
from mmi_plugin.trainers.data import load_benchmarks
from mmi_plugin.trainers.resume import check_same
from tests.leaderboard_boards import samples

EXAMPLE = Path(__file__).parent / "example_plugin"
BIN = Path(sys.executable).parent
TASK = """include: {base}
task: my_{source}
test_split: test
dataset_kwargs:
  source: {source}
  conditions: [{conditions}]
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example package installed in it, and tasks with its names."""
    folder = tmp_path_factory.mktemp("packages")
    copied = folder / "source"
    copied.mkdir()
    for file in EXAMPLE.iterdir():
        if file.is_file():
            (copied / file.name).write_bytes(file.read_bytes())
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([*command, str(folder / "site"), str(copied)], check=True, capture_output=True)
    write_tasks(folder / "tasks")
    return folder


def write_tasks(folder: Path) -> None:
    folder.mkdir()
    base = EXAMPLE.parents[1] / "tasks" / "_mmi_base"
    for source, conditions in (("demo_digits", "clean, shouted_text"), ("seasons", "random_pixels, black")):
        text = TASK.format(base=base, source=source, conditions=conditions)
        (folder / f"my_{source}.yaml").write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def included(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the example's module beside the tasks, as `--include_path` takes it; nothing is installed."""
    folder = tmp_path_factory.mktemp("included")
    write_tasks(folder / "tasks")
    module = (EXAMPLE / "example_plugin.py").read_bytes()
    (folder / "tasks" / "mmi_example.py").write_bytes(module)
    return folder


@pytest.fixture
def restored() -> Iterator[None]:
    """Whatever a test registers is forgotten after it."""
    known = CONDITIONS, SOURCES, families._PECULIAR, plugins._included
    before = [dict(one) for one in known]
    yield
    for one, had in zip(known, before, strict=True):
        one.clear()
        one.update(had)
    get.cache_clear()


def run(packages: Path, *command: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(packages / "site"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [str(BIN / str(command[0])), *map(str, command[1:])],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_names_of_another_package_are_known_in_tasks_boards_and_pages(packages: Path, tmp_path: Path) -> None:
    model = ["--model", "mmi_hf", "--model_args", f"pretrained={base_folder()}"]
    asked = ["--tasks", "my_demo_digits,my_seasons", "--include_path", packages / "tasks", "--limit", "8"]
    made = run(packages, "lmms_eval", *model, *asked, "--output_path", tmp_path / "out", "--log_samples")
    assert made.returncode == 0, made.stderr[-2000:]
    shouted = [row for row in samples(tmp_path / "out", "my_demo_digits") if row["condition"] == "shouted_text"]
    assert len(shouted) == 4 and all(row["input"].startswith("IT IS ") for row in shouted)

    page = tmp_path / "board.html"
    board = run(packages, "mmi", "leaderboard", tmp_path / "out", "--html", page)
    assert board.returncode == 0, board.stderr[-2000:]
    assert "shouted text*" in page.read_text(encoding="utf-8")


@pytest.mark.long
@pytest.mark.parametrize("way", ["packages", "included"])
def test_sweeps_own_data_and_previews_know_them(way: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    packages: Path = request.getfixturevalue(way)
    model = ["--model_args", f"pretrained={base_folder()}"]
    strengths = "louder_text@times=1,2"
    asked = ["my_demo_digits", strengths, "--include_path", packages / "tasks", *model, "--limit", "6"]
    swept = run(packages, "mmi", "sweep", *asked, "--out", tmp_path / "sweep")
    assert swept.returncode == 0, swept.stderr[-2000:]
    assert "times=2  flip_rate" in swept.stdout and (tmp_path / "sweep" / "sweep.csv").is_file()

    seen = run(packages, "mmi", "preview", "my_demo_digits", "--include_path", packages / "tasks", "--items", "1")
    assert "  shouted_text* (image 32 x 32)" in seen.stdout and "    IT IS " in seen.stdout, seen.stderr[-2000:]
    seasons = run(packages, "mmi", "preview", "my_seasons", "--include_path", packages / "tasks")
    assert "4 items under 2 conditions are 8 prompts" in seasons.stdout

    table = tmp_path / "q.jsonl"
    row = {"question": "What?", "options": ["a", "b"], "answer": "a", "image": "p.png"}
    table.write_text(json.dumps(row), encoding="utf-8")
    Image.new("RGB", (8, 8)).save(tmp_path / "p.png")
    own = ["--family", "image_heavy", "--conditions", "clean,shouted_text", "--include_path", packages / "tasks"]
    own = run(packages, "mmi", "eval", "--data", table, *own, *model, "--out", tmp_path / "own")
    assert own.returncode == 0 and (tmp_path / "own" / "board.html").is_file(), own.stderr[-2000:]


def test_a_training_takes_them(packages: Path, tmp_path: Path) -> None:
    fields = ["--image_heavy_conditions", "clean", "shouted_text", "--max_steps", "1", "--save_strategy", "no"]
    fields += ["--sources", "demo_digits", "seasons", "demo_arith"]
    quiet = ["--report_to", "none", "--disable_tqdm", "true", "--use_cpu", "true", "--output_dir", tmp_path / "out"]
    made = run(packages, "mmi", "train", "demo/d_aug", "--model_name_or_path", base_folder(), *fields, *quiet)
    assert made.returncode == 0, made.stderr[-2000:]
    record = json.loads((tmp_path / "out" / "training.json").read_text(encoding="utf-8"))
    assert record["data"]["items"]["seasons"] == 4
    assert record["conditions"]["image_heavy"] == ["clean", "shouted_text"]


def test_a_package_that_cannot_be_imported_is_named_in_one_line(packages: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "broken-1.dist-info").mkdir(parents=True)
    (site / "broken.py").write_text("1 / 0", encoding="utf-8")
    metadata = "Metadata-Version: 2.1\nName: broken\nVersion: 1\n"
    (site / "broken-1.dist-info" / "METADATA").write_text(metadata, encoding="utf-8")
    points = "[mmi_plugin.conditions]\nmine = broken\n"
    (site / "broken-1.dist-info" / "entry_points.txt").write_text(points, encoding="utf-8")
    made = run(tmp_path, "mmi", "train", "demo/d_aug", "--image_heavy_conditions", "clean", "mine")
    assert made.returncode == 2
    assert made.stderr.endswith(
        "broken: entry point mmi_plugin.conditions:mine cannot be loaded: ZeroDivisionError: division by zero\n"
    )


def test_a_name_that_is_taken_is_refused() -> None:
    def clean(item: object, rng: object, pools: object) -> object:
        return item

    before = CONDITIONS["clean"]
    with pytest.raises(InputError, match=r"condition 'clean' is registered by mmi_plugin.conditions.text, too"):
        condition("image_heavy")(clean)
    assert CONDITIONS["clean"] is before


def test_modules_of_an_included_folder_act_in_tasks_and_boards_and_are_recorded(
    included: Path, restored: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks, out = str(included / "tasks"), str(tmp_path / "out")
    model = ["--model", "mmi_hf", "--model_args", f"pretrained={base_folder()}", "--include_path", tasks]
    asked = ["--tasks", "my_demo_digits", "--limit", "4", "--output_path", out, "--log_samples"]
    assert lmms_eval([*model, *asked]) == 0
    shouted = [row["input"] for row in samples(Path(out), "my_demo_digits") if row["condition"] == "shouted_text"]
    assert len(shouted) == 2 and all(text.startswith("IT IS ") for text in shouted)
    (results,) = Path(out).rglob("*_results.json")
    recorded = json.loads(results.read_text(encoding="utf-8"))["mmi"]["tasks"]["my_demo_digits"]["plugins"]
    digest = hashlib.sha256((EXAMPLE / "example_plugin.py").read_bytes()).hexdigest()
    assert recorded == {"mmi_example.py": digest}

    page = tmp_path / "board.html"
    assert mmi(["leaderboard", out, "--html", str(page), "--include_path", tasks]) == 0
    assert "shouted text*" in page.read_text(encoding="utf-8")
    other = tmp_path / "other"
    shutil.copytree(out, other)
    (changed,) = other.rglob("*_results.json")
    changed.write_text(changed.read_text(encoding="utf-8").replace(digest, "0" * 64), encoding="utf-8")
    capsys.readouterr()
    assert mmi(["leaderboard", f"A={out}", f"B={other}", "--baseline", "A"]) == 2
    said = capsys.readouterr().err
    assert "code of conditions, sources and families from outside of A and B" in said and "mmi_example.py" in said


def test_a_training_takes_the_modules_of_a_folder_and_goes_on_with_the_same_alone(
    included: Path, restored: None, tmp_path: Path
) -> None:
    fields = {"sources": ["demo_digits", "seasons"], "image_heavy_conditions": ["clean", "shouted_text"]}
    args = MMIConfig(
        output_dir=str(tmp_path / "out"), include_path=str(included / "tasks"), use_cpu=True, mix=[1, 1, 0], **fields
    )
    assert [bench.name for bench in load_benchmarks(args)] == ["demo_digits", "seasons"]
    record = records.setup(args)
    assert (
        record["versions"]["mmi_example.py"] == hashlib.sha256((EXAMPLE / "example_plugin.py").read_bytes()).hexdigest()
    )
    (tmp_path / "training.json").write_text(json.dumps(record), encoding="utf-8")
    check_same(tmp_path, records.setup(args))
    plugins._included[str(included / "tasks" / "mmi_example.py")] = "0" * 64
    with pytest.raises(InputError, match=r"of another run: versions: mmi_example.py was '[0-9a-f]{64}' and is '0{64}'"):
        check_same(tmp_path, records.setup(args))


def test_only_a_folder_that_a_user_names_is_run(restored: None, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "mmi_mine.py").write_text(f"open({str(ran)!r}, 'w')", encoding="utf-8")
    (tmp_path / "other.py").write_text("1 / 0", encoding="utf-8")
    flags = {"model": "mmi_hf", "tasks": "mmi_demo_arith", "limit": "0", "include_path": str(tmp_path)}
    assert without_modules(**flags) == 2 and not ran.exists()
    assert lmms_eval([part for name, value in flags.items() for part in (f"--{name}", value)]) == 2 and ran.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import os\n1 / 0\n", "mmi_mine.py, line 2: cannot be loaded: ZeroDivisionError: division by zero"),
        ("def f(:\n", "mmi_mine.py: cannot be loaded: SyntaxError: invalid syntax"),
        (
            "from mmi_plugin.conditions import condition\n@condition('vqa')\ndef clean(item, rng, pools):\n    ...\n",
            "cannot be loaded: condition 'clean' is registered by mmi_plugin.conditions.text, too",
        ),
        (None, "no such folder"),
    ],
)
def test_a_folder_that_cannot_be_included_is_named_in_one_line(
    text: str | None, said: str, restored: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    if text is not None:
        folder.mkdir()
        (folder / "mmi_mine.py").write_text(text, encoding="utf-8")
    assert mmi(["preview", "mmi_demo_arith", "--include_path", str(folder)]) == 2
    error = capsys.readouterr().err
    assert said in error and str(folder) in error and error.count("\n") == 1


FAMILY = """
from mmi_plugin.models.families import family
from mmi_plugin.models.prompt import Prompts

@family("LlavaProcessor")
class Polite(Prompts):
    def _render(self, chat, add_generation_prompt=False):
        return f"Please. {super()._render(chat, add_generation_prompt)}"
"""


def test_a_model_family_of_a_users_own_makes_the_prompts(restored: None, tmp_path: Path) -> None:
    (tmp_path / "mmi_family.py").write_text(FAMILY, encoding="utf-8")
    processor = AutoProcessor.from_pretrained(base_folder())
    chat = [{"role": "user", "content": [{"type": "text", "text": "Who?"}]}]
    theirs = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert families.prompts_of(processor).text(chat) == theirs
    plugins.include(tmp_path)
    assert families.prompts_of(processor).text(chat) == f"Please. {theirs}"
    with pytest.raises(InputError, match="'Gemma3Processor' is registered by mmi_plugin"):
        families.family("Gemma3Processor")(type("Mine", (Prompts,), {}))
