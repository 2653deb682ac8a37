"""What docs/results.md says follows from runs by the rules of docs/study.md."""

import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import roc_curve

from skinkd.analysis.runs import Run
from skinkd.analysis.statistics import Difference
from skinkd.analysis.trainings import OverTrainings
from study import ablations, corruptions, leaks, report, subgroups, tables
from study.collect import APART, BASELINES, collect
from study.scores import METRICS, sensitivity_at, weighted_sensitivity
from study.verdicts import PRIMARY, Compared, adjusted, judged, verdict

CLASSES = ("mel", "nv")
FUSIONS = ("logits", "features")


def scored(n: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    label = np.where(np.arange(n) % 3 == 0, "mel", "nv")
    return pd.DataFrame({"label": label, "p_mel": rng.uniform(size=n).round(2)})


@pytest.mark.parametrize("n", [5, 10, 37, 400])
def test_sensitivity_at_a_specificity_is_the_best_on_the_roc_curve(n: int) -> None:
    table = scored(n, n)
    fall_out, sensitivity, _ = roc_curve(table["label"] == "mel", table["p_mel"], drop_intermediate=False)
    expected = sensitivity[1 - fall_out >= 0.9 - 1e-12].max()
    assert sensitivity_at(table, "mel", 0.9) == expected


@pytest.mark.parametrize("seed", range(5))
def test_a_weighted_image_counts_as_that_many_copies(seed: int) -> None:
    table, rng = scored(60, seed), np.random.default_rng(seed)
    weights = rng.integers(0, 4, size=(8, len(table))).astype(float)
    positive = (table["label"] == "mel").to_numpy()
    found = weighted_sensitivity(table["p_mel"].to_numpy(), positive, weights, 0.9)
    for value, counts in zip(found, weights, strict=True):
        copies = table.loc[np.repeat(table.index, counts.astype(int))]
        assert value == pytest.approx(sensitivity_at(copies, "mel", 0.9), abs=1e-12)


def test_without_a_class_there_is_no_sensitivity() -> None:
    score, positive = np.array([0.1, 0.6, 0.9]), np.array([False, True, False])
    weights = np.array([[1.0, 0, 1], [0, 1, 0], [1, 1, 1]])
    assert np.isnan(weighted_sensitivity(score, positive, weights, 0.9)).tolist() == [True, True, False]


def run(
    method: str, fold: int | None, precision: str = "bf16-mixed", protocol: str = "grouped", seed: int = 0, **data: Any
) -> Run:
    config = {
        "seed": seed,
        "protocol": protocol,
        "data": {"fold": fold},
        "method": {"name": method},
        "backbone": {"name": "tf_efficientnet_lite0"},
        "loss": {"label_smoothing": 0.0},
        "trainer": {"precision": precision},
    }
    table = pd.DataFrame(data)
    return Run(Path(f"{method}-{fold}-{precision}"), config, {}, CLASSES, None, table, pd.DataFrame())


def test_a_folds_runs_have_the_formats_of_its_supervised_run() -> None:
    fair = [run("supervised", 0), run("kd", 0), run("supervised", 1, "32-true"), run("swskd", 1, "32-true")]
    other, leaky = run("swskd", 1), run("supervised", None, protocol="image_level")
    found = collect([other, leaky, *fair])
    assert [found.folds(row) for row in ("supervised", "kd", "swskd")] == [[0, 1], [0], [1]]
    assert found.left_out == (other,) and found.leaky == (leaky,)
    assert found.runs["swskd"][1, 0] is fair[3] and len(found.every) == 4
    with pytest.raises(ValueError, match="two runs on fold 0"):
        collect([*fair, run("kd", 0)])


def test_a_further_seed_counts_with_all_folds_of_the_row_and_its_baseline() -> None:
    def block(row: str, seed: int, folds: int = 5) -> list[Run]:
        return [run(row, fold, seed=seed) for fold in range(folds)]

    first = [one for row in ("supervised", "swskd", "tsskd") for one in block(row, 0)]
    found = collect([*first, *block("supervised", 1), *block("swskd", 1), *block("tsskd", 1, 4), *block("swskd", 2)])
    assert found.places("swskd") == [(fold, seed) for fold in range(5) for seed in (0, 1)]
    assert found.places("tsskd") == [(fold, 0) for fold in range(5)]
    assert len(found.waiting) == 4 and len(found.left_out) == 5  # seed 2 has no supervised run
    assert found.seeds == [0, 1] and [one.seed for one in found.once("swskd")] == [0] * 5
    assert "| `swskd` | seeds 0, 1 | seeds 0, 1 |" in tables.coverage_table(found)


def test_an_ablation_is_a_row_beside_the_row_that_had_the_same_teacher() -> None:
    rows = collect([run(row, fold, seed=seed) for row in ("supervised", "kd") for seed in (0, 1) for fold in range(5)])
    again, changed = [run("kd", 0, seed=1)], [run("kd", fold, "again", seed=1) for fold in (0, 1)]
    lines = [("as chosen", again[0]), *(("2 epochs", one) for one in changed)]
    table = pd.DataFrame([{"row": "kd", "variant": name, "folder": one.folder.name} for name, one in lines])
    found = ablations.joined([*again, *changed], table, rows).runs
    assert found["kd: 2 epochs"] == {(0, 1): changed[0], (1, 1): changed[1]}
    assert found["kd"] == {(0, 1): again[0], (1, 1): rows.runs["kd"][1, 1]}
    assert found["kd"][0, 1] is again[0] and found["supervised"].keys() == {(0, 1), (1, 1)}


def comparison(row: str, folds: int, low: float, high: float, p: float) -> Compared:
    middle = (low + high) / 2
    lesions = Difference(middle, low, high, p)
    trained = OverTrainings(middle, low, high, p, folds)
    numbers = tuple(range(folds))
    return Compared(
        row,
        (BASELINES | APART)[row],
        numbers,
        folds,
        (middle,) * folds,
        dict.fromkeys(METRICS, lesions),
        dict.fromkeys(METRICS, trained),
    )


@pytest.mark.parametrize(
    ("folds", "low", "high", "p", "said"),
    [
        (5, 0.01, 0.05, 0.008, "supported"),  # 0.048 after Holm
        (5, 0.01, 0.05, 0.009, "not settled"),  # 0.054: above zero, but not after Holm
        (5, -0.01, 0.05, 0.008, "not settled"),
        (5, -0.05, -0.01, 0.9, "refuted as an improvement"),
        (4, 0.01, 0.05, 0.001, "not settled (4 of 5 folds)"),
    ],
)
def test_a_verdict_follows_the_design(folds: int, low: float, high: float, p: float, said: str) -> None:
    methods = [comparison("swskd", folds, low, high, p), comparison("kd", 3, 0.2, 0.3, 1e-9)]
    assert verdict(methods[0], adjusted(methods, PRIMARY).get("swskd")) == said


def test_a_row_apart_is_judged_by_its_own_p() -> None:
    methods = [comparison("swskd", 5, 0.01, 0.05, 0.02), comparison("mskd_features", 5, 0.01, 0.05, 0.04)]
    p = judged(methods, PRIMARY)
    assert p == pytest.approx({"swskd": 0.12, "mskd_features": 0.04})
    assert [verdict(one, p[one.row]) for one in methods] == ["not settled", "supported"]
    table = tables.verdict_table(methods)
    assert "| 0.040 | apart | **supported** |" in table and "| 0.020 | 0.120 | **not settled** |" in table
    assert "mskd_features" not in judged([comparison("mskd_features", 4, 0.01, 0.05, 0.04)], PRIMARY)


def test_the_answer_has_a_line_for_each_verdict() -> None:
    methods = [
        comparison("swskd", 5, 0.01, 0.05, 0.001),
        comparison("byot", 5, -0.01, 0.03, 0.5),
        comparison("tsskd", 5, -0.05, -0.01, 0.01),
        comparison("kd", 3, 0.1, 0.2, 0.001),
        comparison("mskd_features", 5, -0.05, -0.01, 0.01),
    ]
    assert report.answer(methods).splitlines() == [
        "- **Supported**: `swskd` +3.0 points (+1.0 to +5.0).",
        "- **Not settled**: `byot` +1.0 points (−1.0 to +3.0).",
        "- **Refuted as an improvement**: `tsskd` −3.0 points (−5.0 to −1.0).",
        "- No verdict yet, because fewer than 5 folds are trained: `kd` (3).",
        "- Apart from the six, against `hybrid_features`: `mskd_features` −3.0 points (−5.0 to −1.0), "
        "**refuted as an improvement**.",
    ]


def test_a_hybrid_networks_row_is_told_by_its_fusion() -> None:
    def hybrid(method: str, fusion: str) -> Run:
        one = run(method, 0)
        one.config["backbone"] = {"name": "mskd_student", "fusion": fusion}
        return one

    found = collect([run("supervised", 0), *(hybrid(*of) for of in itertools.product(("supervised", "mskd"), FUSIONS))])
    assert [row for row, runs in found.runs.items() if runs] == [
        *("supervised", "hybrid_supervised", "mskd", "hybrid_features", "mskd_features")
    ]


def test_methods_without_all_folds_count_in_holms_correction() -> None:
    methods = [comparison("swskd", 5, 0, 1, 0.01), comparison("tsskd", 5, 0, 1, 0.02), comparison("kd", 2, 0, 1, 1e-9)]
    assert adjusted(methods, PRIMARY) == pytest.approx({"swskd": 0.06, "tsskd": 0.1})


def test_the_parts_of_a_leaking_split_are_told_by_the_lesions_in_training(tmp_path: Path) -> None:
    names = ["a", "b", "c", "d"]
    splits = pd.DataFrame({"image_id": [*names, "e", "f"], "group": [1, 2, 3, 4, 1, 3]})
    splits["split"] = ["test"] * 4 + ["train", "val"]
    splits.to_csv(tmp_path / "splits.csv", index=False)
    table = pd.DataFrame({"image_id": names, "group": ["1", "2", "3", "4"], "p": range(4)})
    leaky = Run(tmp_path, {}, {}, CLASSES, None, table, pd.DataFrame())
    honest = table.iloc[::-1].assign(p=[13, 12, 11, 10])
    found = leaks.parts_of(leaky, honest)
    assert found[True][0]["image_id"].tolist() == ["a"]
    assert found[True][1]["p"].tolist() == [10]
    assert found[False][1]["p"].tolist() == [11, 12, 13]


def test_each_image_is_in_one_subgroup_of_a_property_or_in_none() -> None:
    ages = ["39.0", "", "0", "40", "59.0", "60", "85"]
    images = pd.DataFrame({"image_id": list("abcdefg"), "sex": "male", "age": ages, "body_site": "ear"})
    images = images.assign(confirmation="histo")
    images.loc[1, ["sex", "body_site"]] = "unknown"
    found = subgroups.properties(images)
    assert found.loc[0].tolist() == ["a", "male", "0 to 39", "head and neck", "histo"]
    assert found.loc[1].tolist() == ["b", "", "", "", "histo"]
    assert found["age"].tolist()[2:] == ["0 to 39", "40 to 59", "40 to 59", "60 or older", "60 or older"]


class Noise:
    """A corruption that draws from each of the library's three generators."""

    rng: np.random.Generator

    def apply(self, image: Image.Image, severity: int) -> np.ndarray:
        drawn = np.array([severity, random.random(), np.random.uniform(), self.rng.uniform()])
        return np.asarray(image) + drawn


def test_a_corruption_has_the_same_draws_again() -> None:
    images = [np.zeros((2, 2, 4), dtype=np.uint8)] * 3
    one, other = (list(corruptions.corrupted(images, Noise(), 3, seed)) for seed in (5, 5))
    assert all((a == b).all() for a, b in zip(one, other, strict=True))
    assert (one[0] != one[1]).any() and one[0][0, 0, 0] == 2  # the library counts severities from 0
    assert list(corruptions.corrupted(images, None, 0, 5)) == images


def test_corrupted_scores_are_means_over_corruptions() -> None:
    rng, parts = np.random.default_rng(0), []
    for row in ("supervised", "swskd"):
        for name in ("fog", "dirt"):
            table = pd.DataFrame({"image_id": [f"i{k}" for k in range(40)], "group": [f"g{k // 2}" for k in range(40)]})
            table["label"] = ["mel", "nv"] * 20
            mel = rng.uniform(size=40)
            table = table.assign(prediction=np.where(mel > 0.5, "mel", "nv"), p_mel=mel, p_nv=1 - mel)
            parts.append(table.assign(row=row, corruption=name, severity=3))
    found = corruptions.summarised(pd.concat(parts), CLASSES).set_index(["row", "metric"])
    right = [(part["label"] == part["prediction"]).mean() for part in parts]
    assert found.loc[("supervised", "accuracy"), "value"] == pytest.approx(np.mean(right[:2]))
    assert found.loc[("swskd", "accuracy"), "difference"] == pytest.approx(np.mean(right[2:]) - np.mean(right[:2]))
    assert (found["images"] == 40).all() and (found["corruptions"] == 2).all()


def test_a_sample_has_whole_lesions_but_perhaps_the_last() -> None:
    table = pd.DataFrame({"image_id": range(60), "group": np.arange(60) // 3})
    found = corruptions.sample(table, 20, 0)
    sizes = found.groupby("group", sort=False).size().tolist()
    assert sizes == [3] * 6 + [2] and len(set(found["image_id"])) == 20
