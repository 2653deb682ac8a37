"""What the worker process says of an image: the run's own numbers, and pictures that match them."""

import json
import shutil
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx_once  # noqa: F401
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from skinkd.card.write import write_card
from skinkd.data.decode import decode_image
from skinkd.deployment.graph import trace, write_onnx
from skinkd.errors import UserError
from skinkd.explanation.maps import make_maps
from skinkd.inference.trained import open_trained
from skinkd.scoring.conformal import as_plain, fit_conformal
from skinkd.scoring.predictions import read_predictions
from skinkd.web.answer import Answers
from skinkd.web.examples import IMAGE_SIZE, draw_examples
from skinkd.web.pictures import SIDE, central_square, coloured_map


def settings(run: Path, *overrides: str) -> dict[str, Any]:
    with initialize_config_module(version_base="1.3", config_module="skinkd.conf"):
        composed = compose("app", overrides=[f"run={run}", *overrides])
    return OmegaConf.to_container(composed, resolve=True)  # type: ignore[return-value]


@pytest.fixture(scope="module")
def finished(train_tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on images of 64 pixels, whose maps have several cells, without its pictures; for reading only."""
    with pytest.MonkeyPatch.context() as patch:
        for picture in ("plot_curves", "plot_confusion"):
            patch.setattr(f"skinkd.training.scores.{picture}", lambda *_, **__: None)
        return train_tiny(tmp_path_factory.mktemp("finished64"), "data.image_size=64")


@pytest.fixture(scope="module")
def answers(finished: Path) -> Answers:
    return Answers(settings(finished))


@pytest.fixture(scope="module")
def files(finished: Path, synthetic_folder: Path) -> dict[str, Path]:
    """The images of the run's test part, by name."""
    test = read_predictions(finished / "predictions" / "test.csv")[0]["image_id"]
    found = {path.stem: path for path in synthetic_folder.rglob("*.jpg")}
    return {name: found[name] for name in test}


def test_the_probabilities_are_those_of_the_run(answers: Answers, finished: Path, files: dict[str, Path]) -> None:
    table = read_predictions(finished / "predictions" / "test.csv")[0].set_index("image_id")
    for name, file in list(files.items())[:5]:
        for one in answers.answer(file.read_bytes())["classes"]:
            assert one["probability"] == pytest.approx(table.loc[name, f"p_{one['name']}"], abs=1e-6)


def test_classes_come_in_order_of_probability(answers: Answers) -> None:
    classes = answers.answer(draw_examples()["mel"])["classes"]
    shares = [one["probability"] for one in classes]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1, abs=1e-6)
    assert {one["name"] for one in classes} == {"akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"}


def test_the_set_is_that_of_the_validation_part(answers: Answers, finished: Path, files: dict[str, Path]) -> None:
    """By hand: a class is in the set if 1 - p is at most the ⌈(n + 1)·level⌉-th smallest of its n validation images."""
    validation = read_predictions(finished / "predictions" / "val.csv")[0]
    level, thresholds = 0.9, {}
    for name in answers.network.predictor.classes:
        own = validation[validation["label"] == name]
        rank = int(np.ceil(round((len(own) + 1) * level, 9)))
        thresholds[name] = np.inf if rank > len(own) else np.sort(1 - own[f"p_{name}"])[rank - 1]
    assert answers.about()["set"]["always"] == [name for name, most in thresholds.items() if most == np.inf]
    for file in list(files.values())[:5]:
        for one in answers.answer(file.read_bytes())["classes"]:
            assert one["in_set"] == (1 - one["probability"] <= thresholds[one["name"]])


def test_the_card_counts_the_test_part(answers: Answers, finished: Path) -> None:
    test = read_predictions(finished / "predictions" / "test.csv")[0]
    card = answers.about()["card"]
    for row in card["results"]["classes"]:
        own = test[test["label"] == row["class"]]
        assert row["n"] == len(own)
        assert row["lesions"] == own["group"].nunique()
        if len(own):
            assert row["sensitivity"] == pytest.approx((own["prediction"] == row["class"]).mean())
            assert row["sensitivity_low"] <= row["sensitivity"] <= row["sensitivity_high"]
    json.dumps(answers.about(), allow_nan=False)


def test_a_checkpoint_alone_has_neither_set_nor_results(finished: Path, tmp_path: Path) -> None:
    file = shutil.copy(finished / "checkpoints" / "best.ckpt", tmp_path)
    alone = Answers(settings(Path(file)))
    about = alone.about()
    assert about["set"] is None
    assert about["card"]["results"]["reason"]
    assert not any(one["in_set"] for one in alone.answer(draw_examples()["mel"])["classes"])


