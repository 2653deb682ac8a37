"""The archive of the study's runs gives them back as they were, and docs/study_first_runs.md says what is in it."""

import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_curve

import gpu_study
import study_archive
import study_report
from skinkd.analysis.runs import Run
from skinkd.scoring.bootstrap import intervals_of_test
from skinkd.scoring.metrics import evaluate

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "study_first_runs.md").read_text(encoding="utf-8")
CLASSES = ("mel", "nv")


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
    study_archive.pack([run_folder], tmp_path / "runs.tar.xz", preset=1)
    (again,) = study_archive.unpack(tmp_path / "runs.tar.xz", tmp_path / "again")
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
    study_archive.pack([run_folder], tmp_path / "runs.tar.xz", preset=1)
    (again,) = study_archive.unpack(tmp_path / "runs.tar.xz", tmp_path / "again")
    for part in ("val", "test"):
        name = f"predictions/{part}.csv"
        assert (again / name).read_bytes() == (run_folder / name).read_bytes()


@pytest.mark.parametrize("n", [5, 10, 37, 400])
def test_sensitivity_at_a_specificity_is_the_best_on_the_roc_curve(n: int) -> None:
    rng = np.random.default_rng(n)
    table = pd.DataFrame({"label": np.where(np.arange(n) % 3 == 0, "mel", "nv"), "p_mel": rng.uniform(size=n).round(2)})
    fall_out, sensitivity, _ = roc_curve(table["label"] == "mel", table["p_mel"], drop_intermediate=False)
    expected = sensitivity[1 - fall_out >= 0.9 - 1e-12].max()
    assert study_report.sensitivity_at(table, "mel", 0.9) == expected


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, ...]:
    return study_report.stored_runs(tmp_path_factory.mktemp("archive"))


def test_the_committed_archive_is_small_and_names_no_place_of_a_machine() -> None:
    assert study_report.ARCHIVE.stat().st_size < 10 * 2**20
    with tarfile.open(study_report.ARCHIVE) as tar:
        for entry in tar:
            assert (entry.uname, entry.gname, entry.uid) == ("", "", 0)
            if entry.name.endswith(("config.yaml", "environment.txt")):
                file = tar.extractfile(entry)
                assert file
                text = file.read().decode()
                assert "/root" not in text and "/home" not in text and "://" not in text


def test_every_stored_metric_follows_from_the_stored_predictions_to_the_last_digit(runs: tuple[Run, ...]) -> None:
    for run in runs:
        for part, table in (("val", run.val), ("test", run.test)):
            assert table is not None
            found = evaluate(table, run.classes, calibration_bins=run.config["evaluation"]["calibration_bins"])
            assert {f"{part}/{name}": value for name, value in found.items()}.items() <= run.metrics.items()
    bounds = intervals_of_test(runs[0].test, runs[0].classes, runs[0].config["evaluation"], seed=runs[0].seed)
    assert bounds.items() <= runs[0].metrics.items()


@pytest.mark.parametrize("fold", [0, *(pytest.param(fold, marks=pytest.mark.slow) for fold in (1, 2, 3))])
def test_the_stored_runs_are_those_of_the_committed_settings(
    runs: tuple[Run, ...], monkeypatch: pytest.MonkeyPatch, fold: int
) -> None:
    paths = runs[0].config["paths"]
    monkeypatch.setenv("SKINKD_DATA_DIR", paths["data_dir"])
    monkeypatch.setenv("SKINKD_OUTPUT_DIR", paths["output_dir"])
    monkeypatch.setenv("SKINKD_WEIGHTS", str(Path(paths["data_dir"]).parent / "weights"))
    found = study_report.by_row(runs)
    jobs = {job.label.split()[0]: job.folder.name for job in gpu_study.make_block(list(found), fold, 0, [], True)}
    for row, stored in found.items():
        if fold in stored:
            assert stored[fold].folder.name == jobs[row]


def test_the_page_has_the_scores_of_the_archive(runs: tuple[Run, ...]) -> None:
    found = study_report.by_row(runs)
    for table in (
        study_report.coverage_table(found),
        study_report.score_table(found, [0, 1]),
        study_report.score_table(found, [0, 1, 2]),
        study_report.learning_table(found, study_report.LEARNING, [0, 1]),
    ):
        assert table in PAGE


@pytest.mark.slow
def test_the_page_is_what_its_command_writes(runs: tuple[Run, ...]) -> None:
    assert study_report.page(runs) == PAGE
