"""Scores by subgroup, against the same functions on the subgroup's rows alone, and against scikit-learn."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, recall_score
from statsmodels.stats.proportion import proportion_confint

from skinkd.scoring.bootstrap import bootstrap_intervals
from skinkd.scoring.predictions import probability_columns
from skinkd.scoring.subgroups import age_bands, subgroup_scores, subgroup_sensitivity

CLASSES = ("a", "b", "c")
SETTINGS: dict[str, Any] = {"least_lesions": 5, "replicates": 200, "seed": 3, "level": 0.9}


def made_table(lesions: int, *, per_lesion: int = 2, right: float = 0.7, seed: int = 0) -> pd.DataFrame:
    """Predictions for ``lesions`` lesions of the three classes in turn, right with probability ``right``."""
    rng = np.random.default_rng(seed)
    rows = []
    for lesion in range(lesions):
        for _ in range(per_lesion):
            label = lesion % 3
            best = label if rng.random() < right else int(rng.integers(3))
            probability = rng.dirichlet(np.ones(3))
            probability[[best, probability.argmax()]] = probability[[probability.argmax(), best]]
            rows.append((f"i{len(rows):04d}", f"l{lesion}", CLASSES[label], CLASSES[best], *probability))
    return pd.DataFrame(rows, columns=["image_id", "group", "label", "prediction", *probability_columns(CLASSES)])


def made_columns(table: pd.DataFrame, values: Sequence[str]) -> pd.DataFrame:
    """A column ``sex`` that gives the lesions the values in turn."""
    lesion = table["group"].str[1:].astype(int)
    return pd.DataFrame({"image_id": table["image_id"], "sex": [values[k // 3 % len(values)] for k in lesion]})


def row_of(frame: pd.DataFrame, value: str, **others: str) -> pd.Series:
    chosen = frame[frame["value"] == value]
    for name, cell in others.items():
        chosen = chosen[chosen[name] == cell]
    assert len(chosen) == 1
    return chosen.iloc[0]


@pytest.mark.parametrize("per_lesion", [1, 3])
@pytest.mark.parametrize("lesions", [60, 91])
def test_a_subgroup_has_the_scores_of_its_rows_alone(lesions: int, per_lesion: int) -> None:
    table = made_table(lesions, per_lesion=per_lesion)
    columns = made_columns(table, ["male", "female"])
    found = subgroup_scores(table, columns, CLASSES, **SETTINGS)
    assert found["value"].tolist() == ["female", "male"] and found["n"].sum() == len(table)
    for value in ("female", "male"):
        part = table[(columns["sex"] == value).to_numpy()]
        row = row_of(found, value)
        assert row["n"] == len(part) and row["lesions"] == part["group"].nunique()
        assert row["accuracy"] == pytest.approx((part["label"] == part["prediction"]).mean(), abs=1e-12)
        expected = balanced_accuracy_score(part["label"], part["prediction"])
        assert row["balanced_accuracy"] == pytest.approx(expected, abs=1e-12) and row["classes"] == "a, b, c"
        settings = {name: SETTINGS[name] for name in ("replicates", "seed", "level")}
        bounds = bootstrap_intervals(part, CLASSES, calibration_bins=5, **settings)
        for name in ("accuracy", "balanced_accuracy"):
            assert (row[f"{name}_low"], row[f"{name}_high"]) == pytest.approx(bounds[name], abs=1e-12)


def test_nothing_is_scored_below_the_least_number_of_lesions() -> None:
    table = made_table(60)
    lesion = table["group"].str[1:].astype(int)
    # "few" has 4 lesions of 8 images: lesions count, not images
    columns = pd.DataFrame({"image_id": table["image_id"], "sex": np.where(lesion < 4, "few", "many")})
    found = subgroup_scores(table, columns, CLASSES, **SETTINGS)
    few, many = row_of(found, "few"), row_of(found, "many")
    assert (few["n"], few["lesions"]) == (8, 4)
    assert few.filter(like="accuracy").isna().all() and few["classes"] == ""
    assert many.filter(like="accuracy").notna().all()
    rates = subgroup_sensitivity(table, columns, CLASSES, least_lesions=5, level=0.9)
    assert rates[rates["value"] == "few"]["sensitivity"].isna().all()
    assert rates[rates["value"] == "few"]["n"].sum() == 8


def test_the_balanced_accuracy_leaves_out_classes_with_too_few_lesions() -> None:
    table = made_table(60)
    lesion = table["group"].str[1:].astype(int)
    kept = table[((table["label"] != "c") | (lesion < 12)).to_numpy()]  # four lesions of c
    columns = pd.DataFrame({"image_id": kept["image_id"], "sex": "male"})
    row = row_of(subgroup_scores(kept, columns, CLASSES, **SETTINGS), "male")
    common = kept[kept["label"] != "c"]
    expected = np.mean([recall_score(common["label"] == one, common["prediction"] == one) for one in "ab"])
    assert row["classes"] == "a, b" and row["balanced_accuracy"] == pytest.approx(expected, abs=1e-12)
    assert row["accuracy"] == pytest.approx((kept["label"] == kept["prediction"]).mean(), abs=1e-12)


def test_sensitivities_are_of_the_subgroup_with_wilsons_interval_on_lesions() -> None:
    table = made_table(90, per_lesion=2)
    columns = made_columns(table, ["male", "female"])
    found = subgroup_sensitivity(table, columns, CLASSES, least_lesions=5, level=0.9)
    assert len(found) == 6
    for value in ("female", "male"):
        for name in CLASSES:
            part = table[((columns["sex"] == value) & (table["label"] == name)).to_numpy()]
            row = row_of(found, value, **{"class": name})
            rate, lesions = (part["prediction"] == name).mean(), part["group"].nunique()
            assert (row["n"], row["lesions"]) == (len(part), lesions)
            assert row["sensitivity"] == pytest.approx(rate, abs=1e-12)
            low, high = proportion_confint(rate * lesions, lesions, alpha=0.1, method="wilson")
            assert (row["sensitivity_low"], row["sensitivity_high"]) == pytest.approx((low, high), abs=1e-9)


def test_empty_cells_and_images_without_a_row_are_the_last_subgroup() -> None:
    table = made_table(30)
    columns = made_columns(table, ["zebra", ""]).iloc[4:]
    found = subgroup_scores(table, columns, CLASSES, **SETTINGS)
    assert found["value"].tolist() == ["zebra", "unknown"] and found["n"].sum() == len(table)
    assert row_of(found, "zebra")["n"] == (columns["sex"] == "zebra").sum()


def test_an_interval_without_spread_is_left_out() -> None:
    table = made_table(30, right=1.0)
    row = row_of(subgroup_scores(table, made_columns(table, ["male"]), CLASSES, **SETTINGS), "male")
    assert row["accuracy"] == row["balanced_accuracy"] == 1
    assert np.isnan([row["accuracy_low"], row["accuracy_high"], row["balanced_accuracy_low"]]).all()
    rates = subgroup_sensitivity(table, made_columns(table, ["male"]), CLASSES, least_lesions=5, level=0.9)
    assert (rates["sensitivity_low"] < 1).all()  # Wilson's has a width


def test_the_order_of_rows_and_the_other_subgroups_change_nothing() -> None:
    table = made_table(60)
    columns = made_columns(table, ["male", "female"])
    shuffled = table.sample(frac=1, random_state=1)
    expected = subgroup_scores(table, columns, CLASSES, **SETTINGS)
    assert subgroup_scores(shuffled, columns.sample(frac=1, random_state=2), CLASSES, **SETTINGS).equals(expected)
    only = columns.assign(sex=columns["sex"].replace("male", ""))
    row = row_of(subgroup_scores(table, only, CLASSES, **SETTINGS), "female")
    pd.testing.assert_series_equal(row, row_of(expected, "female"))


def test_several_properties_keep_their_order_and_none_give_no_rows() -> None:
    table = made_table(30)
    columns = made_columns(table, ["male"]).assign(age="30 to 44")
    assert subgroup_scores(table, columns, CLASSES, **SETTINGS)["property"].tolist() == ["sex", "age"]
    none = columns[["image_id"]]
    assert subgroup_scores(table, none, CLASSES, **SETTINGS).empty
    assert subgroup_sensitivity(table, none, CLASSES, least_lesions=5, level=0.9).empty


def test_age_bands() -> None:
    ages = ["0", "29", "29.9", "30", "50.0", "74", "75", "85", "", "unknown", "-5", "inf"]
    young, middle, old = "0 to 29", "30 to 74", "75 or older"
    bands = age_bands(ages, (30, 75))
    assert bands == [young, young, young, middle, middle, middle, old, old, "", "", "", ""]
    assert age_bands([], (30, 75)) == []
