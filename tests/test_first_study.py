"""``make first-study``: its commands are valid, and docs/first_study.md has been written by it as it is now."""

import re
from pathlib import Path

import pytest

import first_study
from skinkd.analysis.aggregate import METRICS
from skinkd.config.command_line import hold_back
from skinkd.config.overrides import check_overrides

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "first_study.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("group", list(first_study.SWEEPS))
def test_every_sweep_is_a_valid_command_that_the_page_gives(group: str) -> None:
    words = first_study.command(group)
    check_overrides("train", hold_back(words[3:]))
    assert f"\n{' '.join(words)}\n" in PAGE


def test_the_page_compares_the_sweeps_of_the_study_by_its_claims() -> None:
    folders = " ".join(f"outputs/sweeps/{group}" for group in first_study.MAIN)
    assert f"\npython -m skinkd.compare {folders}\n" in PAGE
    assert all(claim in PAGE and set(metrics) <= set(METRICS) for _, claim, metrics in first_study.CLAIMS)


def test_what_the_page_calls_settled_is_so_in_its_table_of_tests() -> None:
    """Verdicts and tables are written by two ways from the same runs."""
    tests = {
        (metric, label.replace("\\_", "_")): float(holm.removeprefix("< "))
        for metric, label, holm in re.findall(
            r"^\| ([^|,]+) \| (.+?) \(against [^|]*\| .* \| ([<\d. ]+) \|$", PAGE, re.M
        )
    }
    judged = 0
    for label, cells in re.findall(r"^\| [^|]* \| `([^`]+)` \| [\d.]+ \| (.*) \|$", PAGE, re.M):
        for metric, verdict in re.findall(r"(?:^|<br>)([^<]+?) [+−][\d.]+ \([^)]*\): (\*\*\w+\*\*|not settled)", cells):
            if tests.get((metric, label), 0.05) != 0.05:  # rounded there; 0.050 may be either
                judged += 1
                assert (tests[metric, label] < 0.05) == verdict.startswith("**"), (metric, label)
    assert judged > 2 * len(first_study.CLAIMS)
