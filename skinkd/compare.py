"""Compare finished runs: python -m skinkd.compare outputs/sweeps/<sweep>.

It reads run folders without changing them. It writes tables, and a page that a browser opens from disk.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from skinkd.config.process import prepare_process
from skinkd.config.user_errors import user_errors

_EPILOG = """\
examples:
  python -m skinkd.compare outputs/sweeps/<sweep>
  python -m skinkd.compare outputs --baseline kd --metrics balanced_accuracy,auroc_macro,ece
  python -m skinkd.compare outputs/<run> outputs/<other run> --out report

Runs that differ only in seed and fold form one row. See docs/compare.md.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, compare, write, print."""
    prepare_process()
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
        help="folder to write to (default: <folder or sweep>/comparison; for several, outputs/comparisons/…)",
    )
    parser.add_argument(
        "--metrics",
        help="metrics to show, separated by commas (default: accuracy,balanced_accuracy,f1_macro,auroc_macro,ece)",
    )
    parser.add_argument(
        "--across-test-sets", action="store_true", help="also compare runs with different test sets, without tests"
    )
    parser.add_argument("--wandb", action="store_true", help="also make a W&B report and workspace of these runs")
    options = parser.parse_args(arguments)
    metrics = None
    if options.metrics is not None:
        metrics = [name.strip() for name in options.metrics.split(",") if name.strip()]
    runs = [run.expanduser() for run in options.runs]
    with user_errors():
        from skinkd.analysis.output import compare_runs  # imports pandas and matplotlib, which take seconds

        compare_runs(
            runs,
            output_dir=Path(os.environ.get("SKINKD_OUTPUT_DIR", "outputs")).expanduser(),
            baseline=options.baseline,
            out=options.out.expanduser() if options.out else None,
            metrics=metrics,
            across_test_sets=options.across_test_sets,
            wandb=options.wandb,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
