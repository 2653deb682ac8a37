"""Every metric against scikit-learn or a plain loop, on random, tied, perfect and degenerate tables."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn import metrics as sk
from torchmetrics.functional import classification as tm

from skinkd.errors import UserError
from skinkd.scoring.metrics import confusion_matrix, evaluate, partial_auroc, per_class, wilson_interval
from skinkd.scoring.predictions import prediction_table, read_predictions

BINS = 15


def make_table(label: np.ndarray, probability: np.ndarray, group: np.ndarray | None = None) -> pd.DataFrame:
    n, k = probability.shape
    rows = pd.DataFrame(
        {
            "image_id": [f"im{i:05d}" for i in range(n)],
            "group": [f"g{g}" for g in (range(n) if group is None else group)],
            "label": [f"c{y}" for y in label],
        }
    )
    return prediction_table(rows, np.arange(n), probability, names(k))


def names(k: int) -> list[str]:
    return [f"c{i}" for i in range(k)]


def random_case(seed: int, n: int, k: int, present: int, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels over the first ``present`` classes in shuffled order; ``levels`` > 0 makes many ties."""
    rng = np.random.default_rng(seed)
    label = rng.permutation(k)[rng.integers(present, size=n)]
    if levels:
        raw = rng.integers(levels, size=(n, k)) + np.eye(k)[rng.integers(k, size=n)]
    else:
        raw = rng.gamma(0.3, size=(n, k)) + 0.5 * np.eye(k)[label] * rng.random((n, 1)) + 1e-9
    return label, raw / raw.sum(axis=1, keepdims=True)


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    k = draw(st.integers(2, 8))
    return random_case(
        draw(st.integers(0, 2**32 - 1)),
        draw(st.one_of(st.just(1), st.integers(1, 12), st.integers(1, 150))),
        k,
        draw(st.integers(1, k)),
        draw(st.sampled_from([0, 0, 1, 2, 4])),
    )


def oracle(label: np.ndarray, p: np.ndarray) -> dict[str, float]:
    """The same numbers from scikit-learn and plain loops."""
    n, k = p.shape
    guess = np.array([max(range(k), key=lambda j: (p[i, j], -j)) for i in range(n)])
    present = sorted(set(label.tolist()))
    want = {
        "n": n,
        "accuracy": sk.accuracy_score(label, guess),
        "balanced_accuracy": np.mean([np.mean(guess[label == c] == c) for c in present]),
        "brier": sum((p[i, j] - (j == label[i])) ** 2 for i in range(n) for j in range(k)) / n,
        "loss": -sum(math.log(max(p[i, label[i]], 2.0**-126)) for i in range(n)) / n,
    }
    for average in ("macro", "weighted"):
        scores = sk.precision_recall_fscore_support(label, guess, labels=present, average=average, zero_division=0)
        want |= dict(zip((f"{m}_{average}" for m in ("precision", "recall", "f1")), scores[:3], strict=True))
    ece = 0.0
    for m in range(1, BINS + 1):
        member = [
            i for i in range(n) if (m - 1) / BINS < p[i, guess[i]] <= m / BINS or (m == 1 and p[i, guess[i]] == 0)
        ]
        if member:
            right = sum(guess[i] == label[i] for i in member) / len(member)
            sure = sum(p[i, guess[i]] for i in member) / len(member)
            ece += len(member) / n * abs(right - sure)
    want["ece"] = ece
    for c in range(k):
        positive, taken = label == c, guess == c
        if positive.any():
            want[f"sensitivity/c{c}"] = np.mean(taken[positive])
            want[f"average_precision/c{c}"] = sk.average_precision_score(positive, p[:, c])
        if not positive.all():
            want[f"specificity/c{c}"] = np.mean(~taken[~positive])
        if positive.any() and not positive.all():
            want[f"auroc/c{c}"] = sk.roc_auc_score(positive, p[:, c])
    if k == 2 and len(present) == 2:
        want["partial_auroc"] = challenge_metric(label, p[:, 1])
    for metric in ("auroc", "average_precision"):
        values = [v for name, v in want.items() if name.startswith(f"{metric}/")]
        if values:
            want[f"{metric}_macro"] = np.mean(values)
    return want


def challenge_metric(label: np.ndarray, score: np.ndarray) -> float:
    """ISIC 2024's metric: swap the classes, take scikit-learn's standardised partial area, and undo McClish's standard."""
    most = 1 - 0.8
    standard = sk.roc_auc_score(1 - label, 1 - score, max_fpr=most)
    smallest = most**2 / 2
    return smallest + (most - smallest) / (1 - 0.5) * (standard - 0.5)


