"""A finished run and its card."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from cards import Card, made

from skinkd.card import scores
from skinkd.inference.trained import Trained, open_trained


@pytest.fixture(scope="session")
def trained(finished: Path) -> Trained:
    return open_trained(str(finished))


@pytest.fixture(scope="session")
def card(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Card:
    """The card of a run on the synthetic data; its test part is small, so a subgroup needs two lesions for a score."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores, "LEAST_LESIONS", 2)
        return made(trained, tmp_path_factory.mktemp("cards") / "card")


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the run folder, to take files out of."""
    folder = tmp_path / finished.name
    shutil.copytree(finished, folder)
    yield folder
