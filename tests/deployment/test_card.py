"""Model cards of real runs, of checkpoints alone, and of names that were made to break them."""

import csv
import itertools
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import yaml
from huggingface_hub import ModelCard
from hydra import compose, initialize_config_module
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from skinkd.deployment import card_scores
from skinkd.deployment.card import JSON, MARKDOWN, write_card
from skinkd.deployment.card_checklists import ANSWERS, checklists
from skinkd.deployment.card_facts import card_facts
from skinkd.deployment.markdown import count, escaped, table
from skinkd.errors import UserError
from skinkd.inference.trained import Trained, open_trained
from skinkd.runs.folder import RunFolder
from skinkd.train import train

HTML = MarkdownIt("commonmark").enable("table")


class Card:
    """The two files of a card, read."""

    def __init__(self, folder: Path) -> None:
        self.text = (folder / MARKDOWN).read_text(encoding="utf-8")
        self.facts: dict[str, Any] = json.loads((folder / JSON).read_text(encoding="utf-8"))
        _, front, self.body = self.text.split("---\n", 2)
        self.front: dict[str, Any] = yaml.safe_load(front)


def made(trained: Trained, folder: Path, **arguments: Any) -> Card:
    if trained.config is not None and "paths" not in arguments:
        # the drawn images of the tests lie outside the folder of runs; a card reads no others
        root = trained.config["data"]["table"].get("root", "")
        arguments["paths"] = trained.config["paths"] | {"cache_dir": root}
    paths = write_card(trained, folder, **arguments)
    assert [path.name for path in paths] == [MARKDOWN, JSON] and all(path.is_file() for path in paths)
    assert sorted(path.name for path in folder.iterdir()) == sorted([MARKDOWN, JSON])
    return Card(folder)


@pytest.fixture(scope="module")
def trained(finished: Path) -> Trained:
    return open_trained(str(finished))


@pytest.fixture(scope="module")
def card(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Card:
    """The card of a run on the synthetic data; its test part is small, so a subgroup needs two lesions for a score."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(card_scores, "LEAST_LESIONS", 2)
        return made(trained, tmp_path_factory.mktemp("cards") / "card")


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the run folder, to take files out of."""
    folder = tmp_path / finished.name
    shutil.copytree(finished, folder)
    yield folder


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


def test_subgroups_are_those_of_the_metadata(card: Card, finished: Path, trained: Trained) -> None:
    assert trained.config is not None
    (metadata,) = Path(trained.config["data"]["table"]["root"]).rglob("HAM10000_metadata.csv")
    with metadata.open() as file:
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
    few = [one for one in found.facts["subgroups"]["scores"] if one["lesions"] < card_scores.LEAST_LESIONS]
    assert few and all(one["accuracy"] is one["balanced_accuracy"] is None for one in few)
    assert f"fewer than {card_scores.LEAST_LESIONS} lesions" in found.body
    assert f"No class has {card_scores.LEAST_LESIONS} lesions in any of these subgroups." in found.body


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
        *("Calibration", "Teacher and recipe", "Known limits", "Origin", "Appendix: reporting guidelines"),
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


def test_a_checkpoint_alone_has_a_card_that_says_what_is_unknown(finished: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "network.ckpt"
    shutil.copy(finished / "checkpoints" / "best.ckpt", checkpoint)
    found = made(open_trained(str(checkpoint)), tmp_path / "card")
    assert found.facts["data"] is found.facts["split"] is found.facts["recipe"] is found.facts["teacher"] is None
    assert "outside a run folder" in found.facts["results"]["reason"]
    assert "model-index" not in found.front and found.front["license"] == "unknown" and "datasets" not in found.front
    assert found.facts["model"]["training_images"] == 81 and "81 training images" in found.body
    assert ModelCard(found.text).data.eval_results is None
    answers = {
        row["answer"] for one in found.facts["checklists"] for row in one["items"] if row["where"].startswith("the run")
    }
    assert answers == {"no"} and "not a medical device" in found.body
    assert not re.search(r"\n\n\n|\bNone\b", found.body)


def test_an_unfinished_run_has_no_scores(copied: Path, tmp_path: Path) -> None:
    (copied / "metrics.json").unlink()
    found = made(open_trained(str(copied)), tmp_path / "card")
    assert "not finished" in found.facts["results"]["reason"] == found.facts["calibration"]["reason"]
    assert found.facts["data"]["parts"]["train"]["images"] == 81 and "model-index" not in found.front


def test_a_run_without_test_scores_has_none(copied: Path, tmp_path: Path) -> None:
    metrics = {k: v for k, v in RunFolder(copied).metrics().items() if not k.startswith("test/")}
    RunFolder(copied).write_json("metrics.json", metrics)
    found = made(open_trained(str(copied)), tmp_path / "card")
    assert "evaluation.test=false" in found.body and "model-index" not in found.front


def test_absent_validation_predictions_audit_and_environment_are_said_to_be_absent(
    copied: Path, tmp_path: Path
) -> None:
    for name in ("predictions/val.csv", "splits_report.json", "environment.txt"):
        (copied / name).unlink()
    found = made(open_trained(str(copied)), tmp_path / "card")
    assert "No temperature was fitted" in found.body and "| not audited |" in found.body
    assert "| Python | not known |" in found.body and "| GPU | not known |" in found.body


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.json", "{"),
        ("metrics.json", "[]"),
        ("splits_report.json", "\xff"),
        ("predictions/test.csv", "a,b\n1,2\n"),
    ],
)
def test_a_damaged_file_is_one_sentence_and_leaves_no_card(
    copied: Path, tmp_path: Path, name: str, content: str
) -> None:
    (copied / name).write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=re.escape(str(copied / name))):
        write_card(open_trained(str(copied)), tmp_path / "card")
    assert not (tmp_path / "card").exists()


