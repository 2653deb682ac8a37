"""The cluster, for the tests marked ``cluster``."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_slurm import Slurm, processes_of, script


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """The cluster. SKINKD_SLURM names a folder whose packages are unpacked already."""
    if os.geteuid() != 0:
        pytest.skip("SLURM's daemons need root")
    given = os.environ.get("SKINKD_SLURM")
    folder = Path(given) if given else tmp_path_factory.mktemp("slurm")
    if not (folder / "root").is_dir():
        script("unpack", folder)
    try:
        script("start", folder)
        cluster = Slurm(folder)
        yield cluster
        cluster.end()
    finally:
        script("stop", folder)
    assert processes_of(folder) == []
