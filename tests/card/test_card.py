"""Model cards of real runs."""

import csv
import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from cards import HTML, Card, made
from huggingface_hub import ModelCard

from skinkd.card.facts import card_facts
from skinkd.card.markdown import escaped
from skinkd.card.scores import LEAST_LESIONS
from skinkd.inference.trained import Trained, open_trained
from skinkd.runs.folder import RunFolder


def test_the_front_matter_is_what_the_hub_reads(card: Card, finished: Path) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    read = ModelCard(card.text).data
    assert read.license == "unknown" and read.datasets == ["synthetic"] and read.model_name == finished.name
    assert read.pipeline_tag == "image-classification" and "supervised" in read.tags
    found = {one.metric_type: one for one in read.eval_results}
    of_run = {
        "accuracy": "accuracy",
        "balanced_accuracy": "balanced_accuracy",
        "f1": "f1_macro",
        "roc_auc": "auroc_macro",
    }
    assert set(found) == {*of_run, "average_precision"} == set(read.metrics)
    for name, ours in of_run.items():
        result = found[name]
        assert result.metric_value == pytest.approx(metrics[f"test/{ours}"], abs=5e-5)
        assert f"{metrics[f'test/{ours}_low']:.3f} to {metrics[f'test/{ours}_high']:.3f}" in result.metric_name
        assert (result.task_type, result.dataset_split) == ("image-classification", "test")
    assert yaml.safe_load(read.to_yaml()) == card.front


def test_both_files_say_the_same(card: Card) -> None:
    facts = card.facts
    for sentence in [*facts["intended_use"], *facts["not_for"], *facts["limits"]]:
        assert f"- {escaped(sentence)}\n" in card.body
    for one in facts["results"]["classes"]:
        assert f"| {one['class']} | {one['n']} | {one['lesions']} | {one['sensitivity']:.3f} |" in card.body
    for one in facts["subgroups"]["scores"]:
        assert re.search(rf"\| {one['value']} \| .* \| {one['n']} \| {one['lesions']} \|", card.body)
    for one in facts["recipe"]:
        assert f"| {escaped(one['setting'])} | {escaped(one['value'])} |" in card.body
    for name, part in facts["data"]["parts"].items():
        title = {"train": "Training", "val": "Validation", "test": "Test"}[name]
        cells = [title, part["images"], part["groups"], *part["classes"].values()]
        assert f"| {' | '.join(map(str, cells))} |" in card.body
    assert facts["provenance"]["configuration_hash"] in card.body


def test_the_numbers_are_those_of_the_run(card: Card, finished: Path, trained: Trained) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    facts = card.facts
    for one in [*facts["results"]["metrics"], *facts["calibration"]["metrics"]]:
        assert one["value"] == metrics[f"test/{one['metric']}"]
        assert (one["low"], one["high"]) == (
            metrics[f"test/{one['metric']}_low"],
            metrics[f"test/{one['metric']}_high"],
        )
    assert facts["model"]["parameters"] == metrics["parameters"] and facts["model"]["macs"] == metrics["macs"]
    assert facts["provenance"]["configuration_hash"] == finished.name.rpartition("-")[2]
    commit = re.search(r"^commit (.*)$", (finished / "environment.txt").read_text(), re.MULTILINE)
    assert commit and facts["provenance"]["commit"] == commit[1]
    assert 0 < facts["calibration"]["temperature"] < 101 and set(facts["calibration"]["after"]) == {"ece", "brier"}


def test_abstention_is_that_of_the_runs_predictions(card: Card, finished: Path) -> None:
    """By plain counting, with the threshold that four of five validation images reach."""
    val, test = (pd.read_csv(finished / "predictions" / f"{part}.csv") for part in ("val", "test"))
    probability = [name for name in test.columns if name.startswith("p_")]
    found = card.facts["abstention"]
    assert (val[probability].max(axis=1) >= found["threshold"]).sum() == int(np.ceil(0.8 * len(val)))
    kept = test[probability].max(axis=1) >= found["threshold"]
    for one in found["classes"]:
        own = test["label"].isin([one["class"]]) | (one["class"] == "all")
        assert (one["n"], one["kept"]) == (own.sum(), (own & kept).sum())
    for point in found["curve"]:
        surest = test[probability].max(axis=1).nlargest(round(point["coverage"] * len(test)), keep="all").index
        assert len(surest) == round(point["coverage"] * len(test))
        right = (test["label"] == test["prediction"])[surest].mean()
        assert point["accuracy"] == pytest.approx(right)
        assert f"| {point['coverage']:.3f} | {right:.3f} |" in card.body
    assert 0 <= found["aurc_excess"] <= found["aurc"] <= 1 and f"{found['aurc']:.4f}" in card.body


def test_subgroups_are_those_of_the_metadata(card: Card, finished: Path, synthetic_folder: Path) -> None:
    with (synthetic_folder / "HAM10000_metadata.csv").open() as file:
        known = {row["image_id"]: row for row in csv.DictReader(file)}
    test = pd.read_csv(finished / "predictions" / "test.csv", dtype=str)
    for ours, column in (("sex", "sex"), ("body_site", "localization"), ("confirmation", "dx_type")):
        value = test["image_id"].map(lambda one, column=column: known[one][column] or "unknown")
        rows = {one["value"]: one for one in card.facts["subgroups"]["scores"] if one["property"] == ours}
        assert set(rows) == set(value)
        for name, row in rows.items():
            part = test[(value == name).to_numpy()]
            assert (row["n"], row["lesions"]) == (len(part), part["group"].nunique())
            right = (part["label"] == part["prediction"]).mean()
            assert row["accuracy"] == (pytest.approx(right) if row["lesions"] >= 2 else None)
    ages = test["image_id"].map(lambda one: known[one]["age"])
    middle = ages[ages != ""].astype(float).between(45, 59.99).sum()
    band = next(one for one in card.facts["subgroups"]["scores"] if one["value"] == "45 to 59")
    assert band["n"] == middle > 0


