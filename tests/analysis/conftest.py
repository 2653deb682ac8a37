"""Run folders for the tests of this folder."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from run_factory import MakeRun, config_in, make_study, maker


@pytest.fixture
def base_config(tmp_path: Path) -> dict[str, Any]:
    return config_in(tmp_path)


@pytest.fixture
def make_run(base_config: dict[str, Any]) -> MakeRun:
    return maker(base_config)


@pytest.fixture(scope="session")
def stored_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of ``make_study``, for reading only."""
    return make_study(maker(config_in(tmp_path_factory.mktemp("study"))))


@pytest.fixture
def study(stored_study: Path, tmp_path: Path) -> Path:
    """The runs of ``make_study``, where the test may change them."""
    return shutil.copytree(stored_study, tmp_path / "outputs")
