"""A whole export of a finished run: the contract of its folder, its numbers, and what a failure leaves."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_once  # noqa: F401
import onnxruntime
import pandas as pd
import pytest
from hydra import compose, initialize_config_module
from networks import network
from omegaconf import DictConfig, OmegaConf

import skinkd.export
from skinkd.data.files import read_image
from skinkd.data.transforms import eval_pipeline
from skinkd.deployment.contents import describe
from skinkd.deployment.folder import export_run, trained_exits
from skinkd.deployment.images import calibration_paths, run_images
from skinkd.errors import UserError
from skinkd.inference.trained import open_trained
from skinkd.runs.folder import RunFolder
from skinkd.scoring.conformal import fit_conformal, from_plain
from skinkd.scoring.predictions import read_predictions
from skinkd.scoring.temperature import fit_temperature


def settings(*words: str) -> DictConfig:
    with initialize_config_module(version_base="1.3", config_module="skinkd.conf"):
        return compose("export", overrides=["latency.rounds=3", "latency.seconds=0", *words])


def run_export(*words: str) -> bool:
    return export_run(OmegaConf.to_container(settings(*words), resolve=True))  # type: ignore[arg-type]


@pytest.fixture(scope="module", autouse=True)
def paths(synthetic_root: Path) -> Iterator[dict[str, str]]:
    """The folders of the command; the drawn data lies in one of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKINKD_OUTPUT_DIR", str(synthetic_root.parent))
        yield {name: str(synthetic_root.parent) for name in ("data_dir", "output_dir", "cache_dir")}


