"""Where a comparison is written, and what happens when it cannot be."""

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
        out: folder to write to; None: beside the runs.
        metrics: metrics to show; None: :data:`skinkd.analysis.comparison.MAIN_METRICS`.
        across_test_sets: compare runs of different test sets too, without tests.
        wandb: also make a W&B report and workspace.

    Raises:
        UserError: nothing to compare, an unknown baseline or metric, or a folder that cannot be written.
    """
    if wandb:
        check_wandb()
    found = read_runs(places, output_dir=output_dir)
    rows = group_rows(found.runs)
    out = out or _default_out(places, rows, output_dir)
    status = Console(stderr=True).status("comparing")
    with _output_folder(out), status:
        comparison = compare(
            rows,
            baseline=baseline,
            metrics=metrics or MAIN_METRICS,
            across_test_sets=across_test_sets,
            progress=status.update,
        )
        status.update("writing")
        with _writing(out):
            write_outputs(comparison, found.skipped, out)
    print_comparison(comparison, found.skipped, out=out)
    if wandb:
        for name, url in publish(comparison).items():
            print(f"W&B {name}: {url}")


@contextmanager
def _output_folder(out: Path) -> Iterator[None]:
    """Make the folder and try it before anything is computed; take it away again if nothing comes of it."""
    made: list[Path] = []
    try:
        with _writing(out):
            if (out / "config.yaml").exists() or (out.exists() and not out.is_dir()):
                raise UserError(f"--out {out} is a run folder or a file; give a folder of its own")
            made = [path for path in (out, *out.parents) if not path.exists()]
            out.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=out):
                pass
        yield
    except BaseException:
        for path in made:  # the deepest first; one that holds files stays
            with suppress(OSError):
                path.rmdir()
        raise


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Say in a sentence that the folder cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{out} cannot be written ({error.strerror or error}); give another folder with --out"
        ) from None


def _default_out(places: Sequence[Path], rows: Sequence[Row], output_dir: Path) -> Path:
    """Beside the runs, in the one folder or sweep that was given; never inside a run, nor in one sweep of several."""
    first = find_place(places[0], output_dir)
    if len(places) == 1 and not (first / "config.yaml").is_file():
        return first / "comparison"
    names = sorted(run.folder.name for row in rows for run in row.runs)
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:8]
    return output_dir / "comparisons" / f"{len(names)}-runs-{digest}"
