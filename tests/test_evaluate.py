"""Scoring a run on other data, without the images that it has seen."""

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
import train_process
from hydra.utils import instantiate
from omegaconf import OmegaConf
from test_class_map import composed

from skinkd.build.checkpoints import find_checkpoint, open_checkpoint
from skinkd.build.seen import seen_images
from skinkd.build.tables import load_split
from skinkd.data.files import read_image
from skinkd.data.ham10000 import load_ham10000
from skinkd.data.ham10000_folder import CLASSES as HAM
from skinkd.data.isic2019 import CLASSES as ISIC
from skinkd.data.medmnist_sets import SETS
from skinkd.data.transforms import eval_pipeline
from skinkd.errors import UserError
from skinkd.inference.other_data import evaluate, match_classes, unseen_rows
from skinkd.training.run import card as card_of
from tests.data.conftest import make_ham_folder

BACKBONE = {
    "_target_": "skinkd.models.backbone.Backbone",
    "name": "test_resnet.r160_in1k",
    "image_size": 32,
    "pretrained": False,
    "weights": None,
    "small_input": False,
    "head": "linear",
    "head_widths": [8, 8],
    "drop_rate": 0.0,
    "options": {},
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_ham_folder(tmp_path / "ham10000", lesions=dict.fromkeys(HAM, 3), size=(40, 48))


def card(**seen: list[str]) -> dict[str, Any]:
    return {
        "images": {"train": seen.get("images", []), "val": seen.get("selected", [])},
        "groups": {"train": seen.get("groups", []), "val": []},
    }


def test_seen_images_and_lesions_are_left_out(data: Path) -> None:
    """Of a checkpoint by itself the names are all that is known."""
    table = load_ham10000(data, on_bad_image="error")
    ids, groups = table.frame["image_id"], table.frame["group"]
    meeting = match_classes(HAM, HAM, class_map={}, leave_out=["nv"])
    config = composed("evaluate", f"data.root={data}")

    def found(seen: dict[str, Any]) -> tuple[Any, Any]:
        return unseen_rows(table, seen_images(table, seen, None, config), meeting)

    rows, removed = found(card(images=[ids[0]], selected=[ids[4]], groups=[groups[8]]))  # the last: two photographs
    nv = (table.frame["label"] == HAM.index("nv")).sum()
    assert removed == {"seen": 4, "copies": None, "class": nv} and len(rows) == len(table) - 4 - nv
    assert not set(rows["image_id"]) & {ids[0], ids[4], ids[8], ids[9]}
    expected = table.frame.set_index("image_id")["label"]
    assert all(HAM[expected[one]] == label for one, label in zip(rows["image_id"], rows["label"], strict=True))
    with pytest.raises(UserError, match="no image of ham10000 is left"):
        found(card(groups=groups.tolist()))


def test_wrong_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a run folder"):
        find_checkpoint(str(tmp_path), setting="run")
    (tmp_path / "text.ckpt").write_text("x")
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        open_checkpoint(find_checkpoint(str(tmp_path / "text.ckpt"), setting="run"), setting="run")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="is not a checkpoint of this project"):
        open_checkpoint(tmp_path / "other.ckpt", setting="run")


