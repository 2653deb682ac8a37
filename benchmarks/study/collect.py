"""The archive's runs by row, fold and seed, and when and where they ran."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import numpy as np

from skinkd.analysis.runs import Run, read_runs
from skinkd.analysis.trainings import Place
from skinkd.scoring.bootstrap import Resampled

from .archive import unpack
from .scores import resampled

ARCHIVES = {
    "fine_tuned": ("runs.tar.xz", "runs_seed1.tar.xz"),
    "scratch": ("scratch.tar.xz",),
    "memorised": ("memorised.tar.xz",),
}
"""The committed archives of each regime: of seed 0, and of each further seed without predictions on validation."""
HERE = Path(__file__).parent
ORDER = (
    *("supervised", "label_smoothing", "kd", "byot", "swskd", "tsskd", "ssdkd"),
    *("hybrid_supervised", "mskd", "hybrid_features", "mskd_features"),
    *("teacher", "teacher_head", "hybrid_teacher"),
)
TEACHERS = ORDER[-3:]
BASELINES = dict.fromkeys(("kd", "byot", "swskd", "tsskd", "ssdkd"), "supervised") | {"mskd": "hybrid_supervised"}
"""The baseline of each of the six methods."""
APART = {"mskd_features": "hybrid_features"}
"""The baseline of a row that is compared apart from the six."""

FOLDS = 5  # of the design

Runs = dict[str, dict[Place, Run]]
"""Row -> fold and seed -> run."""


@dataclass(frozen=True)
class Collected:
    """The archive's runs.

    Attributes:
        runs: by row, in the order of ``ORDER``, and by fold and seed.
        left_out: runs in other formats than ``supervised`` had on their fold with their seed.
        waiting: runs of a further seed whose row or its baseline has not finished all folds with it.
        leaky: runs whose split is by image.
    """

    runs: Runs
    left_out: tuple[Run, ...]
    waiting: tuple[Run, ...]
    leaky: tuple[Run, ...]

    @property
    def every(self) -> list[Run]:
        """All runs that count."""
        return [run for places in self.runs.values() for run in places.values()]

    @property
    def seeds(self) -> list[int]:
        """The seeds that count for a row at least."""
        return sorted({run.seed for run in self.every})

    def places(self, *rows: str) -> list[Place]:
        """The folds and seeds on which each of these rows has finished."""
        return sorted(set.intersection(*(set(self.runs[row]) for row in rows)))

    def folds(self, *rows: str) -> list[int]:
        """The folds on which each of these rows has finished."""
        return sorted({fold for fold, _ in self.places(*rows)})

    def resampled(self, runs: Sequence[Run]) -> Resampled:
        """Every metric of some of the runs that count, in replicates of the lesions of all of them."""
        places = [self._places[run.folder] for run in runs]
        whole = self._resampled
        return Resampled(
            tuple(whole.runs[place] for place in places),
            {name: values[places] for name, values in whole.observed.items()},
            {name: np.take(values, places, axis=1) for name, values in whole.drawn.items()},
        )

    @cached_property
    def _resampled(self) -> Resampled:
        return resampled(self.every)

    @cached_property
    def _places(self) -> dict[Path, int]:
        return {run.folder: place for place, run in enumerate(self.every)}

    def once(self, row: str) -> list[Run]:
        """A row's runs with seed 0, which test every image once where all folds have finished."""
        return [run for (_, seed), run in self.runs[row].items() if seed == 0]


def stored_runs(folder: Path, regime: str = "fine_tuned") -> tuple[Run, ...]:
    """The runs of a regime's archives, unpacked below ``folder``."""
    for name in ARCHIVES[regime]:
        unpack(HERE / name, folder)
    found = read_runs([folder], output_dir=folder)
    if found.skipped:
        raise ValueError(f"the archive has runs that cannot be read: {found.skipped}")
    return found.runs