def test_predictions_of_other_classes_are_refused(copied: Path, tmp_path: Path) -> None:
    path = copied / "predictions" / "test.csv"
    path.write_text(path.read_text().replace("p_mel", "p_other").replace(",mel", ",other"))
    with pytest.raises(UserError, match=r"classes .*other.* the network has .*mel"):
        write_card(open_trained(str(copied)), tmp_path / "card")


def without_metadata(trained: Trained, root: Path) -> Trained:
    assert trained.config is not None
    data = trained.config["data"]
    return trained._replace(config=trained.config | {"data": data | {"table": data["table"] | {"root": str(root)}}})


def test_metadata_that_is_gone_is_said_to_be_gone_and_is_not_drawn_again(trained: Trained, tmp_path: Path) -> None:
    found = made(without_metadata(trained, tmp_path / "gone"), tmp_path / "card")
    assert "cannot be read" in found.facts["subgroups"]["reason"] and "### By subgroup" in found.body
    assert not (tmp_path / "gone").exists()
    assert found.facts["results"]["metrics"][0]["value"] is not None


def test_a_published_dataset_has_licence_citation_and_class_names(trained: Trained, tmp_path: Path) -> None:
    moved = without_metadata(trained, tmp_path / "gone")
    assert moved.config is not None
    table = {"_target_": "skinkd.data.ham10000.load_ham10000", "root": str(tmp_path), "on_bad_image": "error"}
    data = moved.config["data"] | {"table": table, "name": "ham10000"}
    found = made(moved._replace(config=moved.config | {"data": data}), tmp_path / "card")
    assert found.front["license"] == "cc-by-nc-sa-4.0" and "excludes commercial use" in found.body
    assert "10.1038/sdata.2018.161" in found.body and "| mel | melanoma |" in found.body
    assert "skin tones" not in found.body and "equally well for all groups of people was not measured" in found.body
    assert "which images are of one patient" in found.body


@pytest.mark.parametrize(("flag", "licence"), [("dermamnist", "cc-by-nc-4.0"), ("bloodmnist", "cc-by-4.0")])
def test_a_licence_may_follow_from_the_files_that_are_chosen(
    trained: Trained, tmp_path: Path, flag: str, licence: str
) -> None:
    assert trained.config is not None
    table = {"_target_": "skinkd.data.medmnist.load_medmnist", "root": "x", "flag": flag, "size": 28, "unpacked": "y"}
    data = trained.config["data"] | {"table": table, "name": flag}
    found = made(trained._replace(config=trained.config | {"data": data}), tmp_path / "card")
    assert found.front["license"] == licence
    assert "Each image counts as a separate lesion." in found.body
    assert "neither sex, age, body site" in found.facts["subgroups"]["reason"]


def test_a_leaking_split_is_the_first_limit(copied: Path, tmp_path: Path) -> None:
    audit = json.loads((copied / "splits_report.json").read_text())
    audit |= {"groups_in_two_parts": 7, "leak_train": 0.25, "leak_train_or_val": 0.5}
    (copied / "splits_report.json").write_text(json.dumps(audit))
    trained = open_trained(str(copied))
    assert trained.config is not None
    config = trained.config | {"protocol": "image_level"}
    found = made(trained._replace(config=config), tmp_path / "card")
    assert any("The split leaks: 25.0 % of the test images" in one for one in found.facts["limits"])
    assert "without regard to lesions" in found.body and "| Lesions in more than one part | 7 |" in found.body


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


# -- the appendix


def test_every_item_of_both_guidelines_is_there_once(card: Card) -> None:
    claim, tripod = (one["items"] for one in card.facts["checklists"])
    assert [row["item"] for row in claim] == [str(k) for k in range(1, 45)]
    letters = {
        3: "abc",
        5: "ab",
        6: "abc",
        8: "abc",
        9: "abc",
        12: "abcdefg",
        18: "abcdef",
        20: "abc",
        23: "ab",
        27: "abc",
    }
    expected = [f"{k}{letter}" for k in range(1, 28) for letter in letters.get(k, [""])]
    assert [row["item"] for row in tripod] == expected and len(expected) == 52
    for row in (*claim, *tripod):
        assert row["answer"] in ANSWERS and row["topic"] and row["where"]
    assert "They are no claim that a guideline is\nfollowed" in card.body


