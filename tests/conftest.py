import os
from pathlib import Path
from tempfile import mkdtemp

import pytest

os.environ.setdefault("MMI_CACHE", mkdtemp(prefix="mmi-cache-"))
os.environ["HF_HUB_OFFLINE"] = "1"  # no test needs the hub, and waiting for one that is not there takes minutes

from tests import harness_runs, tiny


@pytest.fixture(scope="session")
def tiny_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random LLaVA checkpoint."""
    return tiny.save_llava(tmp_path_factory.mktemp("tiny_llava"))


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Results folders of two random LLaVAs, both asked the same items of the embedded benchmark."""
    from mmi_plugin.harness.launcher import main  # imports lmms-eval, which most tests do without

    folders = []
    for place, seed in enumerate((0, 3)):  # these differ in their worst case
        folder = tmp_path_factory.mktemp(f"evaluated{place}")
        checkpoint = harness_runs.save_varied(folder / "model", seed, letters_only=True)
        options = ("--gen_kwargs", "max_new_tokens=1", "--batch_size", "16")
        run = harness_runs.arguments(checkpoint, "mmi_demo*", folder / "out", *options, limit=60)
        assert main([*harness_runs.OUR_MODEL, *run]) == 0
        folders.append(folder / "out")
    return folders
