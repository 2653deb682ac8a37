"""A session of measurements: takes the rows of each section, one after the other, until the time is over."""

import gc
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .table import Column, reason
from .timing import Timer


@dataclass
class Bench:
    """What the sections share.

    Args:
        timer: times the steps.
        until: of ``time.monotonic()``; a row that needs more time than is left is left out and named.
        scratch: a folder for runs and caches, which is removed at the end.
        overrides: settings for every configuration, as on the command line.
        data: words of a command line that choose the images.
        against: checkouts of published repositories.
    """

    timer: Timer
    until: float
    scratch: Path
    overrides: Sequence[str] = ()
    data: Sequence[str] = ("data=synthetic",)
    against: Sequence[Path] = ()
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        """The device of the steps."""
        return self.timer.device

    @property
    def quick(self) -> bool:
        """Whether this is a dry run, as small as possible."""
        return self.timer.quick

    def share(self, needs: Sequence[float]) -> float:
        """Seconds for the next row: what it needs, and an equal part of the time that all rows leave.

        Args:
            needs: seconds that the rows need which are still to be taken, the next row's first.
        """
        left = self.until - time.monotonic() - sum(needs)
        return needs[0] + max(left, 0) / len(needs)

    def take(self, names: Mapping[str, Any], measure: Callable[[], Mapping[str, Any]], *, needs: float = 3) -> None:
        """Take a row of ``names`` and what ``measure`` returns; an error is noted and stops no other row.

        The row is left out if fewer than ``needs`` seconds are left.
        """
        row = dict(names)
        began = time.monotonic()
        if not self.quick and began + needs > self.until:
            row["left out"] = "for want of time"
        else:
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            try:
                row |= measure()
            except Exception as error:
                traceback.print_exc()
                row["error"] = f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else ''}"
        row["took_s"] = round(time.monotonic() - began, 1)
        self.rows.append(row)
        print(f"{row['took_s']:6.1f} s  {', '.join(map(str, names.values()))}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Section:
    """A section: a table of one kind of figures.

    Args:
        title: of the table.
        explains: what a row is, in a sentence or two.
        columns: of the table.
        seconds: that it takes on two cores, by which the sections share the time.
        measure: takes its rows.
    """

    title: str
    explains: str
    columns: tuple[Column, ...]
    seconds: float
    measure: Callable[[Bench], None]


def run_sections(
    bench: Bench, sections: Mapping[str, Section], after: Callable[[str, list[dict[str, Any]]], None]
) -> bool:
    """Run sections in turn, each with its share of the time that is left; what a section leaves goes to those behind it.

    Args:
        bench: the session.
        sections: by name.
        after: takes the name and the rows of each section when it has ended, also when an exception or a signal ended it.

    Returns:
        Whether no row has an error.
    """
    until, together = bench.until, sum(section.seconds for section in sections.values())
    clean = True
    for name, section in sections.items():
        now = time.monotonic()
        bench.until = now + (until - now) * section.seconds / together
        together -= section.seconds
        bench.rows = []
        try:
            section.measure(bench)
        finally:
            after(name, bench.rows)
        clean &= not any("error" in row and reason(row) for row in bench.rows)
    return clean