def test_an_item_points_to_a_section_of_the_card(card: Card) -> None:
    """What begins with a capital letter is a section, or a row of one after a comma."""
    titles = set(re.findall(r"^#+ (.*)$", card.body, re.MULTILINE)) | {"By class and by subgroup"}
    for one in card.facts["checklists"]:
        for row in one["items"]:
            for place in row["where"].split("; "):
                named = re.split(r"[,:]", place)[0]
                assert not named[0].isupper() or named in titles, (row["item"], place)


def test_items_without_facts_are_not_answered(card: Card) -> None:
    bare = {**card.facts, "data": None, "results": {"reason": "x"}, "subgroups": {"reason": "x"}}
    before, after = (
        [row["answer"] for one in checklists(facts) for row in one["items"]] for facts in (card.facts, bare)
    )
    order = {"no": 0, "partly": 1, "yes": 2}
    assert all(order[a] <= order[b] for a, b in zip(after, before, strict=True))
    assert after.count("no") > before.count("no")


# -- names that were made to break a card

HOSTILE = (
    "a|b",
    "two\nlines",
    "| --- |\n| x |",
    "<script>alert(1)</script>",
    "<!-- comment",
    "[link](javascript:alert(1))",
    "![image](https://example.com/x.png)",
    "https://example.com www.example.com me@example.com",
    "`code` **bold** _italic_ ~~gone~~",
    "# title",
    "&lt;b&gt; &#124;",
    "$x^2$ \\(y\\)",
    "---",
    "{{ 7 * 7 }} {% raw %}",
    "'single' \"double\": yes",
    "\u202eevil\u2066 \x00\x1b[31m",
    "back\\slash\\| end\\",
)


def visible(markdown: str) -> str:
    """What a reader sees of Markdown on one line."""
    (inline,) = [token for token in HTML.parse(markdown) if token.type == "inline"]
    assert {child.type for child in inline.children or []} <= {"text", "text_special"}
    return "".join(child.content for child in inline.children or [])


def one_line(name: str) -> str:
    return " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", " ", name).split())


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_seen_as_it_is(name: str) -> None:
    assert visible(f"x {escaped(name)} y") == f"x {one_line(name)} y"


@given(st.text(alphabet="ab _*`[]()<>|~$#&\\!@:/.-+=w1\n\t\"'{}^", max_size=30))
@example("_a_ b_c __d__")
@example("\\|")
def test_any_name_is_seen_as_it_is_in_a_line_and_in_a_table(name: str) -> None:
    assert visible(f"x {escaped(name)} y").split() == ["x", *one_line(name).split(), "y"]
    rendered = HTML.render(str(table(["Name", "Number"], [[f"x{name}", 1], ["last", 2]], 1)))
    assert rendered.count("<table>") == 1 and rendered.count("<td") == 4
    cell = re.findall(r"<td[^>]*>(.*?)</td>", rendered)[0]
    assert "<" not in cell  # text alone, without a tag


@pytest.fixture(scope="module")
def hostile(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run on a user's folder whose class folders have hostile names, under a hostile name of the data."""
    base = tmp_path_factory.mktemp("hostile")
    rng = np.random.default_rng(0)
    for name in ("a|b", "<img src=x onerror=alert(1)>", "two\nlines", "[x](javascript:y)"):
        (base / "data" / name).mkdir(parents=True)
        for k in range(20):
            cv2.imwrite(str(base / "data" / name / f"{k}.png"), rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    words = [word for word in tiny if not word.startswith("data") and not word.startswith("trainer.max_epochs")]
    words += ["data=folder", f"data.root={base / 'data'}", "data.name='x | y <b>'", "data.image_size=64"]
    words += ["data.near_duplicate_bits=null", "data.num_workers=0", "data.batch_size=16", "trainer.max_epochs=1"]
    words += [f"run_dir={base / 'run'}"]
    with initialize_config_module(version_base="1.3", config_module="skinkd.conf"):
        train(compose("train", overrides=words))
    return open_trained(str(base / "run"))


def test_a_users_folder_with_hostile_names(hostile: Trained, tmp_path: Path) -> None:
    found = made(hostile, tmp_path / "card")
    assert found.front["datasets"] == ["x-y-b"] and ModelCard(found.text).data.eval_results
    rendered = HTML.render(found.body)
    assert not re.search(r"<(?:img|b|a|script)\b", rendered) and "<p>|" not in rendered
    for name in hostile.classes:
        assert f"| {escaped(name)} |" in found.body
    assert "no licence is stated".lower() in found.body.lower()
    for row in re.findall(r"<tr>(.*?)</tr>", rendered, re.DOTALL):
        assert "</td>" in row or "</th>" in row


def test_numbers_are_words_that_can_be_read_aloud() -> None:
    assert [count(value) for value in (12, 1234, 3379975, 70522592, 4.1e9)] == [
        *("12", "1.2 thousand", "3.4 million", "70.5 million", "4.1 billion"),
    ]
