"""The jobs of a sweep, their progress and the time they still take, all read from their run folders.

The sweep folder is ``<output_dir>/sweeps/<group>``. Its ``sweep.json`` lists the sweep's runs, and ``logs/`` has the output of
each job.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skinkd.config.identity import identity
from skinkd.errors import UserError
from skinkd.runs.checkpoints import LAST
from skinkd.runs.console import say
from skinkd.runs.files import Lock, is_locked
from skinkd.runs.folder import RunFolder
from skinkd.runs.history import read_history

Config = dict[str, Any]

WAITING, TEACHER, RUNNING = "waiting", "teacher", "running"
FINISHED, FAILED, SKIPPED, STOPPED = "finished", "failed", "skipped", "stopped"

_NO_DIFFERENCE = ("sweep.devices", "sweep.stall_minutes", "sweep.end_stalled", "force", "group")


@dataclass(frozen=True)
class Stage:
    """A run folder that a job trains: that of a teacher, or of the job's run."""

    folder: Path
    epochs: int
    kind: tuple[str, ...]  # an epoch takes about the same time in all runs of a kind
    test: bool  # whether the run is finished only with test scores

    @property
    def finished(self) -> bool:
        """Whether the run has finished."""
        return RunFolder(self.folder).finished_with(test=self.test)

    @property
    def held(self) -> bool:
        """Whether a process is running in the folder."""
        return is_locked(self.folder / ".lock")


@dataclass(eq=False)
class Job:
    """One run of a sweep: ``python -m skinkd.train <overrides>``."""

    overrides: list[str]
    config: Config
    own: Stage
    teachers: list[Stage]  # trained first if missing, in this order
    label: str = ""
    state: str = WAITING
    began: float | None = None  # time.monotonic() at the start
    seconds: float = 0.0  # since the start
    code: int | None = None  # exit code; negative: the signal
    error: str = ""
    repeats: list[str] = field(default_factory=list)  # labels of other jobs of the sweep that are the same run

    @property
    def folder(self) -> Path:
        """The job's run folder."""
        return self.own.folder

    @property
    def stages(self) -> list[Stage]:
        """The run folders that the job trains: the teachers', then its run's."""
        return [*self.teachers, self.own]

    @property
    def stage(self) -> Stage:
        """The current stage: the first unfinished teacher, else the job's own run."""
        return next((stage for stage in self.teachers if not stage.finished), self.own)

    @property
    def done(self) -> bool:
        """Whether the run has finished and need not begin again."""
        return self.own.finished and not self.config["force"] and _is_of(self.folder, self.config)


def _is_of(folder: Path, config: Config) -> bool:
    try:
        RunFolder(folder).check_owner(config)
    except UserError:
        return False  # the job will report the error
    return True


def stage_of(folder: Path, config: Config) -> Stage:
    """Return the stage that trains a resolved configuration in its run folder."""
    kind = (config["method"]["name"], config["backbone"]["name"], str(config["data"]["image_size"]))
    return Stage(folder, config["trainer"]["max_epochs"], kind, config["evaluation"]["test"])


def distinct(jobs: Sequence[Job]) -> list[Job]:
    """Label the jobs, and leave out a job that is the same run as an earlier job, whose ``repeats`` then names it.

    Raises:
        UserError: different runs have the same folder (``run_dir`` given by hand).
    """
    for job, label in zip(jobs, labels([job.overrides for job in jobs]), strict=True):
        job.label = label or job.folder.name
    first: dict[Path, Job] = {}
    for job in jobs:
        earlier = first.setdefault(job.folder.absolute(), job)
        if earlier is job:
            continue
        if identity(earlier.config) != identity(job.config):
            raise UserError(
                f"run_dir={job.folder} would be the run folder of two jobs, {earlier.label!r} and {job.label!r}; leave "
                "run_dir out, or give each job another run_dir"
            )
        earlier.repeats.append(job.label)
    return list(first.values())


def labels(jobs: Sequence[Sequence[str]]) -> list[str]:
    """Return for each job the overrides in which it differs from others, with keys shortened to their last part if unique.

    The label is empty if there is no such override, as in a sweep of one job.
    """
    shared = set(jobs[0]).intersection(*jobs)
    kept = [[text for text in job if text not in shared and _key(text) not in _NO_DIFFERENCE] for job in jobs]
    keys = {_key(text) for job in kept for text in job}
    last = [key.rpartition(".")[2] for key in keys]
    short = {key: key.rpartition(".")[2] if last.count(key.rpartition(".")[2]) == 1 else key for key in keys}
    return [" ".join(f"{short[_key(text)]}={text.partition('=')[2]}" for text in job) for job in kept]


