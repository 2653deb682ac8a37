"""The main job from command to run folder."""

import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
import train_process
import yaml
from sklearn import metrics as sk
from train_process import metrics_of, only_run

from skinkd.data.ham10000_folder import CLASSES
from skinkd.errors import UserError
from skinkd.runs.folder import RunFolder

Trained = Callable[..., Path]
FILES = {
    "config.yaml",
    "metrics.json",
    "history.csv",
    "splits.csv",
    "environment.txt",
    "curves.png",
    "confusion_matrix.png",
    "predictions/val.csv",
    "predictions/test.csv",
    "checkpoints/best.ckpt",
    "checkpoints/last.ckpt",
}


def predictions(folder: Path, part: str) -> pd.DataFrame:
    return pd.read_csv(folder / "predictions" / f"{part}.csv", dtype={"image_id": str, "group": str})


def test_a_finished_run_leaves_every_file_and_nothing_unfinished(finished: Path) -> None:
    found = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    assert found >= FILES
    assert {name for name in found if Path(name).name.startswith(".")} == {".lock"}
    for name in ("curves.png", "confusion_matrix.png"):
        picture = cv2.imread(str(finished / name))
        assert picture is not None and picture.std() > 1
    assert f"torch=={torch.__version__.split('+')[0]}" in (finished / "environment.txt").read_text()


def test_history_has_a_row_an_epoch(finished: Path) -> None:
    history = pd.read_csv(finished / "history.csv")
    assert history["epoch"].tolist() == [1, 2]
    columns = {
        "train/ce",
        "train/loss",
        "val/loss",
        "val/accuracy",
        "val/auroc_macro",
        "lr",
        "seconds",
        "images_per_second",
    }
    assert columns <= set(history.columns)
    # supervised: the loss is its one term
    np.testing.assert_allclose(history["train/loss"], history["train/ce"], rtol=1e-6)
    assert (history["images_per_second"] > 0).all()


@pytest.mark.parametrize("part", ["val", "test"])
def test_metrics_are_those_of_the_predictions(finished: Path, part: str) -> None:
    numbers, table = metrics_of(finished), predictions(finished, part)
    probability = table[[f"p_{name}" for name in CLASSES]].to_numpy()
    label, prediction = table["label"], table["prediction"]
    assert set(label) == set(CLASSES)
    np.testing.assert_allclose(probability.sum(axis=1), 1, atol=1e-5)
    assert (np.array(CLASSES)[probability.argmax(axis=1)] == prediction).all()

    one_hot = np.array([[name == one for name in CLASSES] for one in label], dtype=float)
    confidence, right = probability.max(axis=1), (label == prediction).to_numpy()
    ece = 0.0
    for m in range(15):
        inside = (confidence > m / 15) & (confidence <= (m + 1) / 15)
        if inside.any():
            ece += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    expected = {
        "accuracy": sk.accuracy_score(label, prediction),
        "balanced_accuracy": sk.balanced_accuracy_score(label, prediction),
        "auroc_macro": np.mean([sk.roc_auc_score(one_hot[:, k], probability[:, k]) for k in range(7)]),
        "average_precision_macro": np.mean(
            [sk.average_precision_score(one_hot[:, k], probability[:, k]) for k in range(7)]
        ),
        "brier": ((probability - one_hot) ** 2).sum(axis=1).mean(),
        "loss": sk.log_loss(label, probability / probability.sum(axis=1, keepdims=True), labels=list(CLASSES)),
        "ece": ece,
        "n": len(table),
    }
    for mean in ("macro", "weighted"):
        scores = sk.precision_recall_fscore_support(label, prediction, average=mean, zero_division=0)
        expected |= {f"{n}_{mean}": v for n, v in zip(("precision", "recall", "f1"), scores[:3], strict=True)}
    recalls = sk.recall_score(label, prediction, labels=list(CLASSES), average=None, zero_division=0)
    for k, name in enumerate(CLASSES):
        expected[f"sensitivity/{name}"] = recalls[k]
        expected[f"specificity/{name}"] = (prediction != name)[label != name].mean()
    for name, value in expected.items():
        assert numbers[f"{part}/{name}"] == pytest.approx(value, abs=1e-6), name


def test_metrics_are_flat_numbers(finished: Path) -> None:
    numbers = metrics_of(finished)
    assert all(isinstance(value, int | float) for value in numbers.values())
    for name in ("accuracy", "balanced_accuracy", "f1_macro", "auroc_macro", "ece"):
        assert numbers[f"test/{name}_low"] <= numbers[f"test/{name}"] <= numbers[f"test/{name}_high"]
    history = pd.read_csv(finished / "history.csv")
    assert numbers["epochs"] == 2
    assert numbers["best_epoch"] == history["epoch"][history["val/auroc_macro"].idxmax()]
    # the selected checkpoint, not the last one, is what is reported
    best = history.set_index("epoch").loc[numbers["best_epoch"]]
    assert numbers["val/loss"] == pytest.approx(best["val/loss"], rel=1e-6)


