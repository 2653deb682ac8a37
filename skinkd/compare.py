"""Comparing finished runs: ``python -m skinkd.compare outputs/sweeps/<sweep>``.

Reads run folders, changes nothing in them, and leaves tables and one page that a browser opens from disk.
"""

import argparse
import hashlib
import os
import sys
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
from skinkd.config.user_errors import user_errors
from skinkd.errors import UserError

_EPILOG = """\
examples:
  python -m skinkd.compare outputs/sweeps/<sweep>
  python -m skinkd.compare outputs --baseline kd --metrics balanced_accuracy,auroc_macro,ece
  python -m skinkd.compare outputs/<run> outputs/<other run> --out report

Runs that are the same but for seed and fold are one row. See docs/compare.md.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, compare, write, print."""
    parser = argparse.ArgumentParser(
        prog="python -m skinkd.compare",
        description="Compare finished runs: metrics with intervals, paired tests, calibration, cost, and a page with plots.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, help="run folders, folders of run folders, sweep folders or sweep names"
    )
    parser.add_argument("--baseline", help="row or method to test against (default: supervised)")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder to write to (default: <folder or sweep>/comparison, of several outputs/comparisons/…)",
    )
    parser.add_argument(
        "--metrics", default=",".join(MAIN_METRICS), help="metrics to show, with commas between (default: %(default)s)"
    )
    parser.add_argument(
        "--across-test-sets", action="store_true", help="compare runs of different test sets too, without tests"
    )
    parser.add_argument("--wandb", action="store_true", help="also make a W&B report and workspace of these runs")
    options = parser.parse_args(arguments)
    with user_errors():
        _run(options)


def _run(options: argparse.Namespace) -> None:
    output_dir = Path(os.environ.get("SKINKD_OUTPUT_DIR", "outputs"))
    if options.wandb:
        check_wandb()
    found = read_runs(options.runs, output_dir=output_dir)
    rows = group_rows(found.runs)
    out = options.out or _default_out(options.runs, rows, output_dir)
    status = Console(stderr=True).status("comparing")
    with _output_folder(out), status:
        comparison = compare(
            rows,
            baseline=options.baseline,
            metrics=[name.strip() for name in options.metrics.split(",") if name.strip()],
            across_test_sets=options.across_test_sets,
            progress=status.update,
        )
        status.update("writing")
        with _writing(out):
            write_outputs(comparison, found.skipped, out)
    print_comparison(comparison, found.skipped, out=out)
    if options.wandb:
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


if __name__ == "__main__":
    main(sys.argv[1:])
