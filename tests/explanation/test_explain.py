"""The verb on a finished run: what it writes, and what it refuses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from test_scores import NULLS

import skinkd.explain as verb
from skinkd.errors import UserError
from skinkd.explanation.run import explain
from skinkd.explanation.scores import LOCALISATION

FEW = (
    "images=6", "scorecam.channels=4", "ig.steps=2", "occlusion.stride=0.25", "lime.samples=12", "faithfulness.steps=3",
    "sanity.images=2", "sanity.levels=2", "evaluation.bootstrap_replicates=30", "nulls.mean_mask_images=10", "sheet.inches=0.4",
)  # fmt: skip
METHODS = ["gradcam", "scorecam", "ig", "occlusion", "lime"]


def run_explain(folder: Path, synthetic_root: Path, *overrides: str) -> None:
    outputs = f"paths.output_dir={synthetic_root.parent}"
    with initialize_config_module(version_base="1.3", config_module="skinkd.conf"):
        settings = compose("explain", overrides=[f"run={folder}", outputs, *FEW, *overrides])
    explain(settings)


@pytest.fixture(scope="module")
def finished(train_tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on images of 64 pixels, whose maps have several cells, without its pictures; for reading only."""
    with pytest.MonkeyPatch.context() as patch:
        for picture in ("plot_curves", "plot_confusion"):
            patch.setattr(f"skinkd.training.scores.{picture}", lambda *_, **__: None)
        return train_tiny(tmp_path_factory.mktemp("finished64"), "data.image_size=64")


