"""Conformal sets against MAPIE, against the guarantee on simulated data, and on tables too small for a level."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from mapie.classification import SplitConformalClassifier
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin

from skinkd.errors import UserError
from skinkd.scoring.conformal import (
    as_plain,
    fit_conformal,
    from_plain,
    least_images,
    prediction_sets,
    score_sets,
)
from skinkd.scoring.predictions import prediction_table

CLASSES = ("a", "b", "c", "d")
SHARES = np.array([0.6, 0.25, 0.12, 0.03])


def draw(n: int, seed: int, *, signal: float = 1.5, shares: np.ndarray = SHARES) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = rng.choice(len(CLASSES), size=n, p=shares)
    return label, softmax(
        rng.normal(size=(n, len(CLASSES))) + signal * np.eye(len(CLASSES))[label] + np.log(SHARES), axis=1
    )


def table(label: np.ndarray, probability: np.ndarray) -> pd.DataFrame:
    ids = [f"im{i:06d}" for i in range(len(label))]
    rows = pd.DataFrame({"image_id": ids, "group": ids, "label": [CLASSES[k] for k in label]})
    return prediction_table(rows, np.arange(len(label)), probability, CLASSES)


class Given(ClassifierMixin, BaseEstimator):
    """A classifier whose images are their own probabilities."""

    classes_ = np.arange(len(CLASSES))

    def fit(self, *_: object) -> "Given":
        return self

    def predict_proba(self, images: np.ndarray) -> np.ndarray:
        return images

    def predict(self, images: np.ndarray) -> np.ndarray:
        return images.argmax(axis=1)

    def __sklearn_is_fitted__(self) -> bool:
        return True


def mapies(probability: np.ndarray, label: np.ndarray, test: np.ndarray, level: float) -> np.ndarray:
    """MAPIE's sets of the least ambiguous kind, (N, K)."""
    oracle = SplitConformalClassifier(Given(), confidence_level=level, conformity_score="lac", prefit=True)
    return oracle.conformalize(probability, label).predict_set(test)[1][:, :, 0]


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95])
@pytest.mark.parametrize(("n", "seed"), [(60, 0), (301, 1), (1000, 2)])
def test_marginal_sets_are_mapies(level: float, n: int, seed: int) -> None:
    label, probability = draw(n, seed)
    test = draw(200, seed + 100)[1]
    fitted = fit_conformal(table(label, probability), CLASSES, level=level, by_class=False)
    np.testing.assert_array_equal(prediction_sets(test, fitted), mapies(probability, label, test, level))


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
def test_class_conditional_sets_are_mapies_of_each_class(level: float) -> None:
    label, probability = draw(1500, 3)
    test = draw(200, 4)[1]
    fitted = fit_conformal(table(label, probability), CLASSES, level=level)
    found = prediction_sets(test, fitted)
    for k in range(len(CLASSES)):
        assert fitted.n[k] == (label == k).sum() >= least_images(level)
        own = label == k
        np.testing.assert_array_equal(found[:, k], mapies(probability[own], label[own], test, level)[:, k])


def test_the_guarantee_holds_by_class_and_marginal_sets_miss_the_rare_class() -> None:
    """Means over 60 draws. Of a test table with as many images of each class, the share that the sets hold."""
    level, shares, expected = 0.9, {True: [], False: []}, []
    test = table(*draw(2400, 9, shares=np.full(4, 0.25)))
    for seed in range(60):
        fit_on = table(*draw(800, 1000 + seed))
        for by_class, found in shares.items():
            scored = score_sets(test, CLASSES, fit_conformal(fit_on, CLASSES, level=level, by_class=by_class))
            found.append(scored["coverage"].to_numpy()[:-1])
        n = fit_on["label"].value_counts().reindex(CLASSES).to_numpy()
        expected.append(np.ceil((n + 1) * level) / (n + 1))  # Vovk 2012, a share between the level and 1 / (n + 1) more
    by_class, marginal = (np.mean(shares[kind], axis=0) for kind in (True, False))
    np.testing.assert_allclose(by_class, np.mean(expected, axis=0), atol=0.03)  # the standard error is 0.013
    assert (SHARES * marginal).sum() == pytest.approx(level, abs=0.02) and marginal[3] < 0.5


def test_a_class_with_too_few_images_is_in_every_set() -> None:
    assert [least_images(level) for level in (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)] == [1, 3, 4, 9, 19, 99]
    label = np.repeat([0, 1, 2], [50, 9, 8])  # class d has none
    probability = softmax(np.random.default_rng(0).normal(size=(67, 4)) + 2 * np.eye(4)[label], axis=1)
    fitted = fit_conformal(table(label, probability), CLASSES, level=0.9)
    assert np.isfinite(fitted.threshold).tolist() == [True, True, False, False] and fitted.n.tolist() == [50, 9, 8, 0]
    assert fitted.threshold[1] == (1 - probability[label == 1, 1]).max()
    assert prediction_sets(draw(50, 1)[1], fitted)[:, 2:].all()
    scored = score_sets(table(label, probability), CLASSES, fitted).set_index("class")
    assert scored["enough"].tolist() == [True, True, False, False, False]
    assert scored["n_fit"].tolist() == [50, 9, 8, 0, 67] and scored["n"].tolist() == [50, 9, 8, 0, 67]
    assert math.isnan(scored.loc["d", "coverage"]) and scored.loc["c", "coverage"] == 1
    few = fit_conformal(table(label[:5], probability[:5]), CLASSES, level=0.9, by_class=False)
    assert prediction_sets(draw(5, 2)[1], few).all()


@pytest.mark.parametrize(("n", "level"), [(9, 0.9), (19, 0.95), (99, 0.7), (9, 0.7), (9, 0.3)])
def test_the_rank_is_exact_where_the_product_is_a_whole_number(n: int, level: float) -> None:
    scores = (np.arange(n) + 1) / (n + 1)
    probability = np.column_stack([1 - scores, scores, np.zeros(n), np.zeros(n)])
    fitted = fit_conformal(table(np.zeros(n, int), probability), CLASSES, level=level)
    assert fitted.threshold[0] == pytest.approx(level)


def test_sets_may_be_empty_and_the_order_of_rows_is_nothing() -> None:
    label, probability = draw(400, 5, signal=4)
    rows = table(label, probability)
    fitted = fit_conformal(rows, CLASSES, level=0.5)
    shuffled = fit_conformal(rows.sample(frac=1, random_state=0), CLASSES, level=0.5)
    np.testing.assert_array_equal(fitted.threshold, shuffled.threshold)
    assert not prediction_sets(np.full((1, 4), 0.25), fitted).any()


def test_fitted_sets_survive_json() -> None:
    fitted = fit_conformal(table(*draw(40, 6)), CLASSES, level=0.9)
    again = from_plain(json.loads(json.dumps(as_plain(fitted), allow_nan=False)))
    assert again.level == fitted.level and again.by_class is True
    np.testing.assert_array_equal(again.threshold, fitted.threshold)
    np.testing.assert_array_equal(again.n, fitted.n)
    assert np.isinf(again.threshold).any()


@pytest.mark.parametrize("level", [0, 1, -0.1, 90, math.nan])
def test_a_level_that_is_none_is_refused(level: float) -> None:
    with pytest.raises(UserError, match=r"conformal=.* such as 0\.9"):
        fit_conformal(table(*draw(40, 6)), CLASSES, level=level)
