"""The committed archives hold what docs/study.md says, and docs/results.md follows from them."""

import itertools
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from skinkd.analysis.runs import Run, read_runs
from skinkd.scoring.bootstrap import intervals_of_test
from skinkd.scoring.metrics import evaluate
from study import plan, published, report, tables, variants
from study.archive import unpack
from study.collect import ARCHIVES, HERE, collect, stored_runs

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


EVERY_ARCHIVE = [*itertools.chain.from_iterable(ARCHIVES.values()), *variants.ARCHIVES.values(), published.ARCHIVE]


@pytest.mark.parametrize("name", EVERY_ARCHIVE)
def test_a_committed_archive_is_small_and_names_no_place_of_a_machine(name: str) -> None:
    assert (HERE / name).stat().st_size < 10 * 2**20
    with tarfile.open(HERE / name) as tar:
        for entry in tar:
            assert (entry.uname, entry.gname, entry.uid) == ("", "", 0)
            if entry.name.endswith(("config.yaml", "environment.txt")):
                file = tar.extractfile(entry)
                assert file
                text = file.read().decode()
                assert "/root" not in text and "/home" not in text and "://" not in text


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, ...]:
    return stored_runs(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def some(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, ...]:
    """All rows of fold 0 with seed 0, and three rows of all folds and seeds. To read the whole archive takes ten seconds."""
    folder = tmp_path_factory.mktemp("some")
    return part_of(ARCHIVES["fine_tuned"], r"-seed0-fold0-|^(supervised|swskd)-.*_lite0-.*-fold", folder)


def part_of(archives: Sequence[str], names: str, folder: Path) -> tuple[Run, ...]:
    """The runs of archives whose folders have such names."""
    for number, name in enumerate(archives):
        part = folder / f"part{number}.tar"
        with tarfile.open(part, "w") as tar, tarfile.open(HERE / name) as whole:
            for entry in whole:
                if re.search(names, entry.name):
                    tar.addfile(entry, whole.extractfile(entry))
        unpack(part, folder / "runs")
    return read_runs([folder / "runs"], output_dir=folder / "runs").runs


SOME_OR_ALL = pytest.mark.parametrize("which", ["some", pytest.param("runs", marks=pytest.mark.slow)])


@SOME_OR_ALL
def test_every_stored_metric_follows_from_the_stored_predictions_to_the_last_digit(
    request: pytest.FixtureRequest, which: str
) -> None:
    runs: tuple[Run, ...] = request.getfixturevalue(which)
    assert len(runs) >= 24
    for run in runs:
        assert run.seed or run.val is not None
        for part, table in (("val", run.val), ("test", run.test)):
            if table is None:
                continue
            found = evaluate(table, run.classes, calibration_bins=run.config["evaluation"]["calibration_bins"])
            assert {f"{part}/{name}": value for name, value in found.items()}.items() <= run.metrics.items()
    bounds = intervals_of_test(runs[0].test, runs[0].classes, runs[0].config["evaluation"], seed=runs[0].seed)
    assert bounds.items() <= runs[0].metrics.items()


PLACES = [(fold, seed) for seed in (0, 1) for fold in range(5)]


@pytest.mark.parametrize(
    ("fold", "seed"), [(0, 0), *(pytest.param(*place, marks=pytest.mark.slow) for place in PLACES[1:])]
)
def test_the_stored_runs_are_those_of_the_committed_settings(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, fold: int, seed: int
) -> None:
    runs: tuple[Run, ...] = request.getfixturevalue("some" if (fold, seed) == (0, 0) else "runs")
    paths = runs[0].config["paths"]
    monkeypatch.setenv("SKINKD_DATA_DIR", paths["data_dir"])
    monkeypatch.setenv("SKINKD_OUTPUT_DIR", paths["output_dir"])
    monkeypatch.setenv("SKINKD_WEIGHTS", str(Path(paths["data_dir"]).parent / "weights"))
    stored = {row: of[fold, seed] for row, of in collect(runs).runs.items() if (fold, seed) in of}
    assert len(stored) >= 12
    for device in {run.config["trainer"]["accelerator"] for run in stored.values()}:
        rows = [row for row, run in stored.items() if run.config["trainer"]["accelerator"] == device]
        precision = stored["supervised"].config["trainer"]["precision"]
        extra = ["precision=fp32"] if precision == "32-true" else []
        block = plan.make_block(rows, fold, seed, [*extra, *(["strategy=cpu"] if device == "cpu" else [])], True)
        jobs = {job.label.split()[0]: job.folder.name for job in block}
        assert [stored[row].folder.name for row in rows] == [jobs[row] for row in rows]


@pytest.mark.parametrize("regime", ["scratch", "memorised"])
def test_small_networks_are_those_of_the_committed_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, regime: str
) -> None:
    stored = collect(stored_runs(tmp_path, regime))
    first = {row: runs[0, 0] for row, runs in stored.runs.items() if runs}
    for run in first.values():
        found = evaluate(run.test, run.classes, calibration_bins=run.config["evaluation"]["calibration_bins"])
        assert {f"test/{name}": value for name, value in found.items()}.items() <= run.metrics.items()
        monkeypatch.setenv("SKINKD_DATA_DIR", run.config["paths"]["data_dir"])
        monkeypatch.setenv("SKINKD_OUTPUT_DIR", run.config["paths"]["output_dir"])
    jobs = plan.make_block(list(first), 0, 0, [], True, regime)
    assert {job.label.split()[0]: job.folder.name for job in jobs} == {
        row: run.folder.name for row, run in first.items()
    }