@pytest.fixture(scope="module")
def explained(finished: Path, synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explained") / "run"
    shutil.copytree(finished, folder)
    run_explain(folder, synthetic_root)
    return folder / "explanations"


def table(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "scores.csv")


def test_the_table_has_a_row_for_each_image_crop_and_map(explained: Path) -> None:
    rows = table(explained)
    splits = pd.read_csv(explained.parent / "splits.csv").set_index("image_id")["split"]
    images = rows["image_id"].unique()
    assert len(images) == 6 and set(splits[images]) == {"test"}
    for _, part in rows.groupby(["image_id", "crop"]):
        assert part["map"].tolist() == [*METHODS, *NULLS]
    standard = rows[rows["crop"] == "standard"]
    assert standard["image_id"].nunique() == 6 and 0 < len(rows) - len(standard) <= len(standard)
    predictions = pd.read_csv(explained.parent / "predictions" / "test.csv").set_index("image_id")
    for image_id, part in standard.groupby("image_id"):
        known = predictions.loc[image_id]
        assert set(part["label"]) == {known["label"]} and set(part["prediction"]) == {known["prediction"]}
        assert set(part["explained"]) == {known["prediction"]}
        assert part["probability"].iloc[0] == pytest.approx(known[f"p_{known['prediction']}"], abs=1e-4)
    for name in (*LOCALISATION, "corners"):
        assert rows[name].between(0, 1).all(), name
    for name in ("deletion", "insertion"):
        assert standard[name].between(0, 1).all() and rows.loc[rows["crop"] == "off-centre", name].isna().all()
    assert (standard.loc[standard["map"] == "mask", list(LOCALISATION)] == 1).all().all()
    assert standard.loc[standard["map"] == "uniform", "auc"].eq(0.5).all()


def test_some_images_have_the_sanity_of_each_method(explained: Path) -> None:
    rows = table(explained)
    checks = ["untrained_head", "untrained_0.50", "untrained_1.00", "flipped"]
    known = rows[rows["flipped"].notna()]
    assert known["image_id"].nunique() <= 2 and set(known["kind"]) == {"method"} and set(known["crop"]) == {"standard"}
    values = known[checks].to_numpy()
    assert (np.abs(values[~np.isnan(values)]) <= 1).all()  # a constant map has no correlation
    assert known.loc[known["map"] == "gradcam", checks[0]].notna().all()


def test_the_flat_scores_are_the_means_of_the_table(explained: Path) -> None:
    rows, flat = table(explained), json.loads((explained / "scores.json").read_text())
    assert flat["final/layer"] == "layer2 (8×8)"
    for crop, place in (("standard", ""), ("off-centre", "off-centre/")):
        part = rows[rows["crop"] == crop].set_index("image_id")
        prior = part[part["map"] == "centre"]
        for name in METHODS:
            own = part[part["map"] == name]
            assert flat[f"final/{name}/{place}auc"] == pytest.approx(own["auc"].mean())
            assert flat[f"final/{name}/{place}n"] == len(own)
            difference = flat[f"final/{name}/{place}energy_over_centre"]
            assert difference == pytest.approx((own["energy"] - prior["energy"]).mean())
            low, high = (flat[f"final/{name}/{place}energy_over_centre_{end}"] for end in ("low", "high"))
            assert low <= difference <= high
    for name in METHODS:
        worst = max(flat.get(f"final/{name}/untrained_{step}", -1.0) for step in ("head", "1.00"))
        assert flat.get(f"final/{name}/depends", True) == (worst <= 0.5)


def test_maps_are_pngs_of_sixteen_bits_and_sheets_are_of_right_and_wrong_cases(explained: Path) -> None:
    rows = table(explained)
    files = sorted(path.relative_to(explained / "maps").as_posix() for path in (explained / "maps").rglob("*.png"))
    assert files == sorted(f"final/{name}/{image}.png" for name in METHODS for image in rows["image_id"].unique())
    for name in METHODS:
        for path in (explained / "maps" / "final" / name).iterdir():
            found = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            assert found.dtype == np.uint16 and found.shape == (64, 64) and found.max() in (0, 65535)
    cases = rows[rows["crop"] == "standard"].drop_duplicates("image_id")
    expected = {
        f"{row['label']}_{'right' if row['label'] == row['prediction'] else 'wrong'}.png" for _, row in cases.iterrows()
    }
    assert {path.name for path in (explained / "sheets" / "final").iterdir()} == expected


def test_the_same_command_gives_the_same_scores(explained: Path, synthetic_root: Path, tmp_path: Path) -> None:
    """Of the methods those that draw numbers or choose by rank, beside fewer others and in other batches."""
    few = ("methods=[scorecam,lime]", "batch=16", "sheet.rows=1")
    run_explain(explained.parent, synthetic_root, f"out={tmp_path / 'again'}", *few)
    first, again = table(explained), table(tmp_path / "again")
    first = first[first["map"].isin(["scorecam", "lime", *NULLS])].reset_index(drop=True)
    pd.testing.assert_frame_equal(first, again, rtol=1e-3, atol=1e-3)


def test_a_class_can_be_named_and_the_users_own_images_need_no_masks(
    explained: Path, synthetic_root: Path, synthetic_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = explained.parent / "pictures"
    pictures.mkdir()
    for number, path in enumerate(sorted(synthetic_folder.glob("HAM10000_images_part_1/*.jpg"))[:2]):
        shutil.copy(path, pictures / f"mine{number}.jpg")
    run_explain(explained.parent, synthetic_root, f"input={pictures}", "target=mel", "methods=[gradcam,ig]")
    rows = table(explained / "inputs" / "pictures")
    assert rows["image_id"].unique().tolist() == ["mine0", "mine1"] and set(rows["explained"]) == {"mel"}
    assert rows["map"].unique().tolist() == ["gradcam", "ig", "uniform", "blobs", "centre", "darkness"]
    assert "auc" not in rows and rows["label"].isna().all() and rows["deletion"].between(0, 1).all()
    assert all(
        path.name.startswith("predicted_")
        for path in (explained / "inputs" / "pictures" / "sheets" / "final").iterdir()
    )
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == str(explained / "inputs" / "pictures") and max(map(len, printed[:-1])) <= 80
    run_explain(explained.parent, synthetic_root, f"input={pictures / 'mine1.jpg'}", "methods=[ig]")
    assert table(explained / "inputs" / "mine1")["image_id"].unique().tolist() == ["mine1"]


def test_the_summary_fits_80_columns_and_marks_what_was_not_learned(
    explained: Path, synthetic_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("methods=[gradcam,ig]", "sheet.rows=1")
    run_explain(explained.parent, synthetic_root, f"out={tmp_path}", "sanity.limit=-1.01", *few)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines()[:-1])) <= 80
    for name in ("gradcam", "ig"):
        assert printed.count(f"\n{name} †") == printed.count(f"\n{name}") > 4
    assert "† does not depend on what was learned" in printed


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["methods=[gradcamm]"], "did you mean 'gradcam'"),
        (["methods=[]"], "names no method"),
        (["target=mell"], "did you mean 'mel'"),
        (["images=0"], "images=0 is out of range"),
        (["lime.samples=1"], "lime.samples=1 is out of range"),
        (["occlusion.stride=0.5"], "some pixels are never covered"),
        (["off_centre.crop=0"], "off_centre.crop=0 is out of range"),
        (["input=/no/such/place"], "neither an image nor a folder with images"),
        (["run=/no/such/run"], "neither a run folder"),
    ],
)
def test_a_wrong_setting_is_one_sentence_and_writes_nothing(
    finished: Path, synthetic_root: Path, overrides: list[str], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        run_explain(finished, synthetic_root, *overrides)
    assert not (finished / "explanations").exists()


def test_a_broken_image_and_a_checkpoint_alone_are_one_sentence(
    finished: Path, synthetic_root: Path, synthetic_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "broken.jpg").write_bytes(b"\xff\xd8 no image")
    with pytest.raises(UserError, match=r"broken\.jpg is truncated"):
        run_explain(finished, synthetic_root, f"input={tmp_path / 'pictures'}")
    shutil.copy(finished / "checkpoints" / "best.ckpt", tmp_path / "alone.ckpt")
    with pytest.raises(UserError, match="a checkpoint without its run folder"):
        run_explain(tmp_path / "alone.ckpt", synthetic_root, f"out={tmp_path / 'never'}")
    assert not (tmp_path / "never").exists()
    (picture,) = list(synthetic_folder.glob("HAM10000_images_part_1/*1.jpg"))[:1]
    with pytest.raises(UserError, match="say where to write with out="):
        run_explain(tmp_path / "alone.ckpt", synthetic_root, f"input={picture}", "methods=[gradcam]")
    run_explain(tmp_path / "alone.ckpt", synthetic_root, f"input={picture}", f"out={tmp_path / 'o'}", "methods=[ig]")
    assert (tmp_path / "o" / "scores.json").is_file()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="give a new folder"):
        run_explain(finished, synthetic_root, f"input={picture}", "methods=[ig]", f"out={tmp_path / 'file'}")


