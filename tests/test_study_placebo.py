"""A row against itself: each way to deal two seeds to two sides, and how often the intervals find a difference."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from skinkd.analysis.runs import Run
from study import placebo
from study.collect import Collected
from study.scores import METRICS

CLASSES = ("mel", "nv")


def run(fold: int, seed: int, right: float, drawn: int) -> Run:
    """A run whose probability of the label is above a half for a share of 80 images of 40 lesions."""
    rng = np.random.default_rng([fold, drawn])
    label = np.where(np.arange(80) % 2 == 0, "mel", "nv")
    sure = np.where(rng.uniform(size=80) < right, rng.uniform(0.5, 1, 80), rng.uniform(0, 0.5, 80))
    mel = np.where(label == "mel", sure, 1 - sure)
    names = [f"{fold}-{place}" for place in range(80)]
    table = pd.DataFrame({"image_id": names, "group": [f"{fold}-{place // 2}" for place in range(80)], "label": label})
    table = table.assign(prediction=np.where(mel > 0.5, "mel", "nv"), p_mel=mel, p_nv=1 - mel)
    return Run(Path(f"{fold}-{seed}"), {"seed": seed}, {}, CLASSES, None, table, pd.DataFrame())


def collected(rights: tuple[float, float], drawn: tuple[int, int]) -> Collected:
    runs = {(fold, seed): run(fold, seed, rights[seed], drawn[seed]) for fold in range(5) for seed in (0, 1)}
    few = {place: one for place, one in runs.items() if place[1] == 0}
    return Collected({"swskd": runs, "teacher_head": runs, "kd": few}, (), (), ())


def test_each_way_to_deal_the_seeds_comes_once() -> None:
    runs = collected((0.8, 0.8), (0, 1)).runs["swskd"]
    found = list(placebo.sides(runs))
    assert len({tuple(sorted(map(id, side))) for pair in found for side in pair}) == 32
    for one, other in found:
        assert sorted(map(id, [*one, *other])) == sorted(map(id, runs.values()))
        assert [(a.folder.name[0], b.folder.name[0]) for a, b in zip(one, other, strict=True)] == [
            (str(fold), str(fold)) for fold in range(5)
        ]


@pytest.mark.parametrize(("rights", "drawn"), [((0.8, 0.8), (0, 0)), ((0.95, 0.55), (0, 1))])
def test_only_seeds_that_differ_are_found_to_differ(rights: tuple[float, float], drawn: tuple[int, int]) -> None:
    found = placebo.against_itself(collected(rights, drawn))
    assert (found.comparisons, found.rows) == (16, ("swskd",))  # a row with one seed has nothing to compare
    for name in ("balanced_accuracy", "accuracy"):
        for without_zero in (found.lesions[name], found.trained[name]):
            assert (without_zero > 0) == (rights[0] != rights[1])
    assert found.lesions["accuracy"] > found.trained["accuracy"] or rights[0] == rights[1]
    assert placebo.placebo_table(found).count("\n") == len(METRICS) + 1
