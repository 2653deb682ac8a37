"""The archive's runs by row and fold, and when and where they ran."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from skinkd.analysis.runs import Run, read_runs

from .archive import unpack

ARCHIVE = Path(__file__).with_name("runs.tar.xz")
ORDER = (
    *("supervised", "label_smoothing", "kd", "byot", "swskd", "tsskd", "ssdkd", "hybrid_supervised", "mskd"),
    *("teacher", "teacher_head", "hybrid_teacher"),
)
TEACHERS = ORDER[-3:]
BASELINES = dict.fromkeys(("kd", "byot", "swskd", "tsskd", "ssdkd"), "supervised") | {"mskd": "hybrid_supervised"}
"""The baseline of each of the six methods."""

Runs = dict[str, dict[int, Run]]
"""Row -> fold -> run."""


@dataclass(frozen=True)
class Collected:
    """The archive's runs.

    Attributes:
        runs: by row, in the order of ``ORDER``, and by fold.
        left_out: runs in other formats than ``supervised`` had on their fold.
        leaky: runs whose split is by image.
    """

    runs: Runs
    left_out: tuple[Run, ...]
    leaky: tuple[Run, ...]

    @property
    def every(self) -> list[Run]:
        """All runs that count."""
        return [run for folds in self.runs.values() for run in folds.values()]

    def folds(self, *rows: str) -> list[int]:
        """The folds on which each of these rows has finished."""
        return sorted(set.intersection(*(set(self.runs[row]) for row in rows)))


def stored_runs(folder: Path) -> tuple[Run, ...]:
    """The runs of the archive, unpacked below ``folder``."""
    unpack(ARCHIVE, folder)
    found = read_runs([folder], output_dir=folder)
    if found.skipped:
        raise ValueError(f"the archive has runs that cannot be read: {found.skipped}")
    return found.runs


def collect(runs: Sequence[Run]) -> Collected:
    """Give each run its row and fold.

    The runs of a fold are compared with each other, so they are all in the formats of the fold's ``supervised`` run. Runs in
    other formats are left out.

    Raises:
        ValueError: a row has two runs on one fold, as with a second seed, which the page has no place for yet.
    """
    leaky = tuple(run for run in runs if run.config["protocol"] == "image_level")
    runs = [run for run in runs if run.config["protocol"] == "grouped"]
    formats = {run.place[0]: precision(run) for run in runs if row_of(run) == "supervised"}
    found: Runs = {row: {} for row in ORDER}
    left_out = []
    for run in sorted(runs, key=lambda run: run.place):
        row, fold = row_of(run), run.place[0]
        if precision(run) != formats.get(fold):
            left_out.append(run)
        elif fold in found[row]:
            raise ValueError(f"{row} has two runs on fold {fold}: {found[row][fold].folder.name}, {run.folder.name}")
        else:
            found[row][fold] = run
    return Collected(found, tuple(left_out), leaky)


def row_of(run: Run) -> str:
    """The row of docs/study.md that a run belongs to."""
    if run.method != "supervised":
        return {"ssdkd_projection": "teacher_head", "mskd_teacher": "hybrid_teacher"}.get(run.method, run.method)
    network = run.config["backbone"]["name"]
    if network == "mskd_student":
        return "hybrid_supervised"
    if network == "tf_efficientnet_lite2":
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
    """A line for each machine and precision, with versions and the rows and folds that it trained."""
    rows: dict[str, dict[str, list[int]]] = {}
    for row, runs in collected.runs.items():
        for fold, run in runs.items():
            text = (run.folder / "environment.txt").read_text(encoding="utf-8")
            facts = dict(
                line.replace("==", " ").rsplit(" ", 1) for line in text.splitlines() if "==" in line or "python" in line
            )
            gpu = [line.removeprefix("gpu ") for line in text.splitlines() if line.startswith("gpu ")]
            (cores,) = (line.rsplit(" ", 1)[1] for line in text.splitlines() if line.startswith("processor cores"))
            versions = f"Python {facts['python']}, torch {facts['torch']}, timm {facts['timm']}"
            where = f"{precision(run)}, {', '.join([*gpu, f'{cores} processor cores'])}; {versions}"
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