@given(
    positive=st.lists(st.integers(0, 20), min_size=1, max_size=30),
    negative=st.lists(st.integers(0, 20), min_size=1, max_size=30),
)
def test_the_partial_area_is_that_of_the_challenge(positive: list[int], negative: list[int]) -> None:
    label = np.array([1] * len(positive) + [0] * len(negative))
    score = np.array(positive + negative) / 20
    got = partial_auroc(score, label == 1)
    assert got == pytest.approx(challenge_metric(label, score), abs=1e-12)
    assert 0 <= got <= 0.2 + 1e-12


def test_the_partial_area_of_perfect_constant_and_reversed_scores() -> None:
    label = np.array([0, 0, 0, 1, 1, 1, 1, 1]) == 1
    assert partial_auroc(label * 1.0, label) == pytest.approx(0.2)
    assert partial_auroc(np.zeros(8), label) == pytest.approx(0.02)
    assert partial_auroc(-1.0 * label, label) == 0


def check(label: np.ndarray, p: np.ndarray) -> None:
    got, want = evaluate(make_table(label, p), names(p.shape[1]), calibration_bins=BINS), oracle(label, p)
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert got[name] == pytest.approx(value, rel=1e-12, abs=1e-12), name
        assert type(got[name]) is float and math.isfinite(got[name])


@settings(max_examples=75)
@given(cases())
def test_agrees_with_scikit_learn(case: tuple[np.ndarray, np.ndarray]) -> None:
    check(*case)


@pytest.mark.parametrize("k", [2, 3, 7, 23])
def test_agrees_on_a_table_of_real_size(k: int) -> None:
    check(*random_case(k, 2000, k, k, 0))


@pytest.mark.parametrize("n", [1, 5])
def test_one_class_only_leaves_out_what_needs_two(n: int) -> None:
    label, p = np.zeros(n, dtype=int), np.full((n, 3), [0.5, 0.3, 0.2])
    got = evaluate(make_table(label, p), names(3), calibration_bins=BINS)
    assert not [name for name in got if name.startswith("auroc")]
    assert {"specificity/c1", "specificity/c2", "sensitivity/c0"} <= got.keys()
    assert not {"specificity/c0", "sensitivity/c1", "average_precision/c1"} & got.keys()
    assert got["accuracy"] == got["balanced_accuracy"] == got["f1_macro"] == 1
    assert got["ece"] == pytest.approx(0.5)
    check(label, p)


def test_perfect_and_certain() -> None:
    label = np.arange(40) % 4
    got = evaluate(make_table(label, np.eye(4)[label]), names(4), calibration_bins=BINS)
    ones = (
        "accuracy",
        "balanced_accuracy",
        "precision_macro",
        "f1_macro",
        "auroc_macro",
        "average_precision_macro",
    )
    for name in ones:
        assert got[name] == 1, name
    assert got["ece"] == got["brier"] == got["loss"] == 0


def test_certain_and_wrong_is_bad_but_finite() -> None:
    label = np.arange(40) % 4
    got = evaluate(make_table(label, np.eye(4)[(label + 1) % 4]), names(4), calibration_bins=BINS)
    assert got["accuracy"] == got["f1_macro"] == 0
    assert got["ece"] == 1 and got["brier"] == 2
    assert got["loss"] == pytest.approx(126 * math.log(2))
    json.dumps(got, allow_nan=False)


def test_a_confidence_of_one_shares_the_last_bin() -> None:
    # two in the bin (0.9, 1], right 1 of 2, mean confidence 0.96: one gap, not one for 1.0 and one for 0.92
    p = np.array([[1.0, 0.0], [0.92, 0.08]])
    got = evaluate(make_table(np.array([1, 0]), p), names(2), calibration_bins=10)
    assert got["ece"] == pytest.approx(0.46, abs=1e-12)


def test_an_absent_class_does_not_count_as_zero() -> None:
    label, p = random_case(3, 300, 5, 3, 0)
    got = evaluate(make_table(label, p), names(5), calibration_bins=BINS)
    areas = [value for name, value in got.items() if name.startswith("auroc/")]
    assert len(areas) == 3
    assert got["auroc_macro"] == pytest.approx(np.mean(areas)) and got["auroc_macro"] > 0.5


