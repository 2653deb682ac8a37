"""Runs a comparison and writes it into a folder, which is checked before anything is computed."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile

from rich.console import Console

from skinkd.analysis.comparison import MAIN_METRICS, compare
from skinkd.analysis.report import print_comparison, write_outputs
from skinkd.analysis.rows import Row, group_rows
from skinkd.analysis.runs import find_place, read_runs
from skinkd.analysis.wandb_report import check_wandb, publish
from skinkd.errors import UserError


def compare_runs(
    places: Sequence[Path],
    *,
    output_dir: Path,
    baseline: str | None,
    out: Path | None,
    metrics: Sequence[str] | None,
    across_test_sets: bool,
    wandb: bool,
) -> None:
    """Read runs, compare them, write the files and print the tables.

    Args:
        places: run folders, folders of run folders, sweep folders or sweep names.
        output_dir: the folder of all runs and sweeps.
        baseline: row or method to test against; None: ``supervised``.
        out: folder to write to; None: next to the runs.
        metrics: metrics to show; None: :data:`skinkd.analysis.comparison.MAIN_METRICS`.
        across_test_sets: also compare runs with different test sets, without tests.
        wandb: also make a W&B report and workspace.

    Raises:
        UserError: there is nothing to compare, a baseline or metric is unknown, or the folder cannot be written.
    """
    if wandb:
        check_wandb()
    read = read_runs(places, output_dir=output_dir)
    rows = group_rows(read.runs)
    out = out or _default_out(places, rows, output_dir)
    status = Console(stderr=True).status("comparing")
    with _output_folder(out), status:
        comparison = compare(
            rows,
            baseline=baseline,
            metrics=MAIN_METRICS if metrics is None else metrics,
            across_test_sets=across_test_sets,
            progress=status.update,
        )
        status.update("writing")
        with _writing(out):
            write_outputs(comparison, read.skipped, out)
    print_comparison(comparison, read.skipped, out=out)
    if wandb:
        for name, url in publish(comparison).items():
            print(f"W&B {name}: {url}")


@contextmanager
def _output_folder(out: Path) -> Iterator[None]:
    """Create the folder and check that it can be written; remove it if the comparison fails."""
    made: list[Path] = []
    try:
        with _writing(out):
            if (out / "config.yaml").exists() or (out.exists() and not out.is_dir()):
                raise UserError(f"--out {out} is a run folder or a file; give a separate folder")
            made = [path for path in (out, *out.parents) if not path.exists()]
            out.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=out):
                pass
        yield
    except BaseException:
        for path in made:  # the deepest first; a folder with files stays
            with suppress(OSError):
                path.rmdir()
        raise


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Raise UserError if the folder cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{out} cannot be written ({error.strerror or error}); give another folder with --out"
        ) from None


def _default_out(places: Sequence[Path], rows: Sequence[Row], output_dir: Path) -> Path:
    """Return ``comparison`` in the given folder or sweep; for a run or several folders, one in ``<output_dir>/comparisons``."""
    first = find_place(places[0], output_dir)
    if len(places) == 1 and not (first / "config.yaml").is_file():
        return first / "comparison"
    names = sorted(run.folder.name for row in rows for run in row.runs)
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:8]
    return output_dir / "comparisons" / f"{len(names)}-runs-{digest}"