def test_no_lesion_is_in_two_parts_and_predictions_are_of_their_part(finished: Path) -> None:
    splits = pd.read_csv(finished / "splits.csv", dtype=str)
    assert list(splits.columns) == ["image_id", "group", "split"]
    assert len(splits) == 120 and splits["image_id"].is_unique
    assert set(splits["split"]) == {"train", "val", "test"}
    assert splits.groupby("group")["split"].nunique().max() == 1
    assert splits.groupby("group").size().max() > 1  # there are lesions that could have leaked
    for part in ("val", "test"):
        own = splits[splits["split"] == part].sort_values("image_id")
        table = predictions(finished, part)
        assert table["image_id"].tolist() == own["image_id"].tolist()
        assert table["group"].tolist() == own["group"].tolist()


def test_the_configuration_is_stored_resolved_and_plain(finished: Path) -> None:
    text = (finished / "config.yaml").read_text()
    assert "${" not in text and "!!" not in text
    config = yaml.safe_load(text)
    assert config["method"]["name"] == "supervised" and config["data"]["table"]["images"] == 120


def test_a_finished_run_run_again_says_so_and_touches_nothing(
    trained: Trained, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    assert trained(output=finished.parent) == finished
    assert "finished already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_force_trains_again_and_elsewhere_gives_the_same_bytes(
    trained: Trained, finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "outputs" / finished.name
    shutil.copytree(finished, folder)
    for name in ("metrics.json", "checkpoints/best.ckpt", "checkpoints/last.ckpt"):
        (folder / name).write_text("{}")
    (folder / "left.txt").write_text("from before")
    assert trained("force=true") == folder
    assert not (folder / "left.txt").exists()
    for name in ("metrics.json", "splits.csv", "predictions/val.csv", "predictions/test.csv"):
        assert (folder / name).read_bytes() == (finished / name).read_bytes()


def test_run_dir_is_where_the_run_goes_and_is_not_given_to_another_configuration(
    trained: Trained, finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(finished, folder)
    (folder / "metrics.json").unlink()
    before = (folder / "config.yaml").read_bytes()
    with pytest.raises(UserError, match="another configuration; give another run_dir, or force=true"):
        trained(f"run_dir={folder}", "seed=5")
    assert (folder / "config.yaml").read_bytes() == before
    assert (folder / "checkpoints" / "last.ckpt").read_bytes() == (finished / "checkpoints" / "last.ckpt").read_bytes()


def test_run_dir_of_a_finished_run_of_another_configuration_is_not_taken_for_this_one(
    trained: Trained, finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(finished, folder)
    with pytest.raises(UserError, match="another configuration"):
        trained(f"run_dir={folder}", "seed=5")


def test_a_second_process_on_the_same_folder_is_refused(
    job: Callable[..., train_process.Result], finished: Path, tmp_path: Path
) -> None:
    path = tmp_path / "outputs" / finished.name
    first = RunFolder(path)
    splits = pd.read_csv(finished / "splits.csv", dtype=str)
    first.open(yaml.safe_load((finished / "config.yaml").read_text()), splits, force=False)
    second = job()
    assert second.code == 2
    assert (
        second.err
        == f"error: another process is running in {path}; wait for it, or change the configuration or run_dir\n"
    )
    assert sorted(entry.name for entry in path.iterdir()) == [".lock", "config.yaml", "splits.csv"]


def test_the_stored_configuration_rebuilds_the_run(trained: Trained, tmp_path: Path) -> None:
    first = trained("method=tsskd", "augment=rga", "backbone.head=mlp", "optim=sgd_polynomial", "trainer.max_epochs=1")
    metrics = (first / "metrics.json").read_bytes()
    stored = shutil.copy(first / "config.yaml", tmp_path / "stored.yaml")
    shutil.rmtree(first)
    again = trained(f"config={stored}", output=tmp_path / "elsewhere")  # where the command says, and not the file
    assert again == tmp_path / "elsewhere" / first.name and not first.exists()
    assert (again / "metrics.json").read_bytes() == metrics


# the runs of test_midepoch.py that were killed with two loading processes end with the bytes of one that had none
@pytest.mark.slow
def test_two_workers_give_the_same_bytes_as_none(trained: Trained, tmp_path: Path) -> None:
    same = ["method=tsskd", "backbone.drop_rate=0.2"]  # tsskd: two augmented views of each image
    none = trained(*same, output=tmp_path / "none")
    two = trained(*same, "data.num_workers=2", output=tmp_path / "two")
    assert none.name == two.name
    assert (none / "metrics.json").read_bytes() == (two / "metrics.json").read_bytes()
    assert (none / "predictions/test.csv").read_bytes() == (two / "predictions/test.csv").read_bytes()


def test_another_seed_is_another_run_on_the_same_split(trained: Trained, finished: Path) -> None:
    other = trained("seed=1")
    assert other.name != finished.name and "seed1" in other.name
    assert metrics_of(other)["test/loss"] != metrics_of(finished)["test/loss"]
    assert (other / "splits.csv").read_bytes() == (finished / "splits.csv").read_bytes()


def test_a_fold_is_a_run_of_its_own(trained: Trained) -> None:
    folder = trained("data.fold=0", "data.folds=3", "trainer.max_epochs=1", "trainer.limit_train_batches=1")
    assert "-fold0-" in folder.name
    share = pd.read_csv(folder / "splits.csv")["split"].value_counts(normalize=True)
    assert all(0.2 < share[part] < 0.45 for part in ("train", "val", "test"))


def test_the_leaky_protocol_says_what_it_leaks(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    folder = trained("protocol=image_level", "trainer.max_epochs=1", "trainer.limit_train_batches=1")
    splits = pd.read_csv(folder / "splits.csv", dtype=str)
    train = set(splits["group"][splits["split"] == "train"])
    test = splits[splits["split"] == "test"]
    leak = test["group"].isin(train).mean()
    assert leak > 0
    metrics = metrics_of(folder)
    assert metrics["split/leak_train"] == pytest.approx(leak)
    assert metrics["split/groups_in_two_parts"] == (splits.groupby("group")["split"].nunique() > 1).sum() > 0
    assert "split/near_duplicates_val-train" in metrics
    assert f"protocol=image_level leaks: {leak:.1%} of the {len(test)} test images" in capsys.readouterr().out


def test_a_process_prints_the_table_the_run_folder_and_what_comes_next(
    job: Callable[..., train_process.Result], tmp_path: Path
) -> None:
    result = job("trainer.enable_progress_bar=true", "method=swskd", "data.image_size=64")
    assert result.code == 0, result.err
    folder = only_run(tmp_path / "outputs")
    lines = result.out.splitlines()
    assert lines[lines.index("run folder:") + 1] == str(folder)
    (compare,) = [line for line in lines if "skinkd.compare" in line]
    python, dash, module, *words = shlex.split(compare)
    assert (dash, module) == ("-m", "skinkd.compare")
    assert os.path.samefile(tmp_path / "job" / python if "/" in python else shutil.which(python) or "", sys.executable)
    pasted = train_process.run(words, folder=tmp_path / "compare", module=module)
    assert pasted.code == 0 and (tmp_path / "outputs/comparison/report.html").is_file(), pasted.err
    accuracy = metrics_of(folder)["test/accuracy"]
    assert any(line.startswith("accuracy") and f"{accuracy:.3f}" in line for line in lines)
    assert sum(line.startswith("epoch ") for line in lines) == 2
    assert "Traceback" not in result.err and "Warning" not in result.err


@pytest.mark.parametrize(
    "overrides",
    [
        [
            *("channels_last=true", "optim=adamw_cosine", "trainer.gradient_clip_val=1", "sampler=balanced"),
            "class_weights=inverse",
        ],
        ["optim=adam_multistep", "augment=randaugment", "method=tsskd", "method.warmup_epochs=1"],
        [
            *("backbone.name=test_vit.r160_in1k", "method=swskd", "method.attention=simam", "optim=sgd_plateau"),
            *("sampler=sqrt", "class_weights=effective_number"),
        ],
        # test_midepoch.py trains these
        pytest.param(["precision=bf16", "method=swskd", "data.image_size=64"], marks=pytest.mark.slow),
    ],
    ids=lambda overrides: overrides[0],
)
def test_settings_train(trained: Trained, finished: Path, overrides: list[str]) -> None:
    folder = trained(*overrides)
    assert folder.name != finished.name
    assert metrics_of(folder)["test/loss"] != metrics_of(finished)["test/loss"]


def test_early_stopping_ends_a_run_that_gets_no_better(trained: Trained) -> None:
    folder = trained(
        "trainer.max_epochs=20",
        "trainer.limit_train_batches=1",
        "early_stopping.patience=2",
        "optim.lr=1e-9",
        "optim=adam_multistep",
        "monitor.metric=val/accuracy",
    )
    numbers = metrics_of(folder)
    assert numbers["epochs"] <= 6
    assert len(pd.read_csv(folder / "history.csv")) == numbers["epochs"] == numbers["best_epoch"] + 2


@pytest.mark.slow
def test_a_compiled_network_leaves_the_same_kind_of_checkpoint(trained: Trained) -> None:
    folder = trained("compile=true", "method=swskd", "data.image_size=64")
    state = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert not any("_orig_mod" in name for name in state)


def test_json_holds_no_gap(finished: Path) -> None:
    json.loads((finished / "metrics.json").read_text(), parse_constant=lambda name: pytest.fail(name))
