import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hydra.utils import instantiate

from skinkd.checkpoints import find_checkpoint, open_checkpoint
from skinkd.data.files import read_image
from skinkd.data.ham10000 import CLASSES as HAM
from skinkd.data.ham10000 import load_ham10000
from skinkd.data.isic2019 import CLASSES as ISIC
from skinkd.data.transforms import eval_pipeline
from skinkd.errors import UserError
from skinkd.evaluate import match_classes, unseen_rows
from tests.data.conftest import make_ham_folder

MAP = {
    "akiec": ["akiec", "AK", "SCC"],
    **{name: [name, name.upper()] for name in ("bcc", "bkl", "df", "mel", "nv", "vasc")},
}
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


def test_both_ways_of_the_class_table() -> None:
    to_ham = match_classes(ISIC, HAM, class_map=MAP, leave_out=[])
    assert to_ham.classes == ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    assert to_ham.of_run == (0, 1, 2, 3, 4, 5, 0, 6)  # AK and SCC are one
    assert to_ham.of_data == tuple(range(7))
    to_isic = match_classes(HAM, ISIC, class_map=MAP, leave_out=[])
    assert to_isic.of_run == tuple(range(7)) and to_isic.of_data == (0, 1, 2, 3, 4, 5, 0, 6)
    same = match_classes(HAM, HAM, class_map={}, leave_out=["nv"])
    assert same.of_data == (0, 1, 2, 3, 4, None, 6) and same.classes == HAM
    fewer = match_classes(HAM, ("mel", "nv"), class_map={}, leave_out=[])
    assert fewer.classes == HAM and fewer.of_data == (4, 5)


@pytest.mark.parametrize(
    ("run", "data", "class_map", "leave_out", "words"),
    [
        (HAM, ISIC, {}, [], r"class 'AK' of the data .* class_map .*leave_out=\[AK\]"),
        (HAM, ISIC, {"a": ["AK"], "b": ["AK"]}, [], "'AK' under 'a' and 'b'"),
        (HAM, HAM, {}, ["nevus"], "leave_out=nevus"),
    ],
)
def test_classes_that_do_not_meet(run: Any, data: Any, class_map: Any, leave_out: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        match_classes(run, data, class_map=class_map, leave_out=leave_out)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_ham_folder(tmp_path / "ham10000", lesions=dict.fromkeys(HAM, 3), size=(40, 48))


def card(**seen: list[str]) -> dict[str, Any]:
    return {
        "images": {"train": seen.get("images", []), "val": seen.get("selected", [])},
        "groups": {"train": seen.get("groups", []), "val": []},
    }


def test_seen_images_and_lesions_are_left_out(data: Path) -> None:
    table = load_ham10000(data, on_bad_image="error")
    ids, groups = table.frame["image_id"], table.frame["group"]
    meeting = match_classes(HAM, HAM, class_map={}, leave_out=["nv"])
    seen = card(images=[ids[0]], selected=[ids[4]], groups=[groups[8]])  # the last: two photographs
    rows, removed = unseen_rows(table, seen, meeting)
    nv = (table.frame["label"] == HAM.index("nv")).sum()
    assert removed == {"seen": 4, "class": nv} and len(rows) == len(table) - 4 - nv
    assert not set(rows["image_id"]) & {ids[0], ids[4], ids[8], ids[9]}
    expected = table.frame.set_index("image_id")["label"]
    assert all(HAM[expected[one]] == label for one, label in zip(rows["image_id"], rows["label"], strict=True))
    with pytest.raises(UserError, match="no image of ham10000 is left"):
        unseen_rows(table, card(groups=groups.tolist()), meeting)


def test_wrong_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a run folder"):
        find_checkpoint(str(tmp_path), setting="run")
    (tmp_path / "text.ckpt").write_text("x")
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        open_checkpoint(find_checkpoint(str(tmp_path / "text.ckpt"), setting="run"), setting="run")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="is no checkpoint of this project"):
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
    done = subprocess.run(
        [sys.executable, "-m", "skinkd.evaluate", *words, "evaluation.bootstrap_replicates=20"],
        env=os.environ | {"SKINKD_DATA_DIR": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert "2 of the 42 images of ham10000 are left out" in done.stdout and "40 are scored" in done.stdout
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
    assert (out / "confusion_matrix.png").is_file() and (out / "config.yaml").is_file()
