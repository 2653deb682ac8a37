"""The table before and after: its limits, its words, and its width."""

import io
import time

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from skinkd.deployment.before_after import Line, agreement, as_frame, losses, score_lines, slower
from skinkd.deployment.engines import latency
from skinkd.deployment.report import markdown_table, print_report
from skinkd.scoring.predictions import prediction_table

CLASSES = ("a", "b", "c")
EVALUATION = {"calibration_bins": 10, "bootstrap_replicates": 200, "interval": 0.9}
LIMITS = {"agreement": 0.98, "balanced_accuracy_loss": 0.02}


def tables(images: int = 400, *, flipped: int) -> dict[str, pd.DataFrame]:
    """Float32 predicts all images right; int8 takes the first ``flipped`` images of class b for c."""
    rng = np.random.default_rng(0)
    label = rng.permutation(np.repeat([0, 1, 2], [images // 2, images // 4, images - images // 2 - images // 4]))
    rows = pd.DataFrame(
        {
            "image_id": [f"i{number:04d}" for number in range(images)],
            "group": [f"lesion {number // 2}" for number in range(images)],
            "label": [CLASSES[k] for k in label],
        }
    )
    right = np.full((images, 3), 0.1) + 0.7 * np.eye(3)[label]
    wrong = right.copy()
    wrong[np.flatnonzero(label == 1)[:flipped]] = [0.05, 0.1, 0.85]
    made = {"torch": right, "fp32": right, "int8": wrong}
    return {name: prediction_table(rows, np.arange(images), shares, CLASSES) for name, shares in made.items()}


def scored(flipped: int) -> tuple[list[Line], dict[str, float]]:
    made = tables(flipped=flipped)
    return score_lines(made, CLASSES, evaluation=EVALUATION, seed=0), agreement(made, CLASSES)


def test_differences_by_hand() -> None:
    lines, agreed = scored(10)
    by_name = {line.name: line for line in lines}
    assert by_name["accuracy"].difference == pytest.approx(-10 / 400)
    assert by_name["sensitivity/b"].difference == pytest.approx(-10 / 100)
    assert by_name["balanced_accuracy"].difference == pytest.approx(-0.1 / 3)
    assert by_name["sensitivity/b"].n == 100 and by_name["sensitivity/a"].n == 200 and by_name["accuracy"].n == 400
    low, high = by_name["sensitivity/b"].low, by_name["sensitivity/b"].high
    assert low is not None and high is not None and low < -0.1 < high < 0
    assert by_name["sensitivity/a"].low == by_name["sensitivity/a"].high == 0
    assert agreed == {"same_prediction": 1 - 10 / 400, "largest_change": pytest.approx(0.75)}


@pytest.mark.parametrize(
    ("flipped", "agree", "balanced"), [(0, True, True), (1, True, True), (6, True, False), (10, False, False)]
)
def test_the_limits(flipped: int, agree: bool, balanced: bool) -> None:
    lines, agreed = scored(flipped)
    failed = losses(lines, agreed, LIMITS)
    assert any("agree on" in words for words in failed) is not agree
    assert any("balanced accuracy" in words for words in failed) is not balanced


def test_a_class_without_test_images_has_no_line() -> None:
    made = {name: table[table["label"] != "c"] for name, table in tables(flipped=0).items()}
    names = [line.name for line in score_lines(made, CLASSES, evaluation=EVALUATION, seed=0)]
    assert "sensitivity/c" not in names and "sensitivity/b" in names


COSTS = [
    Line("size_mb", "size, MB", {"torch": 98.3, "fp32": 98.1, "int8": 25.0}),
    Line("latency_1_ms", "ms, batch of 1", {"torch": 1234.5, "fp32": 9.87, "int8": 12.3}),
    Line("latency_32_ms", "ms, batch of 32", {"torch": 12345.6, "fp32": 9870.0, "int8": 4000.0}),
]


def test_where_int8_is_not_faster_it_says_so() -> None:
    assert slower(COSTS) == [
        "int8 is not faster than float32 in ONNX Runtime on this machine: ms, batch of 1, 12.30 and 9.87"
    ]


def test_the_table_fits_80_columns_and_begins_with_the_warnings() -> None:
    lines, _ = scored(10)
    long = [
        Line(f"sensitivity/{'x' * 60}", "x" * 60, {"torch": 1.0, "fp32": 1.0, "int8": 0.5}, 12345, -0.5, -0.75, -0.25)
    ]
    file = io.StringIO()
    console = Console(file=file, width=80, highlight=False)
    print_report([*COSTS, *lines, *long], warnings=["it loses"], notes=["a note"], level=0.95, console=console)
    text = file.getvalue()
    assert text.startswith("warning: it loses\n") and "note: a note\n" in text
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text
    assert "-0.750 to -0.250" in text and "x 0.25" in text


def test_markdown_and_csv_have_every_line() -> None:
    lines, _ = scored(10)
    text = markdown_table([*COSTS, *lines], level=0.95)
    assert len(text.splitlines()) == 2 + len(COSTS) + len(lines)
    assert "| sensitivity, b | 100 | 1.000 | 1.000 | 0.900 | -0.100 |" in text
    frame = as_frame([*COSTS, *lines]).set_index("name")
    assert frame.loc["size_mb", "int8"] == 25.0 and pd.isna(frame.loc["size_mb", "n"])
    assert frame.loc["accuracy", "difference"] == pytest.approx(-10 / 400)


def test_the_engines_take_turns_and_a_slow_round_does_not_count() -> None:
    calls: list[str] = []
    ticks = iter(np.cumsum(np.tile([0.0, 1.0, 0.0, 3.0], 3)))  # start and end of the two engines, in three rounds

    def engine(name: str):  # type: ignore[no-untyped-def]
        return lambda images: calls.append(name)

    engines = {"a": engine("a"), "b": engine("b")}
    found = latency(engines, np.zeros(1), threads=1, rounds=3, seconds=60, clock=lambda: float(next(ticks)))
    assert found == {"a": 1000.0, "b": 3000.0} and calls == ["a", "b"] * 4
    calls.clear()
    latency(engines, np.zeros(1), threads=1, rounds=50, seconds=0, clock=time.perf_counter)
    assert calls == ["a", "b"] * 4, "one round that is not counted, and three"
