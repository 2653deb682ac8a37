"""Two processes on the CPU: one folder, no image scored twice, the numbers of one process, and no hanging."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
import train_process
import yaml
from train_process import metrics_of, only_run

from skinkd.build.objects import build_data, build_method, build_network
from skinkd.build.tables import load_split
from skinkd.training.scores import score_checkpoint

WATCHED = str(Path(__file__).parent / "methods" / "watch_teacher.py")


def run(overrides: list[str], folder: Path, program: str = "skinkd.train") -> train_process.Result:
    """The first rank starts the second with the same command line, as Lightning does; both are forks."""
    return train_process.run(overrides, folder=folder, module=program, fork_children=True, timeout=200)


# 23 test images: the processes have 12 and 11
TWO = ["strategy=ddp_cpu", "method=swskd", "data.image_size=64", "data.batch_size=8", "data.eval_batch_size=5"]


@pytest.fixture(scope="module")
def distributed(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("distributed")
    result = run([*tiny, f"paths.output_dir={output}", *TWO], output)
    assert result.code == 0, result.err
    assert result.out.count("run folder:") == 1 and result.out.count("training in") == 1
    return only_run(output)


@pytest.mark.slow
def test_as_a_user_types_it(tiny: list[str], distributed: Path, tmp_path: Path) -> None:
    """Nothing is forked."""
    command = [sys.executable, "-m", "skinkd.train", *tiny, f"paths.output_dir={tmp_path}", *TWO]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("run folder:") == 1 and result.stdout.count("training in") == 1
    assert only_run(tmp_path).name == distributed.name


def test_it_is_one_finished_run(distributed: Path) -> None:
    history = pd.read_csv(distributed / "history.csv")
    assert history["epoch"].tolist() == [1, 2]
    assert metrics_of(distributed)["epochs"] == 2


@pytest.mark.parametrize("part", ["val", "test"])
def test_every_image_is_scored_once(distributed: Path, part: str) -> None:
    splits = pd.read_csv(distributed / "splits.csv", dtype=str)
    table = pd.read_csv(distributed / "predictions" / f"{part}.csv", dtype={"image_id": str})
    assert table["image_id"].is_unique
    assert set(table["image_id"]) == set(splits["image_id"][splits["split"] == part])
    assert metrics_of(distributed)[f"{part}/n"] == len(table)


def test_one_process_scores_the_checkpoint_alike(distributed: Path) -> None:
    config = yaml.safe_load((distributed / "config.yaml").read_text())
    config["trainer"] |= {"accelerator": "cpu", "devices": 1, "strategy": "auto"}
    data = build_data(config, *load_split(config))
    network = build_network(config, classes=data.classes)
    method = build_method(config, data, network)
    best = distributed / "checkpoints" / "best.ckpt"
    scored = score_checkpoint(config, data, method, best, parts=["test"])["test"][""]
    stored = pd.read_csv(distributed / "predictions" / "test.csv", dtype={"image_id": str, "group": str})
    # the images of a batch differ, and with them the last bit of a convolution
    pd.testing.assert_frame_equal(scored.table, stored, rtol=0, atol=1e-6)
    for name, value in scored.metrics.items():
        assert metrics_of(distributed)[f"test/{name}"] == pytest.approx(value, abs=1e-6), name


def test_the_teacher_is_frozen_in_every_process(tiny: list[str], finished: Path, tmp_path: Path) -> None:
    overrides = ["strategy=ddp_cpu", "method=kd", f"method.teacher.ckpt={finished}", "trainer.max_epochs=1"]
    overrides.append("method.teacher.bf16=false")  # else its batch normalisations are folded, and could not move
    result = run([*tiny, f"paths.output_dir={tmp_path / 'outputs'}", *overrides], tmp_path, WATCHED)
    assert result.code == 0, result.err
    seen = [json.loads((tmp_path / f"teacher-{rank}.json").read_text()) for rank in (0, 1)]
    for rank in seen:
        assert rank["steps"] > 0
        assert rank["changed"] == rank["training"] == rank["with_gradient"] == []
    assert seen[0]["digest"] == seen[1]["digest"]
    for name in ("best", "last"):
        stored = torch.load(only_run(tmp_path / "outputs") / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert {key.split(".")[0] for key in stored["state_dict"]} == {"network"}


def test_a_failing_process_ends_the_other(tiny: list[str], synthetic_folder: Path, tmp_path: Path) -> None:
    """One training image is damaged where only reading it shows; one of the two processes meets it."""
    root = tmp_path / "ham10000"
    shutil.copytree(synthetic_folder, root)
    splits = build_split(tiny, root)
    name = splits.index[splits == "train"][0]
    (image,) = root.glob(f"HAM10000_images_part_*/{name}.jpg")
    data = bytearray(image.read_bytes())
    data[data.index(b"\xff\xc0") + 4] = 12  # bits a sample: a whole file of a kind that no decoder here takes
    image.write_bytes(data)
    began = time.monotonic()
    overrides = ["strategy=ddp_cpu", "data=ham10000", f"data.root={root}", f"paths.output_dir={tmp_path / 'outputs'}"]
    keep = [text for text in tiny if not text.startswith(("data=", "data.root", "data.table"))]
    result = run([*keep, *overrides, "trainer.max_epochs=1"], tmp_path)
    assert result.code != 0
    assert f"{image} cannot be decoded, though its ends are whole; replace the file" in result.err
    assert time.monotonic() - began < 150
    assert not (only_run(tmp_path / "outputs") / "metrics.json").exists()


def build_split(tiny: list[str], root: Path) -> pd.Series:
    from skinkd.data.ham10000 import load_ham10000
    from skinkd.data.splits import make_split

    table = load_ham10000(root, on_bad_image="error")
    fractions = {"train": 0.7, "val": 0.1, "test": 0.2}
    parts = make_split(table, protocol="grouped", fractions=fractions, seed=0, fold=None, folds=None)
    return pd.Series(parts.to_numpy(), index=table.frame["image_id"])
