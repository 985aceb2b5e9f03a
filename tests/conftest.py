from pathlib import Path

import pytest

from tests import tiny


@pytest.fixture(scope="session")
def tiny_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random LLaVA checkpoint."""
    return tiny.save_llava(tmp_path_factory.mktemp("tiny_llava"))