def test_too_few_lesions_have_numbers_and_no_score(trained: Trained, tmp_path: Path) -> None:
    found = made(trained, tmp_path / "card")
    few = [one for one in found.facts["subgroups"]["scores"] if one["lesions"] < LEAST_LESIONS]
    assert few and all(one["accuracy"] is one["balanced_accuracy"] is None for one in few)
    assert f"fewer than {LEAST_LESIONS} lesions" in found.body
    assert f"No class has {LEAST_LESIONS} lesions in any of these subgroups." in found.body


def test_the_same_run_gives_the_same_bytes(trained: Trained, tmp_path: Path) -> None:
    first, second = (made(trained, tmp_path / name) for name in ("first", "second"))
    assert first.text == second.text and first.facts == second.facts


def test_a_card_shows_no_path_of_the_machine(card: Card, finished: Path, trained: Trained) -> None:
    assert trained.config is not None
    places = [str(finished.parent), *map(str, trained.config["paths"].values()), trained.config["data"]["root"]]
    for place in [one for one in places if Path(one).is_absolute()]:
        assert place not in card.text and place not in json.dumps(card.facts)


def test_the_sections_stand_in_order_and_no_level_of_heading_is_skipped(card: Card) -> None:
    headings = re.findall(r"^(#+) (.*)$", card.body, re.MULTILINE)
    assert [title for marks, title in headings if marks == "##"] == [
        *(
            "At a glance",
            "Intended use",
            "What it is not for",
            "Data",
            "Split and leak audit",
            "Scores on the test part",
        ),
        *(
            "Calibration",
            "Abstention",
            "Teacher and recipe",
            "Known limits",
            "Origin",
            "Appendix: reporting guidelines",
        ),
    ]
    levels = [len(marks) for marks, _ in headings]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert "not a medical device" in card.body.split("\n\n")[1]
    assert not re.search(r"\n\n\n|[ \t]\n|\bNone\b|\bnan\b", card.body)


def test_every_table_is_a_table_with_a_different_title_for_each_column(card: Card) -> None:
    rendered = HTML.render(card.body)
    assert rendered.count("<table>") == len(re.findall(r"^\| ---", card.body, re.MULTILINE)) > 10
    assert "<p>|" not in rendered
    for header in re.findall(r"<thead>(.*?)</thead>", rendered, re.DOTALL):
        titles = re.findall(r"<th[^>]*>(.*?)</th>", header)
        assert all(titles) and len(set(titles)) == len(titles)


def test_the_teacher_and_its_scores(train_tiny: Any, finished: Path, tmp_path: Path) -> None:
    train_tiny(
        *(tmp_path / "outputs", "method=kd", f"method.teacher.ckpt={finished}", "backbone.drop_rate=0.1"),
        *("trainer.max_epochs=1", "evaluation.bootstrap_replicates=20"),
    )
    (run,) = (tmp_path / "outputs").glob("kd-*")
    found = made(open_trained(str(run)), tmp_path / "card")
    metrics = RunFolder(finished).metrics()
    teacher = found.facts["teacher"]
    assert teacher["run"] == finished.name and teacher["scores"]["accuracy"] == metrics["test/accuracy"]
    assert f"accuracy {metrics['test/accuracy']:.3f}" in found.body and "Hinton" in found.body
    assert "temperature 5.0" in found.body and str(finished.parent) not in found.text


def test_a_method_that_is_our_reconstruction_is_called_that(trained: Trained) -> None:
    assert trained.config is not None
    method = trained.config["method"] | {"_target_": "skinkd.methods.swskd.SWSKD", "name": "swskd"}
    facts = card_facts(
        trained._replace(config=trained.config | {"method": method}), paths=None, export=None, export_notes=()
    )
    assert "our reconstruction" in facts["model"]["method_description"]
    other = trained.config["method"] | {"_target_": "somebody.methods.Theirs"}
    facts = card_facts(
        trained._replace(config=trained.config | {"method": other}), paths=None, export=None, export_notes=()
    )
    assert facts["model"]["method_description"] == ""


def test_scores_before_and_after_export_are_shown_as_given(trained: Trained, tmp_path: Path) -> None:
    export = pd.DataFrame({"Measure": ["size | MB", "accuracy"], "fp32": [145.1, 0.5], "int8": [np.nan, 0.25]})
    found = made(trained, tmp_path / "card", export=export, export_notes=["int8 | is <slower>."])
    assert "## Before and after export" in found.body
    assert "- int8 \\| is \\<slower\\>.\n\n| Measure | fp32 | int8 |\n| --- | ---: | ---: |\n" in found.body
    assert "| size \\| MB | 145 | – |\n| accuracy | 0.500 | 0.250 |" in found.body
    assert found.facts["export"]["rows"][0] == {"Measure": "size | MB", "fp32": 145.1, "int8": None}
