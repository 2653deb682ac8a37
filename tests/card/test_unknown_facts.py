"""Model cards of checkpoints alone, of damaged runs, and of data with other facts."""

import json
import re
import shutil
from pathlib import Path

import pytest
from cards import made
from huggingface_hub import ModelCard

from skinkd.card.write import write_card
from skinkd.data.ham10000 import SOURCE
from skinkd.deployment.contents import describe
from skinkd.errors import UserError
from skinkd.inference.trained import Trained, open_trained
from skinkd.runs.folder import RunFolder


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
    assert "No threshold was chosen" in found.facts["abstention"]["reason"]
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


def of_dataset(trained: Trained, root: Path, name: str) -> Trained:
    """A run as if it were one on a published dataset, whose folder is empty."""
    moved = without_metadata(trained, root / "gone")
    assert moved.config is not None
    table = {"_target_": f"skinkd.data.{name}.load_{name}", "root": str(root), "on_bad_image": "error"}
    return moved._replace(config=moved.config | {"data": moved.config["data"] | {"table": table, "name": name}})


def test_a_published_dataset_has_licence_citation_and_class_names(trained: Trained, tmp_path: Path) -> None:
    found = made(of_dataset(trained, tmp_path, "ham10000"), tmp_path / "card")
    assert found.front["license"] == "cc-by-nc-sa-4.0" and "excludes commercial use" in found.body
    assert f"\n\n{SOURCE.licence_note}\n\nCite:" in found.body and "names the stricter of the two" in found.body
    assert "10.1038/sdata.2018.161" in found.body and "| mel | melanoma |" in found.body
    assert "skin tones" not in found.body and "equally well for all groups of people was not measured" in found.body
    assert "which images are of one patient" in found.body


def test_a_dataset_whose_groups_are_patients_has_no_patient_in_two_parts(trained: Trained, tmp_path: Path) -> None:
    found = made(of_dataset(trained, tmp_path, "isic2024"), tmp_path / "card")
    assert "one lesion if they show the same patient." in found.body
    assert "which images are of one patient" not in found.body


@pytest.mark.parametrize(("flag", "licence"), [("dermamnist", "cc-by-nc-4.0"), ("bloodmnist", "cc-by-4.0")])
def test_a_licence_may_follow_from_the_files_that_are_chosen(
    trained: Trained, tmp_path: Path, flag: str, licence: str
) -> None:
    assert trained.config is not None
    table = {"_target_": "skinkd.data.medmnist.load_medmnist", "root": "x", "flag": flag, "size": 28, "unpacked": "y"}
    data = trained.config["data"] | {"table": table, "name": flag}
    found = made(trained._replace(config=trained.config | {"data": data}), tmp_path / "card")
    assert found.front["license"] == licence
    settings = {"formats": ["onnx"], "input_type": "uint8", "conformal_level": 0.9}
    exported = describe(trained._replace(config=trained.config | {"data": data}), settings, exits=())
    assert exported["licence"] == found.facts["data"]["licence"], "an export and its card say the same"
    # the run is one of drawn images, several of a lesion
    assert "one lesion if the loader of the dataset puts them into one group." in found.body
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
