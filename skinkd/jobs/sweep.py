"""What a sweep knows of its jobs, from their run folders alone: which they are, how far they are, how long they still take.

The sweep folder is ``<output_dir>/sweeps/<group>``: ``sweep.json`` says which runs belong to it, ``logs/`` has what each job
printed.
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
from skinkd.runs.files import is_locked
from skinkd.runs.folder import RunFolder
from skinkd.runs.history import read_history

Config = dict[str, Any]

WAITING, TEACHER, RUNNING = "waiting", "teacher", "running"
FINISHED, FAILED, SKIPPED, STOPPED = "finished", "failed", "skipped", "stopped"

_NO_DIFFERENCE = ("sweep.devices", "force", "group")


@dataclass(frozen=True)
class Stage:
    """One run folder that a job trains: a teacher's or its own."""

    folder: Path
    epochs: int
    kind: tuple[str, ...]  # runs of one kind take about the same time for an epoch
    test: bool  # whether its test scores belong to its end

    @property
    def finished(self) -> bool:
        """Whether its run has reached its end."""
        return RunFolder(self.folder).finished_with(test=self.test)

    @property
    def held(self) -> bool:
        """Whether a process is running in it."""
        return is_locked(self.folder / ".lock")


@dataclass(eq=False)
class Job:
    """One run of a sweep: ``python -m skinkd.train <overrides>``."""

    overrides: list[str]
    config: Config
    own: Stage
    teachers: list[Stage]  # trained first where missing, in this order
    label: str = ""
    state: str = WAITING
    began: float | None = None  # time.monotonic()
    seconds: float = 0.0  # since then
    code: int | None = None  # exit code; negative: the signal
    error: str = ""
    repeats: list[str] = field(default_factory=list)  # labels of other jobs of the sweep that are this very run

    @property
    def folder(self) -> Path:
        """Its run folder."""
        return self.own.folder

    @property
    def stages(self) -> list[Stage]:
        """The run folders it trains, its own last."""
        return [*self.teachers, self.own]

    @property
    def stage(self) -> Stage:
        """The one it is at: the first that is not finished, or its own."""
        return next((stage for stage in self.teachers if not stage.finished), self.own)

    @property
    def done(self) -> bool:
        """Whether its run has finished and is not to begin again."""
        return self.own.finished and not self.config["force"] and _is_of(self.folder, self.config)


def _is_of(folder: Path, config: Config) -> bool:
    try:
        RunFolder(folder).check_owner(config)
    except UserError:
        return False  # the job itself says so
    return True


def stage_of(folder: Path, config: Config) -> Stage:
    """The stage that trains a resolved configuration in its run folder."""
    kind = (config["method"]["name"], config["backbone"]["name"], str(config["data"]["image_size"]))
    return Stage(folder, config["trainer"]["max_epochs"], kind, config["evaluation"]["test"])


def distinct(jobs: Sequence[Job]) -> list[Job]:
    """Label the jobs, and leave out those that are the same run as one before them, which then names them.

    Raises:
        UserError: different runs with one folder (``run_dir`` given by hand).
    """
    for job, label in zip(jobs, labels([job.overrides for job in jobs]), strict=True):
        job.label = label or job.folder.name
    first: dict[Path, Job] = {}
    for job in jobs:
        other = first.setdefault(job.folder.absolute(), job)
        if other is job:
            continue
        if identity(other.config) != identity(job.config):
            raise UserError(
                f"run_dir={job.folder} would be the run folder of two jobs, {other.label!r} and {job.label!r}; leave "
                "run_dir out, or make it differ"
            )
        other.repeats.append(job.label)
    return list(first.values())


def labels(jobs: Sequence[Sequence[str]]) -> list[str]:
    """The overrides in which the jobs differ, each by the last part of its key where that tells it from the others.

    A job in which nothing differs, as a single one, has an empty label.
    """
    shared = set(jobs[0]).intersection(*jobs)
    kept = [[one for one in job if one not in shared and _key(one) not in _NO_DIFFERENCE] for job in jobs]
    keys = {_key(one) for job in kept for one in job}
    last = [key.rpartition(".")[2] for key in keys]
    short = {key: key.rpartition(".")[2] if last.count(key.rpartition(".")[2]) == 1 else key for key in keys}
    return [" ".join(f"{short[_key(one)]}={one.partition('=')[2]}" for one in job) for job in kept]


def group_name(jobs: Sequence[Sequence[str]]) -> str:
    """A name that the same sweep always gets, on however many devices, so that a repeated sweep is the same group."""
    text = "\n".join(" ".join(one for one in job if _key(one) not in _NO_DIFFERENCE) for job in jobs)
    return f"sweep-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _key(override: str) -> str:
    return override.partition("=")[0]


def write_sweep(folder: Path, group: str, jobs: Sequence[Job], output: Path) -> None:
    """Write ``sweep.json``: the group's runs, those that an earlier sweep of this group left behind included."""
    entries = [
        {"overrides": job.overrides, "folder": _place(job.folder, output), "name": job.folder.name} for job in jobs
    ]
    now = {entry["folder"] for entry in entries}
    path = folder / "sweep.json"
    before = json.loads(path.read_text())["jobs"] if path.exists() else []
    kept = [one for one in before if one["folder"] not in now and (output / one["folder"]).is_dir()]
    RunFolder(folder).write_json("sweep.json", {"group": group, "jobs": kept + entries})


def _place(folder: Path, output: Path) -> str:
    inside = folder.absolute().is_relative_to(output.absolute())
    return str(folder.absolute().relative_to(output.absolute()) if inside else folder.absolute())


@dataclass(frozen=True)
class Progress:
    """Whole epochs of a run, their seconds, and the last value of a metric."""

    epochs: int
    seconds: float
    value: float | None


def progress(folder: Path, metric: str) -> Progress:
    """Return how far a run is, by its history."""
    history = read_history(folder)
    last = history.values(metric)[-1] if history.rows else math.nan
    return Progress(len(history.rows), history.seconds, None if math.isnan(last) else last)


def seconds_left(jobs: Iterable[Job], *, at_once: int, metric: str) -> float | None:
    """About how long the jobs still take, from the epochs so far; None before there are any.

    An epoch takes what those of the run itself took, else those of the runs of its kind, else those of all; the waiting
    jobs go, in order, to the place that is free first.
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