@pytest.mark.parametrize("places", ["-seed1-fold0-", pytest.param("", marks=pytest.mark.slow)])
def test_the_stored_ablations_are_those_of_the_committed_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, places: str
) -> None:
    table = pd.read_csv(variants.RESULTS["ablations"])
    table = table[table["folder"].str.contains(places)]
    runs = {one.folder.name: one for one in part_of([variants.ARCHIVES["fine_tuned"]], places, tmp_path)}
    assert sorted(table["folder"]) == sorted(runs) and len(runs) >= 17
    first = runs[table["folder"].iloc[0]]
    paths = first.config["paths"]
    monkeypatch.setenv("SKINKD_DATA_DIR", paths["data_dir"])
    monkeypatch.setenv("SKINKD_OUTPUT_DIR", paths["cache_dir"].removesuffix("/cache"))
    monkeypatch.setenv("SKINKD_WEIGHTS", str(Path(paths["data_dir"]).parent / "weights"))
    for (fold, seed), lines in table.groupby(["fold", "seed"]):
        made = variants.make_variants(variants.ABLATIONS["fine_tuned"], fold, seed, [], True, "fine_tuned")
        names = {(variant.row, variant.name): job.folder.name for variant, job in made.items()}
        assert [names[of] for of in zip(lines["row"], lines["variant"], strict=True)] == list(lines["folder"])
    for line in table.itertuples():
        run = runs[line.folder]
        assert line.part == "test" and run.place == (line.fold, line.seed)
        assert [run.metrics[f"test/{name}"] for name in variants.SCORES] == pytest.approx(
            [getattr(line, name) for name in variants.SCORES], abs=5e-7
        )
        found = evaluate(run.test, run.classes, calibration_bins=run.config["evaluation"]["calibration_bins"])
        assert {f"test/{name}": value for name, value in found.items()}.items() <= run.metrics.items()


def test_runs_with_published_figures_are_those_of_the_committed_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runs = published.read_published(tmp_path)
    monkeypatch.setenv("SKINKD_DATA_DIR", runs[0].config["paths"]["data_dir"])
    assert sorted(run.folder.name for run in runs) == sorted(job.folder.name for job in published.make_jobs())
    table = published.published_table(runs)
    assert table in PAGE
    assert [line.split()[1:4] for line in table.splitlines()[2:]] == [
        [f"`{method}`", "|", str(size)] for size in published.SIZES for method in ("supervised", "tsskd")
    ]
    for run in runs:
        found = evaluate(run.test, run.classes, calibration_bins=run.config["evaluation"]["calibration_bins"])
        assert {f"test/{name}": value for name, value in found.items()}.items() <= run.metrics.items()
        assert f"| {run.metrics['test/accuracy']:.3f} (" in table


def test_the_page_has_the_scores_of_three_rows(some: tuple[Run, ...]) -> None:
    """The last test has the whole page."""
    lines = tables.score_table(collect(some)).splitlines()
    rows = [line.split()[1] for line in lines]
    assert rows == ["row", "---", "`supervised`", "`label_smoothing`", "`swskd`"]
    for line in lines:
        assert f"\n{line}\n" in PAGE


@pytest.mark.slow
def test_the_page_is_what_its_command_writes(tmp_path: Path) -> None:
    results = report.read_results(tmp_path)
    assert report.page(results) == PAGE
    for file, drawn in results.figures.items():
        assert file.read_text(encoding="utf-8") == drawn