def test_an_explanation_replaces_an_earlier_one_and_no_other_files(
    finished: Path, synthetic_root: Path, synthetic_folder: Path, tmp_path: Path
) -> None:
    pictures = sorted(synthetic_folder.glob("HAM10000_images_part_1/*.jpg"))
    out = tmp_path / "o"
    for number, methods in ((0, "[ig,gradcam]"), (1, "[gradcam]")):
        run_explain(finished, synthetic_root, f"input={pictures[number]}", f"methods={methods}", f"out={out}")
        (out / "inputs").mkdir(exist_ok=True)  # such as those of a run folder
    maps = [path.relative_to(out / "maps").as_posix() for path in (out / "maps").rglob("*.png")]
    assert maps == [f"final/gradcam/{pictures[1].stem}.png"] and (out / "inputs").is_dir()
    (tmp_path / "own" / "maps").mkdir(parents=True)
    (tmp_path / "own" / "maps" / "atlas.png").write_text("mine")
    with pytest.raises(UserError, match="a folder with other files"):
        run_explain(finished, synthetic_root, f"input={pictures[0]}", "methods=[ig]", f"out={tmp_path / 'own'}")
    assert (tmp_path / "own" / "maps" / "atlas.png").read_text() == "mine"


def test_without_the_extra_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verb, "find_spec", lambda name: None if name == "skimage" else True)
    with pytest.raises(UserError, match=r"needs the package skimage; run pip install 'skinkd\[explain\]'"):
        verb.explain(OmegaConf.create({}))


def test_an_unfinished_explanation_has_no_scores_json(
    explained: Path, synthetic_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of an earlier explanation loses its mark before its maps are replaced."""
    shutil.copytree(explained, tmp_path / "o")

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("skinkd.explanation.run.save_maps", stop)
    with pytest.raises(KeyboardInterrupt):
        run_explain(explained.parent, synthetic_root, f"out={tmp_path / 'o'}", "methods=[gradcam]")
    assert not (tmp_path / "o" / "scores.json").exists() and (tmp_path / "o" / "scores.csv").exists()