@pytest.fixture(scope="module")
def exported(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "lesions"
    run_export(f"run={finished}", f"out={out}", "limits.agreement=0", "limits.balanced_accuracy_loss=1")
    return out


def lines_of(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "before_after.csv").set_index("name")


def test_the_folder_is_complete_and_nothing_is_beside_it(exported: Path, finished: Path) -> None:
    assert {path.name for path in exported.iterdir()} == {
        *("model.onnx", "model_int8.onnx", "read_image.py", "preprocess.json", "golden", "golden.json"),
        *("MODEL_CARD.md", "model_card.json"),
        *("before_after.csv", "before_after.json", "export.json", "README.md"),
    }
    assert list(exported.parent.iterdir()) == [exported]
    assert not (finished / "export").exists()
    for file in ("README.md", "export.json", "before_after.json", "golden.json"):
        assert str(finished.parent) not in (exported / file).read_text("utf-8")


def test_what_export_json_says(exported: Path, finished: Path) -> None:
    facts = json.loads((exported / "export.json").read_text("utf-8"))
    trained = open_trained(str(finished))
    assert facts["classes"] == list(trained.classes) and facts["image_size"] == 32
    assert facts["files"] == {"fp32": "model.onnx", "int8": "model_int8.onnx"}
    assert facts["input"] == {"name": "image", "dtype": "uint8", "layout": "NCHW", "colours": "RGB"}
    assert facts["outputs"] == {"logits": "logits", "probabilities": "probabilities"}
    assert facts["licence"] == "none of others" and facts["early_exit"] is None
    assert facts["run"]["name"] == finished.name and facts["run"]["name"].endswith(facts["run"]["configuration"])
    assert facts["int8"]["within_limits"] is True
    for name in facts["files"].values():
        session = onnxruntime.InferenceSession(exported / name)
        metadata = {
            key: json.loads(v) if v[0] in "[{" else v for key, v in session.get_modelmeta().custom_metadata_map.items()
        }
        assert metadata["classes"] == facts["classes"] and metadata["run"] == facts["run"]
        assert metadata["licence"] == facts["licence"] and metadata["preprocess"]["image_size"] == 32
        (given,) = session.get_inputs()
        assert (given.type, given.shape[1:]) == ("tensor(uint8)", [3, 32, 32])


def test_what_is_fitted_on_validation_is_fitted_on_the_runs_table(exported: Path, finished: Path) -> None:
    facts = json.loads((exported / "export.json").read_text("utf-8"))
    table, classes = read_predictions(finished / "predictions" / "val.csv")
    assert facts["temperature"] == fit_temperature(table, classes)
    sets, expected = from_plain(facts["conformal"]), fit_conformal(table, classes, level=0.9)
    assert sets.level == 0.9 and sets.by_class and sets.n.tolist() == expected.n.tolist()
    assert sets.threshold.tolist() == expected.threshold.tolist()


def test_the_card_has_the_table(exported: Path) -> None:
    lines = pd.read_csv(exported / "before_after.csv").set_index("name")
    card = json.loads((exported / "model_card.json").read_text("utf-8"))["export"]
    rows = {row["Measure"]: row for row in card["rows"]}
    assert len(rows) == len(lines)
    assert rows["accuracy"]["int8"] == pytest.approx(lines.loc["accuracy", "int8"])
    assert rows["Sensitivity, nv"]["Images"] == lines.loc["sensitivity/nv", "n"]
    assert any("same prediction" in note for note in card["notes"])
    assert "| accuracy |" in (exported / "MODEL_CARD.md").read_text("utf-8")


def test_the_numbers_are_those_of_the_files_and_of_the_run(
    exported: Path, finished: Path, paths: dict[str, str]
) -> None:
    lines = lines_of(exported)
    stored = json.loads((finished / "metrics.json").read_text())
    test = pd.read_csv(finished / "predictions" / "test.csv")
    for name in ("accuracy", "balanced_accuracy", "auroc_macro", "ece"):
        assert lines.loc[name, "torch"] == pytest.approx(stored[f"test/{name}"], abs=1e-6)
        assert lines.loc[name, "n"] == len(test)
    classes = json.loads((exported / "export.json").read_text())["classes"]
    rows = run_images(open_trained(str(finished)), paths)
    files = rows.set_index("image_id").loc[test["image_id"], "path"]
    images = np.stack([eval_pipeline(image_size=32)(image=read_image(path))["image"] for path in files])
    found = {}
    for name in ("model.onnx", "model_int8.onnx"):
        session = onnxruntime.InferenceSession(exported / name)
        (found[name],) = session.run(["probabilities"], {"image": images.transpose(0, 3, 1, 2)})
    assert np.abs(found["model.onnx"] - test[[f"p_{name}" for name in classes]].to_numpy()).max() <= 1e-5
    predicted = {name: np.array(classes)[values.argmax(axis=1)] for name, values in found.items()}
    right = {name: values == test["label"].to_numpy() for name, values in predicted.items()}
    assert lines.loc["accuracy", "int8"] == pytest.approx(right["model_int8.onnx"].mean())
    assert lines.loc["accuracy", "difference"] == pytest.approx(
        right["model_int8.onnx"].mean() - right["model.onnx"].mean(), abs=1e-12
    )
    for name in set(test["label"]):
        of_class = (test["label"] == name).to_numpy()
        line = lines.loc[f"sensitivity/{name}"]
        assert line["n"] == of_class.sum()
        assert line["int8"] == pytest.approx(right["model_int8.onnx"][of_class].mean())
        assert line["fp32"] == pytest.approx(right["model.onnx"][of_class].mean())
        assert line["low"] <= line["difference"] <= line["high"]
    told = json.loads((exported / "before_after.json").read_text())
    same = (predicted["model.onnx"] == predicted["model_int8.onnx"]).mean()
    assert told["agreement"]["same_prediction"] == pytest.approx(same)
    change = np.abs(found["model.onnx"] - found["model_int8.onnx"]).max()
    assert told["agreement"]["largest_change"] == pytest.approx(change, abs=1e-6)
    assert lines.loc["size_mb", "int8"] == pytest.approx((exported / "model_int8.onnx").stat().st_size / 1e6)
    assert lines.loc["parameters_millions", "torch"] == pytest.approx(stored["parameters"] / 1e6)
    assert lines.loc["macs_millions", "torch"] == pytest.approx(stored["macs"] / 1e6)
    assert (lines.loc[["latency_1_ms", "latency_32_ms"], ["torch", "fp32", "int8"]] > 0).all(axis=None)


READ = """
import json, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "skinkd", "timm", "albumentations", "PIL"):
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocked())
import numpy as np, onnxruntime
from read_image import read_image
session = onnxruntime.InferenceSession("model.onnx")
classes = json.load(open("export.json"))["classes"]
expected = json.load(open("golden.json"))
for path, shares in expected.items():
    (found,) = session.run(["probabilities"], {"image": read_image(path)[None]})
    assert np.abs(found[0] - [shares[name] for name in classes]).max() <= 1e-5, path
assert len(expected) == 3 and not {"torch", "skinkd"} & set(sys.modules)
print("all golden")
"""


def test_the_reader_and_the_file_give_the_golden_probabilities_without_us(exported: Path) -> None:
    done = subprocess.run([sys.executable, "-c", READ], cwd=exported, capture_output=True, text=True, timeout=120)
    assert done.stdout == "all golden\n", done.stderr


def test_the_readme_has_a_program_that_runs(exported: Path) -> None:
    text = (exported / "README.md").read_text("utf-8")
    program = text.partition("```python\n")[2].partition("\n```")[0]
    done = subprocess.run([sys.executable, "-c", program], cwd=exported, capture_output=True, text=True, timeout=120)
    golden = json.loads((exported / "golden.json").read_text())["golden/mel.png"]
    assert eval(done.stdout) == pytest.approx(golden, abs=1e-5), done.stderr
    assert "not a medical device" in text and "| accuracy |" in text


def test_the_same_run_gives_the_same_networks_and_replaces_an_earlier_export(
    exported: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what int8 loses stands in the first line, with exit code 1, unless it is accepted."""
    words = [f"run={finished}", f"out={tmp_path / 'a'}", "formats=[onnx,torch]", "limits.balanced_accuracy_loss=-1"]
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "export.json").write_text("{}")
    (tmp_path / "a" / "old.onnx").write_text("old")
    with pytest.raises(UserError, match="is there already; give another out, or force=true"):
        run_export(*words)
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        skinkd.export.export(settings(*words, "force=true"))
    assert end.value.code == 1
    assert capsys.readouterr().out.startswith("warning: the balanced accuracy of int8 may be ")
    assert list(tmp_path.iterdir()) == [tmp_path / "a"] and not (tmp_path / "a" / "old.onnx").exists()
    for name in ("model.onnx", "model_int8.onnx", "golden/nv.png"):
        assert (exported / name).read_bytes() == (tmp_path / "a" / name).read_bytes()
    assert (tmp_path / "a" / "model.pt2").stat().st_size > 1000
    facts = json.loads((tmp_path / "a" / "export.json").read_text())
    assert facts["int8"]["within_limits"] is False and facts["files"]["torch"] == "model.pt2"
    assert (tmp_path / "a" / "README.md").read_text("utf-8").startswith("**Warning:** the balanced accuracy of int8")


def test_a_failure_leaves_the_earlier_export_and_nothing_else(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "export.json").write_text("{}")
    with pytest.raises(UserError, match=r"differs from the run's on its \d+ test images.*limits\.probability"):
        run_export(f"run={finished}", f"out={out}", "force=true", "limits.probability=-1")
    assert list(tmp_path.iterdir()) == [out] and list(out.iterdir()) == [out / "export.json"]
    assert (out / "export.json").read_text() == "{}"


def test_exits_and_their_threshold_ride_along(finished: Path, tmp_path: Path) -> None:
    run, hybrid = RunFolder(tmp_path), network("mskd_student", "backbone.conv_branch=test_efficientnet")
    trained = open_trained(str(finished))._replace(network=hybrid, run=run)
    words: Any = OmegaConf.to_container(settings("run=x", "exits=true", "early_exit_threshold=0.8"), resolve=True)
    run.write_json("metrics.json", {"test/accuracy": 0.5})
    with pytest.raises(UserError, match=r"has no trained exits"):
        trained_exits(trained, words)
    run.write_json("metrics.json", {"test/exit_1/accuracy": 0.5, "test/exit_2/accuracy": 0.5})
    exits = trained_exits(trained, words)
    facts = describe(trained, words, exits=exits)
    assert list(facts["outputs"]) == ["logits", "probabilities", "exit_1", "exit_2"]
    assert facts["early_exit"]["threshold"] == 0.8 and facts["early_exit"]["order"] == ["exit_1", "exit_2"]
    assert 0 < facts["early_exit"]["macs"]["exit_1"] < facts["early_exit"]["macs"]["whole network"]
    assert facts["run"]["commit"] == "unknown"


def test_calibration_images_are_training_images(finished: Path, paths: dict[str, str]) -> None:
    rows = run_images(open_trained(str(finished)), paths)
    train = set(rows["path"][rows["split"] == "train"])
    assert set(calibration_paths(rows, images=1000, seed=0)) == train
    few = calibration_paths(rows, images=20, seed=0)
    assert len(set(few)) == 20 and set(few) < train
    assert few == calibration_paths(rows, images=20, seed=0) != calibration_paths(rows, images=20, seed=1)


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("formats=[torch]", r"lacks onnx"),
        ("formats=[onnx,tflite]", r"formats=tflite is not a valid value"),
        ("input_type=int8", r"input_type=int8 is not a valid value"),
        ("int8.calibration_images=100", r"int8\.calibration_images=100 is out of range.*at least 200"),
        ("exits=true", r"has no trained exits; leave exits out"),
        ("latency.threads=0", r"latency\.threads=0 is out of range"),
        ("run=/nowhere", r"run=/nowhere is neither a run folder"),
    ],
)
def test_a_wrong_setting_is_one_sentence(word: str, sentence: str, finished: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        run_export(f"run={finished}", f"out={tmp_path / 'a'}", word)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_somebody_else_is_never_replaced(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match=r"photos is there already; give another out$"):
        run_export(f"run={finished}", f"out={tmp_path / 'photos'}", "force=true")


def test_an_unfinished_run_is_named(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.ckpt").symlink_to(finished / "checkpoints" / "best.ckpt")
    with pytest.raises(UserError, match=r"is no finished run folder with predictions/test\.csv"):
        run_export(f"run={tmp_path}")


def test_data_that_has_gone_is_named(finished: Path, paths: dict[str, str]) -> None:
    trained = open_trained(str(finished))
    assert trained.config is not None
    table: Any = trained.config["data"]["table"] | {"images": 100}  # the run had 120
    config = trained.config | {"data": trained.config["data"] | {"table": table}}
    with pytest.raises(
        UserError, match=r"images of run=.* are no longer in its data, such as SYN_\d+; restore the data"
    ):
        run_images(trained._replace(config=config), paths)


def test_without_the_packages_it_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skinkd.export, "find_spec", lambda name: None if name == "onnxscript" else True)
    with pytest.raises(UserError, match=r"needs onnxscript; run pip install 'skinkd\[export\]'"):
        skinkd.export.export(settings("run=x"))