def collect(runs: Sequence[Run]) -> Collected:
    """Give each run its row, fold and seed.

    The runs of a fold and seed are compared with each other, so they are all in the formats of its ``supervised`` run. Runs
    in other formats are left out. A further seed of a row counts if the row and its baseline have all folds with it.

    Raises:
        ValueError: a row has two runs on one fold with one seed.
    """
    leaky = tuple(run for run in runs if run.config["protocol"] == "image_level")
    runs = [run for run in runs if run.config["protocol"] == "grouped"]
    formats = {run.place: precision(run) for run in runs if row_of(run) == "supervised"}
    found: Runs = {row: {} for row in ORDER}
    left_out = []
    for run in sorted(runs, key=lambda run: run.place):
        row, place = row_of(run), run.place
        if precision(run) != formats.get(place):
            left_out.append(run)
        elif place in found[row]:
            names = f"{found[row][place].folder.name}, {run.folder.name}"
            raise ValueError(f"{row} has two runs on fold {place[0]} with seed {place[1]}: {names}")
        else:
            found[row][place] = run
    waiting = [(row, place) for row in ORDER for place in found[row] if not _counts(found, row, place[1])]
    uncounted = tuple(found[row].pop(place) for row, place in waiting)
    return Collected(found, tuple(left_out), uncounted, leaky)


def _counts(runs: Runs, row: str, seed: int) -> bool:
    """Whether a seed counts for a row."""
    baseline = (BASELINES | APART).get(row, row)
    finished = [sum(of == seed for _, of in runs[name]) for name in (row, baseline)]
    return seed == 0 or min(finished) == FOLDS


def row_of(run: Run) -> str:
    """The row of docs/study.md that a run belongs to."""
    features = run.config["backbone"].get("fusion") == "features"
    if run.method != "supervised":
        taught = "mskd_features" if features else "mskd"
        known = {"ssdkd_projection": "teacher_head", "mskd_teacher": "hybrid_teacher", "mskd": taught}
        return known.get(run.method, run.method)
    network = run.config["backbone"]["name"]
    if network == "mskd_student":
        return "hybrid_features" if features else "hybrid_supervised"
    if network == "tf_efficientnet_lite2" or (network == "resnet10t" and not run.config["backbone"]["options"]):
        return "teacher"
    return "label_smoothing" if run.config["loss"]["label_smoothing"] else "supervised"


def precision(run: Run) -> str:
    """The precision of a run's training, as Lightning names it."""
    return str(run.config["trainer"]["precision"])


def times(runs: Sequence[Run]) -> tuple[str, str, str]:
    """When the first run began, when the first had its test scores, and when the last ended."""

    def said(file: Path) -> float:
        return file.stat().st_mtime

    began = min(said(run.folder / "config.yaml") for run in runs)
    ended = sorted(said(run.folder / "metrics.json") for run in runs)
    first, scored, last = (datetime.fromtimestamp(one, UTC) for one in (began, ended[0], ended[-1]))
    return f"{first:%Y-%m-%d %H:%M:%S}", f"{scored:%Y-%m-%d %H:%M:%S}", f"{last:%Y-%m-%d %H:%M:%S}"


def machines(collected: Collected) -> str:
    """A line for each machine, precision and seed, with versions and the rows and folds that it trained."""
    rows: dict[str, dict[str, list[int]]] = {}
    for row, runs in collected.runs.items():
        for (fold, seed), run in runs.items():
            text = (run.folder / "environment.txt").read_text(encoding="utf-8")
            facts = dict(
                line.replace("==", " ").rsplit(" ", 1) for line in text.splitlines() if "==" in line or "python" in line
            )
            gpu = [line.removeprefix("gpu ") for line in text.splitlines() if line.startswith("gpu ")]
            (cores,) = (line.rsplit(" ", 1)[1] for line in text.splitlines() if line.startswith("processor cores"))
            versions = f"Python {facts['python']}, torch {facts['torch']}, timm {facts['timm']}"
            where = f"{precision(run)}, {', '.join([*gpu, f'{cores} processor cores'])}; {versions}"
            where += f"; seed {seed}" if seed else ""
            rows.setdefault(where, {}).setdefault(row, []).append(fold)
    return "\n".join(f"- {where}: {_rows_and_folds(of)}." for where, of in rows.items())


def _rows_and_folds(folds: dict[str, list[int]]) -> str:
    """Rows that have the same folds are named together."""
    together: dict[tuple[int, ...], list[str]] = {}
    for row, numbers in folds.items():
        together.setdefault(tuple(numbers), []).append(f"`{row}`")
    return "; ".join(
        f"{listed(rows)} on fold{'s' if len(numbers) > 1 else ''} {listed(numbers)}"
        for numbers, rows in together.items()
    )


def listed(values: Sequence[object]) -> str:
    """The values as a phrase: "0, 1 and 2"."""
    words = [str(value) for value in values]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
