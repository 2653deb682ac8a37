"""The archive of the study's runs gives them back byte for byte."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from study.archive import TESTED, pack, unpack


def predictions(number: int, seed: int) -> pd.DataFrame:
    """A table with probabilities of every size down to the smallest float32, and names that look like numbers."""
    rng = np.random.default_rng(seed)
    nv = np.float32(10.0) ** rng.uniform(-46, 0, number).astype(np.float32)
    columns = {
        "image_id": [f"{place:05d}" for place in range(number)],
        "group": "1e5",
        "label": "nv",
        "prediction": "NA",
    }
    return pd.DataFrame({**columns, "p_mel": (1 - nv).astype(np.float64), "p_nv": nv.astype(np.float64)})


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "outputs" / "run"
    (folder / "predictions").mkdir(parents=True)
    (folder / "checkpoints").mkdir()
    for name in ("metrics.json", "config.yaml", "history.csv", "splits.csv", "curves.png", "checkpoints/best.ckpt"):
        (folder / name).write_text(f"the content of {name}")
    (folder / "environment.txt").write_text("python 3.12.3\ncommand python /home/me/x.py\n\ntimm==1.0.29\njax==0.1\n")
    for seed, part in enumerate(("val", "test")):
        predictions(2000, seed).to_csv(folder / "predictions" / f"{part}.csv", index=False)
    (folder / "predictions" / "early_exit.csv").write_text("threshold,accuracy\n0.3,0.4457171314741036\n")
    return folder


def test_runs_come_back_from_an_archive_byte_for_byte(run_folder: Path, tmp_path: Path) -> None:
    pack([run_folder], tmp_path / "runs.tar.xz", preset=1)
    (again,) = unpack(tmp_path / "runs.tar.xz", tmp_path / "again")
    files = sorted(file.relative_to(again) for file in again.rglob("*") if file.is_file())
    assert files == [
        *map(Path, ("config.yaml", "environment.txt", "history.csv", "metrics.json")),
        *(Path("predictions") / f"{part}.csv" for part in ("early_exit", "test", "val")),
        Path("splits.csv"),
    ]
    for file in files:
        if file.name != "environment.txt":
            assert (again / file).read_bytes() == (run_folder / file).read_bytes()
        assert int((again / file).stat().st_mtime) == int((run_folder / file).stat().st_mtime)
    assert (again / "environment.txt").read_text() == "python 3.12.3\ntimm==1.0.29\n"


def test_a_table_that_is_not_float32_comes_back_too(run_folder: Path, tmp_path: Path) -> None:
    table = predictions(3, 0)
    table["p_nv"] = [0.1, 0.2, 0.3]  # the shortest digits of another float32 each
    table.to_csv(run_folder / "predictions" / "test.csv", index=False)
    pack([run_folder], tmp_path / "runs.tar.xz", preset=1)
    (again,) = unpack(tmp_path / "runs.tar.xz", tmp_path / "again")
    for part in ("val", "test"):
        name = f"predictions/{part}.csv"
        assert (again / name).read_bytes() == (run_folder / name).read_bytes()


def test_a_further_seeds_archive_has_no_predictions_on_validation(run_folder: Path, tmp_path: Path) -> None:
    pack([run_folder], tmp_path / "runs.tar.xz", preset=1, patterns=TESTED)
    (again,) = unpack(tmp_path / "runs.tar.xz", tmp_path / "again")
    assert [file.name for file in (again / "predictions").iterdir()] == ["test.csv"]
    assert (again / "metrics.json").is_file() and (again / "splits.csv").is_file()
