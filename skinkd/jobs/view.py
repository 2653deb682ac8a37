"""The view of a sweep in the terminal: a live table, or in a pipe or file one line for each change of state.

At the end it prints a table of results.
"""

import shlex
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from skinkd.jobs.sweep import FAILED, FINISHED, RUNNING, SKIPPED, STOPPED, TEACHER, WAITING, Job, progress, seconds_left
from skinkd.runs.folder import RunFolder
from skinkd.runs.tables import plain_table, shown_number

_COLOURS = {FAILED: "red", FINISHED: "green", RUNNING: "bold", TEACHER: "bold"}
_METRICS = {"accuracy": "accuracy", "balanced_accuracy": "bal. acc.", "f1_macro": "F1", "auroc_macro": "AUROC"}
_LABEL = 30  # least columns of a job's label
_NUMBERS = 38  # columns that a job's numbers take


class SweepView:
    """Context that shows the jobs while they run.

    Args:
        jobs: all jobs of the sweep.
        at_once: number of jobs that run at once, to estimate the time left.
        metric: the validation metric to show.
        console: where to print; standard output if None.
    """

    def __init__(self, jobs: Sequence[Job], *, at_once: int, metric: str, console: Console | None = None) -> None:
        self.jobs, self.at_once, self.metric = list(jobs), at_once, metric
        self.console = console or Console(highlight=False)
        self._shown: dict[Job, str] = {}
        live = self.console.is_terminal and not self.console.is_dumb_terminal
        self._live = Live(console=self.console, auto_refresh=False, transient=True) if live else None

    def __enter__(self) -> "SweepView":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.update()
        if self._live:
            self._live.stop()
            self.console.print(self._table())  # leave the last state of the live table on the screen

    def update(self) -> None:
        """Show the jobs as they are now."""
        if self._live:
            self._live.update(self._table(), refresh=True)
            return
        for number, job in enumerate(self.jobs, start=1):
            if self._shown.get(job, WAITING) != job.state:
                self._shown[job] = job.state
                self.say(f"job {number} of {len(self.jobs)}: {job.label}: {self._change(job)}")

    def say(self, line: str) -> None:
        """Print a line, above the live table if there is one."""
        self.console.print(Text(line), soft_wrap=True)
        self.console.file.flush()

    def _change(self, job: Job) -> str:
        if job.state == TEACHER:
            return f"training its teacher first, in {job.stage.folder}"
        if job.state == SKIPPED:
            return "skipped, has finished already"
        if job.state == FINISHED:
            value = RunFolder(job.folder).metrics().get(self.metric)
            return f"finished in {clock(job.seconds)}, {self.metric} {shown_number(value)}"
        return f"failed after {clock(job.seconds)}: {job.error}" if job.state == FAILED else job.state

    def _table(self) -> RenderableType:
        shown = self._most_telling(max(3, self.console.height - 4))
        room = max(_LABEL, self.console.width - 34)
        name = self.metric.rpartition("/")[2].removesuffix("_macro")
        table = plain_table("job", "state", "epoch", name[:9], "time")
        for job in shown:
            stage = job.stage if job.state == TEACHER else job.own
            at = progress(stage.folder, self.metric)
            table.add_row(
                Text(_short(job.label, room)),
                Text(job.state, style=_COLOURS.get(job.state, "")),
                f"{at.epochs}/{stage.epochs}" if at.epochs or job.state in (RUNNING, TEACHER) else "",
                "" if at.value is None else shown_number(at.value),
                clock(job.seconds) if job.began is not None else "",
            )
        return Group(table, Text(self._summary(len(self.jobs) - len(shown)), style="dim"))

    def _summary(self, hidden: int) -> str:
        counts = Counter(job.state for job in self.jobs)
        order = (WAITING, TEACHER, RUNNING, STOPPED, FINISHED, SKIPPED, FAILED)
        parts = [f"{counts[state]} {state}" for state in order if counts[state]]
        left = seconds_left(self.jobs, at_once=self.at_once, metric=self.metric)
        if left:
            parts.append(f"about {clock(left)} left")
        return ", ".join(parts) + (f" ({hidden} not shown)" if hidden else "")

    def _most_telling(self, room: int) -> list[Job]:
        """Return the jobs to show if not all have room: the running ones, then failed, waiting and finished jobs."""
        order = {RUNNING: 0, TEACHER: 0, STOPPED: 0, FAILED: 1, WAITING: 2, FINISHED: 3, SKIPPED: 4}
        chosen = sorted(self.jobs, key=lambda job: order[job.state])[:room]
        return [job for job in self.jobs if job in chosen]


def print_sweep(jobs: Sequence[Job], *, folder: Path, logs: Mapping[Job, Path], console: Console | None = None) -> None:
    """Print the results of the finished jobs, the state of the others, and the command that compares the runs.

    The table fits 80 columns. It shows test metrics, or validation metrics if no job was tested (``evaluation.test=false``).
    """
    console = console or Console(highlight=False)
    scores: dict[Job, dict[str, Any]] = {
        job: RunFolder(job.folder).metrics() for job in jobs if job.state in (FINISHED, SKIPPED)
    }
    part = "test" if any("test/accuracy" in metrics for metrics in scores.values()) or not scores else "val"
    table = plain_table("test" if part == "test" else "validation", *_METRICS.values())
    for job in jobs:
        cells: list[str | Text] = (
            [shown_number(scores[job].get(f"{part}/{name}")) for name in _METRICS] if job in scores else []
        )
        # wrapped, not cut: two labels might be the same after a cut
        label = "\n".join(textwrap.wrap(job.label, max(_LABEL, console.width - _NUMBERS)))
        table.add_row(Text(label), *(cells or [Text(job.state, style="red")]))
    if scores:
        console.print()
        console.print(table)
    failed = [job for job in jobs if job.state == FAILED]
    finished = f"\n{len(scores)} of {len(jobs)} jobs finished; group {folder.name}"
    console.print(Text(finished), soft_wrap=True)
    for job in failed:
        for line in (f"\nfailed: {job.label} (exit code {job.code})", f"  {job.error}", f"  log: {logs[job]}"):
            console.print(Text(line), soft_wrap=True)
    if failed:
        console.print("\nthe same command tries them again, and skips the finished jobs")
    if scores:
        console.print(Text(f"\npython -m skinkd.compare {shlex.quote(str(folder))}"), soft_wrap=True)


def clock(seconds: float) -> str:
    """Format seconds as ``3:07`` or ``1:02:03``."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def _short(label: str, room: int) -> str:
    return label if len(label) <= room else label[: room - 3] + "..."
