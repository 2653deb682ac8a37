"""The numbers of a comparison against plain loops over the runs."""

import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from run_factory import CLASSES, MakeRun
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, recall_score, roc_auc_score
from statsmodels.stats.multitest import multipletests

from skinkd.analysis.comparison import Comparison, compare, find_baselines
from skinkd.analysis.rows import group_rows
from skinkd.analysis.runs import Run, read_runs
from skinkd.analysis.statistics import mcnemar
from skinkd.errors import UserError
from skinkd.scoring.bootstrap import bootstrap_intervals
from skinkd.scoring.metrics import evaluate
from skinkd.scoring.temperature import apply_temperature, fit_temperature


def runs_of(folder: Path) -> tuple[Run, ...]:
    return read_runs([folder], output_dir=folder).runs


def comparison_of(folder: Path, **settings: object) -> Comparison:
    return compare(group_rows(runs_of(folder)), **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def comparison(stored_study: Path) -> Comparison:
    return comparison_of(stored_study)


def probabilities(table: pd.DataFrame) -> np.ndarray:
    return table[[f"p_{name}" for name in CLASSES]].to_numpy()


def test_means_and_spreads_are_those_of_the_runs(stored_study: Path, comparison: Comparison) -> None:
    scores = comparison.scores.set_index(["row", "metric"])
    for method in ("supervised", "kd", "swskd"):
        runs = [run for run in runs_of(stored_study) if run.method == method]
        expected = {
            "accuracy": [(run.test["label"] == run.test["prediction"]).mean() for run in runs],
            "balanced_accuracy": [balanced_accuracy_score(run.test["label"], run.test["prediction"]) for run in runs],
            "auroc_macro": [
                roc_auc_score(run.test["label"], probabilities(run.test), multi_class="ovr", labels=list(CLASSES))
                for run in runs
            ],
        }
        for name, values in expected.items():
            mean = sum(values) / 3
            assert scores.loc[(method, name), "mean"] == pytest.approx(mean, abs=1e-12)
            sd = (sum((value - mean) ** 2 for value in values) / 2) ** 0.5
            assert scores.loc[(method, name), "sd"] == pytest.approx(sd, abs=1e-12)
            low, high = scores.loc[(method, name), ["low", "high"]]
            assert low < mean < high


def test_one_run_has_no_spread_and_the_interval_of_its_own_metrics(make_run: MakeRun) -> None:
    folder = make_run("kd", seed=3)
    (run,) = runs_of(folder)
    scores = comparison_of(folder).scores.set_index("metric")
    assert scores["sd"].isna().all()
    expected = bootstrap_intervals(run.test, run.classes, calibration_bins=10, replicates=60, seed=3, level=0.95)
    for name, bounds in expected.items():
        assert tuple(scores.loc[name, ["low", "high"]]) == pytest.approx(bounds, abs=1e-12)


def test_differences_are_of_means_and_p_is_adjusted_over_the_rows(comparison: Comparison) -> None:
    assert comparison.baselines == {"kd": "supervised", "swskd": "supervised"}
    means = comparison.scores.set_index(["row", "metric"])["mean"]
    tests = comparison.tests
    assert set(tests["test"]) == {"paired bootstrap", "McNemar", "DeLong"}
    for _, one in tests.iterrows():
        expected = means[(one["row"], one["metric"])] - means[("supervised", one["metric"])]
        assert one["difference"] == pytest.approx(expected, abs=1e-9)
    for _, group in tests.groupby(["test", "metric"]):
        assert len(group) == 2
        assert group["p_holm"].tolist() == pytest.approx(multipletests(group["p"], method="holm")[1].tolist())
        assert (group["p_holm"] >= group["p"]).all()


def test_a_better_method_is_found_and_an_equal_one_is_not(make_run: MakeRun) -> None:
    for seed in (0, 1):
        same = {"seed": seed, "images": 400, "noise": seed, "evaluation__bootstrap_replicates": 200}
        make_run("supervised", skill=1.0, **same)
        make_run("better", skill=2.2, **same)
        folder = make_run("equal", skill=1.0, **same)
    tests = comparison_of(folder.parent).tests.set_index(["row", "test", "metric"])
    for test, metric in (("paired bootstrap", "accuracy"), ("McNemar", "accuracy"), ("DeLong", "auroc_macro")):
        assert tests.loc[("better", test, metric), "p_holm"] < 0.05
        assert tests.loc[("equal", test, metric), "difference"] == pytest.approx(0, abs=1e-12)
        assert not tests.loc[("equal", test, metric), "p_holm"] < 0.99


def test_classes_confusion_cost_and_curves_are_means_over_runs(stored_study: Path, comparison: Comparison) -> None:
    runs = [run for run in runs_of(stored_study) if run.method == "kd"]
    shares = [
        confusion_matrix(run.test["label"], run.test["prediction"], labels=list(CLASSES), normalize="true")
        for run in runs
    ]
    assert comparison.confusion["kd"] == pytest.approx(sum(shares) / 3)
    lines = comparison.per_class[comparison.per_class["row"] == "kd"].set_index("class")
    for number, name in enumerate(CLASSES):
        recalls = [
            recall_score(run.test["label"], run.test["prediction"], labels=[name], average=None)[0] for run in runs
        ]
        assert lines.loc[name, "sensitivity"] == pytest.approx(np.mean(recalls))
        assert lines.loc[name, "sensitivity"] == pytest.approx(comparison.confusion["kd"][number, number])
        assert lines.loc[name, "sensitivity_low"] < np.mean(recalls) < lines.loc[name, "sensitivity_high"]
        assert lines.loc[name, "n"] == (runs[0].test["label"] == name).sum()
    cost = comparison.cost.set_index("row").loc["kd"]
    assert (cost["runs"], cost["parameters"], cost["macs"]) == (3, 690_000, 12_300_000)
    assert cost["seconds"] == pytest.approx(3 * (10 + 11 + 12) / 3)
    curve = comparison.curves.query("row == 'kd' and metric == 'val/loss' and epoch == 2").iloc[0]
    values = [run.history.loc[1, "val/loss"] for run in runs]
    assert (curve["mean"], curve["low"], curve["high"]) == pytest.approx((np.mean(values), min(values), max(values)))


def test_a_curve_of_runs_of_different_length_is_the_mean_of_those_that_got_there(make_run: MakeRun) -> None:
    make_run("kd", seed=0, epochs=2)
    folder = make_run("kd", seed=1, epochs=4)
    curve = comparison_of(folder.parent).curves.query("metric == 'val/accuracy'")
    assert curve["runs"].tolist() == [2, 2, 1, 1]
    (last,) = [run.history["val/accuracy"].iloc[-1] for run in runs_of(folder)]
    assert curve["mean"].iloc[-1] == pytest.approx(last)


def test_temperature_is_fitted_on_each_runs_own_validation_part(stored_study: Path, comparison: Comparison) -> None:
    line = comparison.calibration.set_index("row").loc["kd"]
    runs = [run for run in runs_of(stored_study) if run.method == "kd"]
    temperatures = [fit_temperature(run.val, run.classes) for run in runs]  # type: ignore[arg-type]
    assert line["temperature"] == pytest.approx(np.mean(temperatures))
    after = [apply_temperature(run.test, run.classes, t) for run, t in zip(runs, temperatures, strict=True)]
    for name in ("ece", "loss", "brier"):
        values = [evaluate(table, CLASSES, calibration_bins=10)[name] for table in after]
        assert line[f"{name}_after"] == pytest.approx(np.mean(values))
        assert line[f"{name}_before"] == pytest.approx(np.mean([run.metrics[f"test/{name}"] for run in runs]))
    bins = comparison.reliability["kd"]["before"]
    assert bins["n"].sum() == 3 * 120
    right = sum((run.test["label"] == run.test["prediction"]).sum() for run in runs)
    assert (bins["n"] * bins["accuracy"].fillna(0)).sum() == pytest.approx(right)


def test_without_validation_predictions_there_is_no_calibration_and_it_is_said(make_run: MakeRun) -> None:
    folder = make_run("kd")
    (folder / "predictions" / "val.csv").unlink()
    comparison = comparison_of(folder)
    assert comparison.reliability == {"kd": {}} and any("no temperature" in note for note in comparison.notes)


def test_folds_count_the_images_of_every_fold_once(make_run: MakeRun) -> None:
    for method in ("supervised", "kd"):
        for fold in (0, 1):
            for seed in (0, 1):
                folder = make_run(method, seed=seed, data__fold=fold, data__folds=2, images=90)
    comparison = comparison_of(folder.parent)
    assert comparison.per_class.groupby("row")["n"].sum().to_dict() == {"kd": 180, "supervised": 180}
    values = [run.metrics["test/accuracy"] for run in runs_of(folder.parent) if run.method == "kd"]
    mean = comparison.scores.set_index(["row", "metric"]).loc[("kd", "accuracy"), "mean"]
    assert len(values) == 4 and mean == pytest.approx(np.mean(values))
    assert comparison.tests["p"].notna().all()


def test_the_order_of_the_runs_changes_nothing(stored_study: Path, comparison: Comparison) -> None:
    runs = list(runs_of(stored_study))
    random.Random(1).shuffle(runs)
    again = compare(tuple(reversed(group_rows(runs))))
    for name in ("scores", "tests", "runs", "cost", "per_class", "calibration", "abstention", "risk", "curves"):
        assert_frame_equal(getattr(comparison, name), getattr(again, name), check_exact=True)
    assert [row.label for row in again.rows] == ["supervised", "kd", "swskd"]


def test_baselines(make_run: MakeRun) -> None:
    for backbone in ("resnet18", "resnet50"):
        make_run("supervised", backbone__name=backbone)
        make_run("kd", backbone__name=backbone)
    folder = make_run("kd", backbone__name="vit")
    rows = group_rows(runs_of(folder.parent))
    found, notes = find_baselines(rows, None)
    assert found == {f"kd ({name})": f"supervised ({name})" for name in ("resnet18", "resnet50")}
    assert notes == ["Not tested, because no single supervised row has the same network and settings: kd (vit)."]
    assert find_baselines(rows, "kd (vit)")[0] == {row.label: "kd (vit)" for row in rows if row.label != "kd (vit)"}
    with pytest.raises(UserError, match="is neither a row nor a method; did you mean 'kd"):
        find_baselines(rows, "kkd")
    rows = group_rows(runs_of(folder))
    found, notes = find_baselines(rows, None)
    assert not found and "no supervised row" in notes[0]


def test_of_several_baselines_of_one_network_the_likest_is_taken(make_run: MakeRun) -> None:
    for epochs in (3, 9):
        make_run("supervised", trainer__max_epochs=epochs)
    folder = make_run("kd", trainer__max_epochs=9)
    assert comparison_of(folder.parent).baselines == {"kd": "supervised (max_epochs=9)"}
    make_run("at", trainer__max_epochs=5)  # as far from either
    comparison = comparison_of(folder.parent)
    assert "at" not in comparison.baselines and any("Not tested" in note and "at" in note for note in comparison.notes)


def test_a_baseline_with_a_setting_more_is_farther(make_run: MakeRun) -> None:
    """A setting that was added later is absent where it has its default."""
    make_run("supervised")
    make_run("supervised", loss={"label_smoothing": 0.1})
    folder = make_run("kd")
    comparison = comparison_of(folder.parent)
    assert comparison.baselines == {"kd": "supervised (label_smoothing=0)"}
    assert {row.label for row in comparison.rows} == {
        "kd",
        "supervised (label_smoothing=0)",
        "supervised (label_smoothing=0.1)",
    }


def test_a_row_that_differs_in_more_than_the_method_is_said(make_run: MakeRun) -> None:
    make_run("supervised")
    make_run("kd", seed=0, backbone__name="hybrid")
    folder = make_run("kd", seed=1, backbone__name="hybrid")
    notes = comparison_of(folder.parent).notes
    assert "kd and its baseline supervised also differ in backbone.name." in notes
    assert "kd has 2 runs, its baseline supervised 1 run." in notes


def test_runs_of_a_row_in_different_formats_are_said(make_run: MakeRun) -> None:
    """With ``auto`` the format depends on the machine, and runs of one row may come from several."""

    def run(method: str, seed: int, precision: str) -> Path:
        auto = {"trainer.precision": "auto", "channels_last": "auto"}
        fast = precision == "bf16-mixed"
        return make_run(method, seed=seed, trainer__precision=precision, channels_last=fast, given=auto)

    for seed, precision in enumerate(["bf16-mixed", "bf16-mixed", "32-true"]):
        folder = run("kd", seed, precision)
        run("supervised", seed, "bf16-mixed")
    notes = comparison_of(folder.parent).notes
    assert [note for note in notes if "formats" in note] == [
        "The runs of kd were trained in different formats: seed 0, seed 1 with trainer.precision=bf16-mixed, "
        "channels_last=true; seed 2 with trainer.precision=32-true, channels_last=false."
    ]
    run("at", 0, "32-true")
    assert (
        "at and its baseline supervised also differ in channels_last, trainer.precision."
        in comparison_of(folder.parent).notes
    )


def test_any_setting_outside_the_method_is_such_a_difference(make_run: MakeRun) -> None:
    make_run("supervised")
    make_run("kd", method__ratio=0.5)
    make_run("at", optim__lr=0.2)
    folder = make_run("rkd", trainer__max_epochs=9, augment={"a": 1, "b": 2, "c": 3, "d": {"e": 4}}, optim__lr=0.3)
    notes = comparison_of(folder.parent).notes
    assert not any("kd and" in note for note in notes if not note.startswith("rkd"))
    assert "at and its baseline supervised also differ in optim.lr." in notes
    assert (
        "rkd and its baseline supervised also differ in trainer.max_epochs, augment.a, augment.b, augment.c, "
        "2 more settings." in notes
    )


def test_mcnemar_counts_every_run_where_their_numbers_differ(make_run: MakeRun) -> None:
    make_run("supervised", seed=0)
    for seed in range(3):
        folder = make_run("kd", skill=1.0 + 0.5 * seed, seed=seed)
    runs = runs_of(folder.parent)
    sides = [[run.test for run in runs if run.method == method] for method in ("kd", "supervised")]
    assert [len(side) for side in sides] == [3, 1]
    line = comparison_of(folder.parent).tests.query("test == 'McNemar'").iloc[0]
    expected = mcnemar(*sides, CLASSES)
    assert (line["statistic"], line["p"]) == (expected.statistic, expected.p)
    assert expected != mcnemar(sides[0][:1], sides[1], CLASSES)


def test_too_few_draws_for_so_many_rows_are_said(make_run: MakeRun) -> None:
    """The least p of 60 draws is 2/61, so Holm's adjustment over two rows leaves nothing below 0.05."""
    make_run("supervised")
    folder = make_run("kd", skill=3.0)
    assert not any("draws" in note for note in comparison_of(folder.parent, metrics=["accuracy"]).notes)
    make_run("swskd", skill=3.0)
    comparison = comparison_of(folder.parent)
    assert any("60 draws" in note for note in comparison.notes)
    assert comparison.tests.query("test == 'paired bootstrap'")["p_holm"].min() > 0.05


def test_too_few_draws_for_means_over_classes_alone_are_said(make_run: MakeRun) -> None:
    """What p of a mean over classes can be least is more than 2/(R + 1): with few lesions of a class, far more."""
    draws = {"evaluation__bootstrap_replicates": 120}
    make_run("supervised", skill=0.0, **draws)
    for method in ("kd", "at"):
        folder = make_run(method, skill=9.0, **draws)
    comparison = comparison_of(folder.parent)
    tests = comparison.tests.query("test == 'paired bootstrap'")
    least = tests.groupby("metric")["p_holm"].min()
    assert least["accuracy"] == 2 * 2 / 121 and least["balanced_accuracy"] > 0.05  # as different as can be
    (note,) = [note for note in comparison.notes if "draws" in note]
    assert f"below {least['balanced_accuracy']:.2g} for balanced accuracy, F1 (macro), AUROC (macro):" in note
    assert "for accuracy" not in note and "precision" not in note
    assert not any("draws" in note for note in comparison_of(folder.parent, metrics=["accuracy", "ece"]).notes)


def test_across_test_sets_nothing_is_tested(make_run: MakeRun) -> None:
    make_run("supervised")
    folder = make_run("kd", images=90, classes=("nv", "mel", "other"))
    with pytest.raises(UserError, match="their classes"):
        comparison_of(folder.parent)
    comparison = comparison_of(folder.parent, across_test_sets=True)
    assert comparison.tests.empty and not comparison.baselines and "nothing is tested" in comparison.notes[0]
    assert comparison.confusion["kd"].shape == (3, 3) and comparison.confusion["supervised"].shape == (4, 4)


def test_runs_evaluated_otherwise_are_refused(make_run: MakeRun) -> None:
    make_run("supervised")
    folder = make_run(
        "kd", evaluation={"calibration_bins": 15, "bootstrap_replicates": 60, "interval": 0.95, "test": True}
    )
    with pytest.raises(UserError, match=r"evaluation\.calibration_bins is 10 in supervised.* and 15 in kd"):
        comparison_of(folder.parent)
    with pytest.raises(UserError, match="--metrics=acuracy"):
        comparison_of(folder, metrics=["acuracy"])
    with pytest.raises(UserError, match="--metrics names no metric; give one or more of accuracy, "):
        comparison_of(folder, metrics=[])


def test_a_class_without_test_images_is_undefined_and_not_zero(make_run: MakeRun) -> None:
    from run_factory import image_rows

    rows = image_rows(CLASSES, images=120, fold=None)
    rows = rows[rows["label"] != "akiec"]
    for method in ("supervised", "kd"):
        folder = make_run(method, rows=rows)
    comparison = comparison_of(folder.parent)
    line = comparison.per_class.query("row == 'kd' and `class` == 'akiec'").iloc[0]
    assert line["n"] == 0 and np.isnan(line["sensitivity"]) and np.isnan(line["auroc"])
    assert np.isnan(comparison.confusion["kd"][0]).all()
    assert comparison.scores.query("metric == 'balanced_accuracy'")["mean"].notna().all()