@settings(max_examples=40)
@given(cases(), st.randoms())
def test_depends_only_on_the_set_of_rows(case: tuple[np.ndarray, np.ndarray], random: object) -> None:
    table = make_table(*case)
    classes = names(case[1].shape[1])
    order = list(range(len(table)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = table.iloc[order]
    assert evaluate(table, classes, calibration_bins=BINS) == evaluate(shuffled, classes, calibration_bins=BINS)
    pd.testing.assert_frame_equal(per_class(table, classes, level=0.95), per_class(shuffled, classes, level=0.95))


@settings(max_examples=40)
@given(cases(), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_gathering_from_processes_changes_nothing(
    case: tuple[np.ndarray, np.ndarray], processes: int, seed: int
) -> None:
    """Shards padded by repeats and put together in any order give the table of one process, to the bit."""
    label, p = case
    n, k = p.shape
    rows = pd.DataFrame(
        {"image_id": [f"x{i}" for i in range(n)], "group": "g", "label": [f"c{y}" for y in label]},
        index=np.random.default_rng(seed).permutation(3 * n)[:n],
    )
    one = prediction_table(rows, rows.index.to_numpy(), p, names(k))
    padded = np.resize(np.arange(n), -(-n // processes) * processes)
    gathered = np.concatenate([padded[rank::processes] for rank in range(processes)])
    several = prediction_table(rows, rows.index.to_numpy()[gathered], p[gathered], names(k))
    pd.testing.assert_frame_equal(one, several, check_exact=True)
    assert one["image_id"].is_monotonic_increasing and len(one) == n
    by_id = one.set_index("image_id")
    for i in range(n):
        row = by_id.loc[f"x{i}"]
        assert row["label"] == f"c{label[i]}"
        assert [row[f"p_c{j}"] for j in range(k)] == p[i].tolist()


def test_ties_go_to_the_first_class_of_the_list_not_of_the_alphabet() -> None:
    rows = pd.DataFrame({"image_id": ["a"], "group": ["g"], "label": ["nv"]})
    table = prediction_table(rows, np.array([0]), np.array([[0.4, 0.4, 0.2]]), ["nv", "akiec", "df"])
    assert table["prediction"].tolist() == ["nv"]
    assert table.columns.tolist() == ["image_id", "group", "label", "prediction", "p_nv", "p_akiec", "p_df"]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_probabilities_become_float64(dtype: type) -> None:
    rows = pd.DataFrame({"image_id": ["a", "b"], "group": ["g", "h"], "label": ["x", "y"]})
    p = torch.tensor([[0.75, 0.25], [0.5, 0.5]]).numpy().astype(dtype)
    table = prediction_table(rows, np.array([1, 0]), p, ["x", "y"])
    assert table["p_x"].dtype == np.float64 and table["p_x"].tolist() == [0.5, 0.75]


def test_agrees_with_torchmetrics_to_float32() -> None:
    label, p = random_case(9, 500, 6, 6, 0)
    got = evaluate(make_table(label, p), names(6), calibration_bins=BINS)
    scores, target = torch.tensor(p), torch.tensor(label)
    want = {
        "auroc_macro": tm.multiclass_auroc(scores, target, 6),
        "average_precision_macro": tm.multiclass_average_precision(scores, target, 6),
        "ece": tm.multiclass_calibration_error(scores, target, 6, n_bins=BINS),
        "f1_macro": tm.multiclass_f1_score(scores, target, 6),
        "specificity/c2": tm.multiclass_specificity(scores, target, 6, average=None)[2],
    }
    for name, value in want.items():
        assert got[name] == pytest.approx(value.item(), abs=1e-5), name


ROWS = pd.DataFrame(
    {"image_id": ["a", "b", "c"], "group": ["1", "1", "2"], "label": ["x", "y", "x"]}, index=[10, 11, 12]
)
HALF = np.full((3, 2), 0.5)


@pytest.mark.parametrize(
    ("index", "probability", "message"),
    [
        ([10, 12], HALF[:2], "1 of 3 images have no prediction, first b"),
        ([10, 11, 12], HALF[:2], "probabilities are"),
        ([10, 11, 12], np.full((3, 3), 1 / 3), "probabilities are"),
        ([10, 11, 13], HALF, "row 13"),
        ([10, 11, 12], HALF * 2, "sum to one"),
        ([10, 11, 12], np.array([[1.5, -0.5]] * 3), "negative"),
    ],
)
def test_refuses_what_is_not_one_prediction_for_each_image(
    index: list[int], probability: np.ndarray, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        prediction_table(ROWS, np.array(index), probability, ["x", "y"])


def test_refuses_unknown_labels_and_repeated_images() -> None:
    with pytest.raises(ValueError, match="'y' is not one of"):
        prediction_table(ROWS, ROWS.index.to_numpy(), HALF, ["x", "z"])
    with pytest.raises(ValueError, match="each image"):
        prediction_table(ROWS.assign(image_id="a"), ROWS.index.to_numpy(), HALF, ["x", "y"])
    table = prediction_table(ROWS, ROWS.index.to_numpy(), HALF, ["x", "y"])
    with pytest.raises(ValueError, match="each image once"):
        evaluate(pd.concat([table, table]), ["x", "y"], calibration_bins=BINS)
    with pytest.raises(ValueError, match="at least one row"):
        evaluate(table.iloc[:0], ["x", "y"], calibration_bins=BINS)
    with pytest.raises(ValueError, match="not one of the classes"):
        evaluate(table, ["x"], calibration_bins=BINS)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_diverged_network_is_named(value: float) -> None:
    p = HALF.copy()
    p[1] = value
    with pytest.raises(UserError, match=r"not finite for 1 of 3 images, first b: the training diverged"):
        prediction_table(ROWS, ROWS.index.to_numpy(), p, ["x", "y"])


@settings(max_examples=25)
@given(cases())
def test_a_table_read_back_gives_the_same_numbers(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[np.ndarray, np.ndarray]
) -> None:
    label, p = case
    n, k = p.shape
    rows = pd.DataFrame(
        {  # names that a careless reader takes for numbers or for missing values
            "image_id": [f"{i:07d}" for i in range(n)],
            "group": ["NA" if i % 2 else "1e5" for i in range(n)],
            "label": [f"c{y}" for y in label],
        }
    )
    table = prediction_table(rows, np.arange(n), p, names(k))
    path = tmp_path_factory.mktemp("predictions") / "test.csv"
    table.to_csv(path, index=False)
    again, classes = read_predictions(path)
    assert classes == names(k)
    assert evaluate(again, classes, calibration_bins=BINS) == evaluate(table, classes, calibration_bins=BINS)
    assert again["image_id"].tolist() == table["image_id"].tolist()
    assert again["group"].tolist() == table["group"].tolist()


def test_what_is_not_a_prediction_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read predictions from .*none\.csv"):
        read_predictions(tmp_path / "none.csv")
    for text in ("", "image_id,group,label,prediction,p_x\n", "image_id,p_x\na,1\n", "a,b\n1,2\n", "p_x\nhalf\n"):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(UserError, match=r"bad\.csv"):
            read_predictions(tmp_path / "bad.csv")


def test_confusion_matrix_rows_are_labels() -> None:
    label, p = random_case(1, 200, 4, 3, 0)
    matrix = confusion_matrix(make_table(label, p), names(4))
    np.testing.assert_array_equal(matrix, sk.confusion_matrix(label, p.argmax(axis=1), labels=range(4)))


def test_per_class_agrees_with_evaluate_and_scikit_learn() -> None:
    label, p = random_case(5, 400, 5, 4, 0)
    group = np.random.default_rng(0).integers(150, size=400)
    table, guess = make_table(label, p, group), p.argmax(axis=1)
    got = per_class(table, names(5), level=0.95).set_index("class")
    flat = evaluate(table, names(5), calibration_bins=BINS)
    precision, _, f1, support = sk.precision_recall_fscore_support(label, guess, labels=range(5), zero_division=0)
    for c in range(5):
        row = got.loc[f"c{c}"]
        assert row["n"] == support[c] and row["lesions"] == len(set(group[label == c]))
        if not support[c]:
            assert row.drop(["n", "lesions", "specificity"]).isna().all()
            continue
        assert row["precision"] == pytest.approx(precision[c]) and row["f1"] == pytest.approx(f1[c])
        for name in ("sensitivity", "specificity", "auroc"):
            assert row[name] == flat[f"{name}/c{c}"]
        assert 0 <= row["sensitivity_low"] < row["sensitivity"] < row["sensitivity_high"] <= 1


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_wilson_interval_agrees_with_scipy(level: float) -> None:
    pairs = [(hits, n) for n in (1, 2, 14, 500) for hits in {0, 1, n // 2, n}]
    hits, n = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    low, high = wilson_interval(hits / n, n, level)
    for i, pair in enumerate(pairs):
        want = binomtest(*pair).proportion_ci(level, method="wilson")
        assert (low[i], high[i]) == pytest.approx((want.low, want.high), abs=1e-12)
    assert np.isnan(wilson_interval(np.array([np.nan]), np.array([0]), level)).all()