def group_name(jobs: Sequence[Sequence[str]]) -> str:
    """Return a name that follows from the overrides, so that a repeated sweep is the same group, on any devices."""
    text = "\n".join(" ".join(override for override in job if _key(override) not in _NO_DIFFERENCE) for job in jobs)
    return f"sweep-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _key(override: str) -> str:
    return override.partition("=")[0]


def write_sweep(folder: Path, group: str, jobs: Sequence[Job], output: Path) -> None:
    """Write ``sweep.json``: the runs of the jobs, and those that other sweeps of this group wrote, which may still run."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = [
        {"overrides": job.overrides, "folder": _place(job.folder, output), "name": job.folder.name} for job in jobs
    ]
    now = {entry["folder"] for entry in entries}
    with Lock(folder / ".lock"):
        kept = [entry for entry in _entries(folder / "sweep.json") if entry["folder"] not in now]
        RunFolder(folder).write_json("sweep.json", {"group": group, "jobs": kept + entries})


def _entries(path: Path) -> list[dict[str, Any]]:
    """Return the runs that ``sweep.json`` lists; none if the file is damaged, which the new file mends."""
    if not path.exists():
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["jobs"]
        return [entry for entry in entries if isinstance(entry["folder"], str)]
    except (ValueError, KeyError, TypeError) as error:
        say(f"warning: {path} is damaged ({error}); runs of earlier sweeps of this group are no longer listed there")
        return []


def _place(folder: Path, output: Path) -> str:
    inside = folder.absolute().is_relative_to(output.absolute())
    return str(folder.absolute().relative_to(output.absolute()) if inside else folder.absolute())


@dataclass(frozen=True)
class Progress:
    """Complete epochs of a run, their seconds, and the last value of a metric, None if there is none."""

    epochs: int
    seconds: float
    value: float | None


def progress(folder: Path, metric: str) -> Progress:
    """Return how far a run is, read from its history; not at all if that is damaged, since the run writes it anew."""
    try:
        history = read_history(folder)
    except UserError:
        return Progress(0, 0.0, None)
    last = history.values(metric)[-1] if history.rows else math.nan
    return Progress(len(history.rows), history.seconds, None if math.isnan(last) else last)


def last_sign(job: Job, log: Path) -> float:
    """Return when a job last wrote an epoch, a checkpoint or a line of output, in seconds since 1970; 0 if it never did."""
    folder = job.stage.folder
    files = (log, folder / "history.csv", folder / "checkpoints" / LAST, folder / "metrics.json")
    return max((path.stat().st_mtime for path in files if path.exists()), default=0.0)


def seconds_left(jobs: Iterable[Job], *, at_once: int, metric: str) -> float | None:
    """Return about how many seconds the jobs still take, estimated from the epochs so far; None before the first epoch.

    An epoch is taken to last as long as earlier epochs of the same run; without any, of the runs of its kind; else of all
    runs. The waiting jobs go, in order, to the place that is free first.
    """
    jobs = list(jobs)
    stages = {stage.folder: stage for job in jobs for stage in job.stages}
    known = {folder: progress(folder, metric) for folder in stages}
    rates: dict[Any, list[float]] = {}
    for folder, stage in stages.items():
        if known[folder].epochs:
            rate = known[folder].seconds / known[folder].epochs
            for key in (folder, stage.kind, None):
                rates.setdefault(key, []).append(rate)
    if not rates:
        return None
    counted: set[Path] = set()

    def left(job: Job) -> float:
        total = 0.0
        for stage in job.stages:
            if stage.folder in counted or (stage.finished and (stage is not job.own or job.done)):
                continue
            counted.add(stage.folder)
            rate = next(rates[key] for key in (stage.folder, stage.kind, None) if key in rates)
            total += sum(rate) / len(rate) * max(0, stage.epochs - known[stage.folder].epochs)
        return total

    running = [left(job) for job in jobs if job.state in (TEACHER, RUNNING)]
    places = sorted(running + [0.0] * (at_once - len(running)))
    for job in jobs:
        if job.state == WAITING:
            places[0] += left(job)
            places.sort()
    return places[-1]