@pytest.mark.filterwarnings("ignore")
def test_the_verb_scores_what_the_run_has_not_seen(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = instantiate(BACKBONE, num_classes=len(ISIC), _convert_="all").eval()
    table = load_ham10000(data, on_bad_image="error")
    seen = table.frame["group"][:2].tolist()
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    state = {f"network.{name}": value for name, value in network.state_dict().items()} | {"head.x": torch.ones(1)}
    stored = {
        "state_dict": state,
        "skinkd": {"classes": list(ISIC), "backbone": BACKBONE, **card(groups=seen)},
    }
    torch.save(stored, run / "checkpoints" / "best.ckpt")
    words = [f"run={run}", "data=ham10000", "class_map=isic2019_ham10000", "data.num_workers=0"]
    env = {"SKINKD_DATA_DIR": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    words.append("evaluation.bootstrap_replicates=20")
    done = train_process.run(words, folder=tmp_path, module="skinkd.evaluate", env=env)
    assert done.code == 0, done.err
    assert "2 of the 42 images of ham10000 are left out" in done.out and "40 are scored" in done.out
    assert "warning: content was not compared with any of the run's images: there is no config.yaml" in done.out
    out = run / "evaluations" / "ham10000"
    predictions = pd.read_csv(out / "predictions.csv").set_index("image_id")
    assert set(predictions.index) == set(table.frame["image_id"][2:])
    pipeline = eval_pipeline(image_size=32)
    for row in table.frame[2:].itertuples(index=False):
        pixels = pipeline(image=read_image(row.path))["image"].transpose(2, 0, 1)
        with torch.inference_mode():
            p = network(torch.from_numpy(np.ascontiguousarray(pixels))[None]).softmax(1)[0].double().numpy()
        expected = [p[0] + p[6], *p[1:6], p[7]]
        found = predictions.loc[row.image_id, [f"p_{name}" for name in HAM]].to_numpy(float)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert predictions.loc[row.image_id, "label"] == HAM[row.label]
    metrics = json.loads((out / "metrics.json").read_text())
    accuracy = (predictions["label"] == predictions["prediction"]).mean()
    assert metrics["test/accuracy"] == pytest.approx(accuracy)
    assert metrics["removed/seen_images"] == 2 and metrics["test/n"] == 40
    assert metrics["removed/near_copies"] is None
    assert (out / "confusion_matrix.png").is_file() and (out / "config.yaml").is_file()


def smooth(rng: np.random.Generator, *, height: int, width: int, channels: int = 3) -> np.ndarray:
    """Blots of eight by eight: another picture each time, and the same one at another size."""
    blots = rng.integers(0, 256, (8, 8, channels), dtype=np.uint8)
    return cv2.resize(blots, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, channels)


def write_classes(root: Path, *, seed: int, per_class: int = 10) -> Path:
    """``mel/000.png`` … and ``nv/000.png`` …, as two hospitals may both name theirs."""
    rng = np.random.default_rng(seed)
    for name in ("mel", "nv"):
        (root / name).mkdir(parents=True)
        for number in range(per_class):
            assert cv2.imwrite(str(root / name / f"{number:03d}.png"), smooth(rng, height=40, width=48))
    return root


def write_set(root: Path, flag: str, *, seed: int) -> None:
    rng, classes = np.random.default_rng(seed), len(SETS[flag].classes)
    arrays: dict[str, np.ndarray] = {}
    for part in ("train", "val", "test"):
        arrays[f"{part}_images"] = np.stack(
            [smooth(rng, height=28, width=28, channels=1)[..., 0] for _ in range(classes)]
        )
        arrays[f"{part}_labels"] = np.arange(classes, dtype=np.uint8)[:, None]
    root.mkdir(exist_ok=True)
    np.savez(root / f"{flag}.npz", **arrays)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for data and outputs; no GPU."""
    monkeypatch.setenv("SKINKD_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("SKINKD_OUTPUT_DIR", str(tmp_path / "outputs"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    # the picture is half of an evaluation's time; the test of the verb above draws it
    monkeypatch.setattr("skinkd.inference.other_data.plot_confusion", lambda *_, **__: None)
    return tmp_path


@pytest.fixture
def smooth_ham(world: Path) -> Path:
    """HAM10000 in little, of pictures that can be recognised at another size."""
    root = make_ham_folder(world / "ham10000", lesions=dict.fromkeys(HAM, 5), size=(40, 48))
    rng = np.random.default_rng(1)
    for path in sorted(root.rglob("*.jpg")):
        assert cv2.imwrite(str(path), smooth(rng, height=90, width=120))
    return root


def make_run(path: Path, *words: str) -> tuple[Path, dict[str, list[str]]]:
    """What training on ``words`` leaves, with a network that has learnt nothing; and the image ids of each part."""
    config = composed("train", "logger=none", *words)
    table, parts = load_split(config)
    (path / "checkpoints").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(config), path / "config.yaml")
    network = instantiate(BACKBONE, num_classes=len(table.classes), _convert_="all")
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    torch.save(
        {"state_dict": state, "skinkd": card_of(config, table, parts) | {"backbone": BACKBONE}},
        path / "checkpoints" / "best.ckpt",
    )
    ids = table.frame["image_id"]
    return path, {part: ids[(parts == part).to_numpy()].tolist() for part in ("train", "val", "test")}


def scored(run: Path, *words: str, name: str) -> tuple[set[str], dict[str, Any]]:
    """Evaluate; the ids of the images scored, and the report's numbers."""
    config = composed("evaluate", f"run={run}", "data.num_workers=0", "evaluation.bootstrap_replicates=2", *words)
    evaluate(OmegaConf.create(config))
    out = run / "evaluations" / name
    return set(pd.read_csv(out / "predictions.csv", dtype=str)["image_id"]), json.loads(
        (out / "metrics.json").read_text()
    )


def test_other_images_of_the_same_names_stay(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, flag in enumerate(("organamnist", "organcmnist")):
        write_set(world / "medmnist", flag, seed=seed)
    run, parts = make_run(world / "run", "data=medmnist", "data.flag=organamnist")
    ids, metrics = scored(run, "data=medmnist", "data.flag=organcmnist", name="organcmnist")
    assert len(ids) == 33 and metrics["removed/seen_images"] == metrics["removed/near_copies"] == 0
    assert "0 as near-copies" in capsys.readouterr().out
    ids, metrics = scored(run, "data=medmnist", "data.flag=organamnist", name="organamnist")
    assert ids == set(parts["test"]) and metrics["removed/seen_images"] == 22


def test_two_hospitals_with_files_of_the_same_names(world: Path) -> None:
    first, second = (write_classes(world / name, seed=seed) for seed, name in enumerate(("a", "b")))
    run, parts = make_run(world / "run", "data=folder", f"data.root={first}", "data.name=a")
    ids, metrics = scored(run, "data=folder", f"data.root={second}", "data.name=b", name="b")
    assert len(ids) == 20 and metrics["removed/seen_images"] == metrics["removed/near_copies"] == 0
    # the same place, through a link and by other ids
    (world / "link").symlink_to(first)
    rows = ["path,label", *(f"{path.relative_to(first)},{path.parent.name}" for path in sorted(first.rglob("*.png")))]
    (world / "again.csv").write_text("\n".join(rows))
    again = ("data=table", f"data.file={world / 'again.csv'}", f"data.root={world / 'link'}", "data.name=again")
    ids, metrics = scored(run, *again, "data.near_duplicate_bits=null", name="again")
    assert ids == set(parts["test"]) and metrics["removed/seen_images"] == 20 - len(parts["test"])


def test_patient_1_of_two_hospitals(world: Path) -> None:
    words = {}
    for seed, name in enumerate(("a", "b")):
        paths = sorted(write_classes(world / name, seed=seed).rglob("*.png"))
        rows = [f"{path},{path.parent.name},{number // 2}" for number, path in enumerate(paths)]
        (world / f"{name}.csv").write_text("\n".join(["path,label,patient", *rows]))
        table = f"data.file={world / f'{name}.csv'}"
        words[name] = ("data=table", table, "data.columns.group=patient", f"data.name={name}")
    run, _ = make_run(world / "run", *words["a"])
    ids, metrics = scored(run, *words["b"], name="b")
    assert len(ids) == 20 and metrics["removed/seen_images"] == metrics["removed/near_copies"] == 0


def test_a_patient_with_a_copy_of_a_training_image_is_left_out(world: Path) -> None:
    first, second = (write_classes(world / name, seed=seed) for seed, name in enumerate(("a", "b")))
    run, parts = make_run(world / "run", "data=folder", f"data.root={first}")
    shutil.copy(first / parts["train"][0], second / "mel" / "000.png")
    rows = [
        f"{path},{path.parent.name},{path.name}" for path in sorted(second.rglob("*.png"))
    ]  # mel/000 and nv/000: one
    (world / "b.csv").write_text("\n".join(["path,label,patient", *rows]))
    words = ("data=table", f"data.file={world / 'b.csv'}", "data.columns.group=patient", "data.name=b")
    ids, metrics = scored(run, *words, name="b")
    assert len(ids) == 18 and metrics["removed/near_copies"] == 2


def scored_under_other_names(run: Path, world: Path, *words: str) -> tuple[set[str], dict[str, Any]]:
    """Evaluate on HAM10000's images as a folder of classes, smaller and with other ids."""
    frame = load_ham10000(world / "ham10000", on_bad_image="error").frame
    for path, label, name in zip(frame["path"], frame["label"], frame["image_id"], strict=True):
        folder = world / "copy" / HAM[label]
        folder.mkdir(parents=True, exist_ok=True)
        small = cv2.resize(read_image(path), (80, 60), interpolation=cv2.INTER_AREA)
        assert cv2.imwrite(str(folder / f"copy_{name}.jpg"), small[..., ::-1])
    return scored(run, "data=folder", f"data.root={world / 'copy'}", *words, name="folder")


def test_the_same_images_under_other_names(smooth_ham: Path, world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, parts = make_run(world / "run", "data=ham10000")
    seen = 70 - len(parts["test"])
    ids, metrics = scored_under_other_names(run, world)
    assert {Path(one).stem for one in ids} == {f"copy_{one}" for one in parts["test"]}
    assert metrics["removed/seen_images"] == 0 and metrics["removed/near_copies"] == seen
    assert f"{seen} as near-copies of its images" in capsys.readouterr().out
    ids, metrics = scored_under_other_names(run, world, "data.near_duplicate_bits=null", "force=true")
    assert len(ids) == 70 and metrics["removed/near_copies"] is None
    said = capsys.readouterr().out
    assert "content was not compared with any of the run's images: data.near_duplicate_bits=null" in said
    assert "near-copies" not in said


def test_the_copies_of_an_oversampled_run_are_found_in_its_data(smooth_ham: Path, world: Path) -> None:
    run, _ = make_run(world / "run", "data=ham10000", "protocol=oversampled")  # each lesion has an image in train
    with pytest.raises(UserError, match="no image of copy is left: the run was trained or selected on 70 of its 70"):
        scored_under_other_names(run, world)


def test_dermamnist_of_the_images_of_a_run_on_ham10000(smooth_ham: Path, world: Path) -> None:
    run, parts = make_run(world / "run", "data=ham10000")
    frame = load_ham10000(smooth_ham, on_bad_image="error").frame
    arrays: dict[str, np.ndarray] = {}
    order = list(frame.groupby(frame.index % 3))
    for part, (_, rows) in zip(("train", "val", "test"), order, strict=True):
        images = [cv2.resize(read_image(path), (28, 28), interpolation=cv2.INTER_AREA) for path in rows["path"]]
        arrays |= {f"{part}_images": np.stack(images), f"{part}_labels": rows["label"].to_numpy(np.uint8)[:, None]}
    (world / "medmnist").mkdir()
    np.savez(world / "medmnist" / "dermamnist.npz", **arrays)
    ids, metrics = scored(run, "data=medmnist", "class_map=dermamnist_ham10000", name="dermamnist")
    assert len(ids) == len(parts["test"]) and metrics["removed/near_copies"] == 70 - len(parts["test"])


def test_a_run_whose_data_has_gone_or_moved(world: Path, smooth_ham: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (write_classes(world / name, seed=0) for name in ("a", "b"))
    run, _ = make_run(world / "run", "data=folder", f"data.root={first}")
    shutil.rmtree(first)
    ids, metrics = scored(run, "data=folder", f"data.root={second}", name="folder")
    assert len(ids) == 20 and metrics["removed/near_copies"] is None
    assert "with any of the run's images: its data cannot be read (there is no folder" in capsys.readouterr().out
    run, parts = make_run(world / "of_ham", "data=ham10000")
    (world / "elsewhere").mkdir()
    shutil.move(smooth_ham, world / "elsewhere" / "ham10000")
    words = ("data=ham10000", f"paths.data_dir={world / 'elsewhere'}")
    ids, metrics = scored(run, *words, name="ham10000")
    assert ids == set(parts["test"]) and metrics["removed/near_copies"] == 0
    for path in (world / "elsewhere").rglob(f"{parts['train'][0]}.jpg"):
        path.unlink()
    scored(run, *words, "data.on_bad_image=skip", "data.name=less", name="less")
    assert f"with all of the run's images: 1 of the {70 - len(parts['test'])} are no longer" in capsys.readouterr().out


def test_evaluations_of_different_settings_do_not_overwrite_each_other(world: Path) -> None:
    first, second = (write_classes(world / name, seed=seed) for seed, name in enumerate(("a", "b")))
    run, _ = make_run(world / "run", "data=folder", f"data.root={first}")
    words = ("data=folder", f"data.root={second}", "data.name=b")
    scored(run, *words, name="b")
    stored = (run / "evaluations" / "b" / "predictions.csv").read_bytes()
    for other in ("leave_out=[nv]", "+class_map.mel=[mel,nv]", f"data.root={first}", "evaluation.calibration_bins=3"):
        with pytest.raises(UserError, match=r"evaluations/b holds an evaluation .* data\.name or out .* force=true"):
            scored(run, *words, other, name="b")
    assert (run / "evaluations" / "b" / "predictions.csv").read_bytes() == stored
    scored(run, *words, "data.eval_batch_size=5", name="b")  # changes no number
    ids, _ = scored(run, *words, "leave_out=[nv]", "force=true", name="b")
    assert len(ids) == 10
    scored(run, *words, "part=test", name="b-test")