@pytest.fixture(scope="module")
def exported(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The parts of an exported folder that the page reads, with sets at 0.5."""
    folder, trained = tmp_path_factory.mktemp("exported"), open_trained(str(finished))
    program = trace(trained.network, image_size=64, input_type="uint8", exits=())
    write_onnx(program, folder / "model.onnx", exits=(), metadata={})
    validation, classes = read_predictions(finished / "predictions" / "val.csv")
    facts = {
        "classes": classes,
        "image_size": 64,
        "files": {"fp32": "model.onnx", "int8": "model_int8.onnx"},
        "input": {"name": "image", "dtype": "uint8"},
        "outputs": {name: name for name in ("logits", "probabilities")},
        "conformal": as_plain(fit_conformal(validation, classes, level=0.5)),
    }
    (folder / "export.json").write_text(json.dumps(facts))
    return folder


def test_an_exported_folder_says_what_the_run_says(answers: Answers, exported: Path) -> None:
    export, image = Answers(settings(exported)), draw_examples()["mel"]
    of_run, of_export = answers.answer(image), export.answer(image)
    assert [one["name"] for one in of_run["classes"]] == [one["name"] for one in of_export["classes"]]
    for before, after in zip(of_run["classes"], of_export["classes"], strict=True):
        assert after["probability"] == pytest.approx(before["probability"], abs=1e-5)
    assert of_export["picture"] == of_run["picture"]
    assert export.method == "occlusion"
    about = export.about()
    assert (about["card"], about["set"]["level"], about["set"]["coverage"]) == (None, 0.5, {})


def test_an_exported_folder_has_the_map_of_the_run(answers: Answers, exported: Path) -> None:
    """Occlusion of the exported file and of the network in PyTorch, whose pixels between the bytes are not rounded."""
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 64, 64), dtype=np.uint8))
    export, target = Answers(settings(exported)), torch.tensor([3])
    maps = [make_maps("occlusion", of.network.output, image, target, of.explanation) for of in (answers, export)]
    assert maps[0].max() > 0
    torch.testing.assert_close(maps[1], maps[0], atol=0.02 * float(maps[0].max()), rtol=0)


def test_an_exported_folder_with_a_card_shows_it(
    answers: Answers, exported: Path, finished: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(exported, tmp_path / "export")
    write_card(open_trained(str(finished)), folder)
    assert Answers(settings(folder)).about()["card"] == json.loads(json.dumps(answers.about()["card"]))
    (folder / "model_card.json").write_text("{")
    with pytest.raises(UserError, match=r"model_card.json cannot be read .*; export the run again$"):
        Answers(settings(folder))


@pytest.mark.parametrize("learned", [True, False])
def test_the_page_repeats_the_verdict_on_its_explanations(finished: Path, tmp_path: Path, learned: bool) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "explanations").mkdir()
    scores = {"final/gradcam/depends": learned, "final/gradcam/off-centre/auc": 0.7, "final/ig/depends": not learned}
    (run / "explanations" / "scores.json").write_text(json.dumps(scores))
    assert Answers(settings(run)).about()["learned"] is learned


def test_the_page_gives_no_verdict_that_nobody_found(answers: Answers) -> None:
    assert answers.about()["learned"] is None


# ------------------------------------------------------------- pictures


def png(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize(("height", "width", "side"), [(30, 50, 30), (700, 600, SIDE), (512, 2000, SIDE), (1, 1, 1)])
def test_the_square_is_the_middle(height: int, width: int, side: int) -> None:
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.linspace(0, 255, width).astype(np.uint8)
    square = png(central_square(image))
    assert square.shape == (side, side, 3)
    start = (width - min(height, width)) // 2
    assert square[..., 2].mean() == pytest.approx(image[:, start : start + min(height, width), 0].mean(), abs=1)
    assert square[..., 0].max() == 0, "red stays red"


def test_the_map_is_clear_where_it_is_weak() -> None:
    values = np.zeros((8, 8), np.float32)
    values[2:4, 4:6] = 3
    found = coloured_map(values)
    assert found is not None
    alpha = png(found)[..., 3]
    assert alpha.shape == (SIDE, SIDE)
    row, column = np.unravel_index(alpha.argmax(), alpha.shape)
    cell = SIDE // 8
    assert 2 * cell <= row < 4 * cell and 4 * cell <= column < 6 * cell
    assert alpha[6 * cell :].max() == 0 and alpha[:, : 2 * cell].max() == 0
    assert alpha.max() == 255


def test_a_map_without_evidence_is_none() -> None:
    assert coloured_map(np.zeros((8, 8), np.float32)) is None


def test_the_map_is_of_the_most_probable_class(answers: Answers) -> None:
    """Occlusion and Grad-CAM are tested in tests/explanation; here, that the page shows the map of its own prediction."""
    image = draw_examples()["vasc"]
    found = answers.answer(image)
    pixels = answers.pipeline(image=decode_image(image, max_pixels=10**6, name="it"))["image"]
    number = answers.network.predictor.classes.index(found["classes"][0]["name"])
    batch = torch.from_numpy(pixels.transpose(2, 0, 1)[None].copy())
    values = make_maps(answers.method, answers.network.output, batch, torch.tensor([number]), answers.explanation)
    shown = coloured_map(values[0].numpy())
    assert (found["map"] is None) == (shown is None)
    if shown is not None:
        assert b64decode(found["map"]["picture"]) == shown


def test_the_examples_are_the_same_each_time() -> None:
    first = draw_examples()
    assert first == draw_examples()
    assert {cv2.imdecode(np.frombuffer(one, np.uint8), 1).shape for one in first.values()} == {(*IMAGE_SIZE, 3)}
    assert len(set(first.values())) == 7 == len(pd.unique(pd.Series(list(first))))
