"""Predictions of a user's images: the run's own numbers to the last digit, and a row for every file that is no image."""

import json
import os
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_once  # noqa: F401
import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal
from predict_verb import Predict, settings

from skinkd.deployment.graph import INPUT, LOGITS, PROBABILITIES, trace, write_onnx
from skinkd.errors import UserError
from skinkd.inference.fitted import Fitted, fit_on_validation
from skinkd.inference.inputs import find_inputs
from skinkd.inference.prediction import predict, prediction_rows
from skinkd.inference.predictor import TTA, predicted
from skinkd.inference.trained import open_trained
from skinkd.predict import quoted
from skinkd.scoring.conformal import fit_conformal, prediction_sets
from skinkd.scoring.predictions import probability_columns, read_predictions
from skinkd.scoring.temperature import apply_temperature, fit_temperature


def test_the_runs_own_test_images_get_its_own_numbers_to_the_last_digit(
    table_of: Predict, listed: Path, finished: Path, own_images: pd.DataFrame
) -> None:
    own, classes = read_predictions(finished / "predictions" / "test.csv")
    found = table_of(listed)
    assert list(found.columns) == ["path", "prediction", *probability_columns(classes), "error"]
    assert found["path"].tolist() == own_images["path"].tolist() and set(found["error"]) == {""}
    columns = ["prediction", *probability_columns(classes)]
    assert_frame_equal(found[columns].astype(own[columns].dtypes), own[columns], check_exact=True)
    text = pd.read_csv(finished / "predictions" / "test.csv", dtype=str)
    assert pd.read_csv(listed.parent / "out0.csv", dtype=str)[columns].equals(text[columns]), "digit for digit"
    by_size = table_of(listed, batch_size=5)
    np.testing.assert_allclose(by_size[columns[1:]], own[columns[1:]], rtol=0, atol=1e-6)
    by_workers = table_of(listed, num_workers=2, ending="jsonl")
    assert_frame_equal(by_workers[columns].astype(own[columns].dtypes), own[columns], check_exact=True)
    assert by_workers["error"].isna().all()


@pytest.mark.parametrize(
    "network",
    [
        ["backbone=timm", "backbone.name=test_vit", "+backbone.options={depth: 2}"],
        [
            *(
                "method=mskd_teacher",
                "backbone=mskd_teacher",
                "backbone.convmixer={patch_size:4,depth:2,dim:16,kernel_size:3}",
            ),
            *("backbone.small_vit.embed_dim=64", "backbone.small_vit.depth=2", "backbone.fusion_width=8"),
        ],
    ],
    ids=["vit", "mskd"],
)
def test_other_networks_get_their_own_numbers_too(
    network: list[str], trained: Callable[..., Path], listed: Path, table_of: Predict, tmp_path: Path
) -> None:
    """To the last digit with the run's batches; nearly so with others and from a file, where sums are rounded otherwise."""
    run = trained(*network, "trainer.max_epochs=1", "evaluation.bootstrap_replicates=2")
    own, classes = read_predictions(run / "predictions" / "test.csv")
    columns = probability_columns(classes)
    np.testing.assert_array_equal(table_of(listed, run=str(run))[columns].to_numpy(), own[columns].to_numpy())
    for size in (1, 7):
        by_size = table_of(listed, run=str(run), batch_size=size)
        np.testing.assert_allclose(by_size[columns], own[columns], rtol=0, atol=1e-6)
    of_run = open_trained(str(run))
    graph = trace(of_run.network, image_size=32, input_type="uint8", exits=())
    write_onnx(graph, tmp_path / "model.onnx", exits=(), metadata={})
    card = {
        **{"classes": classes, "image_size": 32, "files": {"fp32": "model.onnx"}},
        "input": {"name": INPUT, "dtype": "uint8"},
        "outputs": {name: name for name in (LOGITS, PROBABILITIES)},
    }
    (tmp_path / "export.json").write_text(json.dumps(card))
    exported = table_of(listed, run=str(tmp_path), batch_size=7)
    np.testing.assert_allclose(exported[columns], own[columns], rtol=0, atol=1e-5)


def test_calibration_sets_and_abstention_are_those_of_validation(
    table_of: Predict, listed: Path, finished: Path
) -> None:
    val, classes = read_predictions(finished / "predictions" / "val.csv")
    test, _ = read_predictions(finished / "predictions" / "test.csv")
    columns = probability_columns(classes)
    found = table_of(listed, calibrate=True, conformal=0.8, coverage=0.6, ending="jsonl")
    expected = apply_temperature(test, classes, fit_temperature(val, classes))
    np.testing.assert_array_equal(found[columns].to_numpy(), expected[columns].to_numpy())
    assert found["prediction"].tolist() == test["prediction"].tolist()
    sets = prediction_sets(test[columns].to_numpy(), fit_conformal(val, classes, level=0.8))
    assert found["set"].tolist() == [[classes[k] for k in np.flatnonzero(row)] for row in sets]
    assert found["set_size"].tolist() == sets.sum(axis=1).tolist()
    sure = np.sort(val[columns].max(axis=1))[::-1]
    threshold = sure[int(np.ceil(round(0.6 * len(sure), 9))) - 1]
    assert found["abstain"].tolist() == (test[columns].max(axis=1) < threshold).tolist()


def test_a_file_that_is_no_image_is_a_row(table_of: Predict, own_images: pd.DataFrame, tmp_path: Path) -> None:
    from tests.data.hostile_images import REFUSED

    folder = tmp_path / "our images"
    (folder / "deeper").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for name, (make, _) in REFUSED.items():
        (folder / f"{name}.jpg").write_bytes(make())
    good = Path(own_images["path"][0]).read_bytes()
    for name in ("deeper/=1+1.PNG", "deeper/ü, [1].jpg", ".hidden/not.jpg", "notes.txt", "._mac.jpg"):
        (folder / name).write_bytes(good)
    (folder / "a scan.dcm").write_bytes(bytes(128) + b"DICM")
    os.mkfifo(folder / "pipe.jpg")
    odd = os.fsencode(folder) + b"/\xff.jpg"  # no UTF-8
    Path(os.fsdecode(odd)).write_bytes(good)
    found = table_of(folder, conformal=0.8, coverage=0.8, batch_size=5)
    assert len(found) == len(REFUSED) + 5
    readable = found[found["error"] == ""]
    assert sorted(Path(path).name for path in readable["path"]) == ["=1+1.PNG", "\\udcff.jpg", "ü, [1].jpg"]
    shares = readable[[name for name in found if name.startswith("p_")]].astype(float)
    np.testing.assert_allclose(shares, shares.iloc[[0] * 3], atol=1e-6)  # batches of other images round otherwise
    refused = found[found["error"] != ""]
    assert (refused.drop(columns=["path", "error"]) == "").all(axis=None)
    for _, row in refused.iterrows():
        words = REFUSED.get(Path(row["path"]).stem, (None, "is a"))[1]
        assert row["error"].startswith(row["path"]) and words in row["error"]
    lines = table_of(folder, ending="jsonl", conformal=0.8, coverage=0.8)
    assert lines["set"].isna().sum() == lines["abstain"].isna().sum() == len(REFUSED) + 2


def test_nothing_readable_at_all_is_a_table_too(table_of: Predict, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.jpg").write_bytes(b"no")
    found = table_of(folder, tta="flips")
    assert found["prediction"].tolist() == [""] * 3 and (found["error"] != "").all()


def test_the_only_image_may_be_unreadable(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"<svg>")
    out = tmp_path / "table.jsonl"
    with pytest.raises(UserError, match=r"x\.jpg is an SVG drawing"):
        predict(settings(run=str(finished), input=str(tmp_path / "x.jpg"), out=str(out)))
    assert "is an SVG drawing" in json.loads(out.read_text())["error"]


def test_weights_lie_in_memory_as_in_training(
    finished: Path, own_images: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Convolutions add in another order in another memory format, and the last digits differ."""
    opened = []
    monkeypatch.setattr(
        "skinkd.inference.prediction.open_predictor",
        lambda given, **_: opened.append(open_trained(given)) or opened[-1],
    )
    for channels_last in (False, True):
        run = tmp_path / str(channels_last)
        shutil.copytree(finished, run)
        config = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(
            config.replace("channels_last: false", f"channels_last: {channels_last}".lower())
        )
        predict(settings(run=str(run), input=own_images["path"][0]))
        weight = next(value for value in opened[-1].network.parameters() if value.ndim == 4 and value.shape[1] > 1)
        assert weight.is_contiguous(memory_format=torch.channels_last) is channels_last


def test_a_network_that_diverged_says_so(finished: Path) -> None:
    network = open_trained(str(finished))
    with torch.no_grad():
        next(network.network.parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match="is not finite"):
        predicted(network, np.zeros((2, 3, 32, 32), np.uint8), tta="none")


def test_a_single_image_is_shown(
    table_of: Predict, own_images: pd.DataFrame, finished: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    image = own_images["path"][0]
    own, classes = read_predictions(finished / "predictions" / "test.csv")
    predict(settings(run=str(finished), input=image, top=3, conformal=0.8, calibrate=True, coverage=1.0))
    said = capsys.readouterr().out
    assert len([line for line in said.splitlines() if line.strip().startswith(tuple(classes))]) == 3
    assert own["prediction"][0] in said and "set: " in said
    assert "temperature" in said and "fitted on" in said and "abstention below a confidence" in said
    assert (
        "conformal sets at 0.8, fitted by class on validation images: akiec" in said
        and "in every set, for fewer" in said
    )


def test_the_report_on_the_test_part(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predict(settings(run=str(finished), calibrate=True, conformal=0.8, coverage=0.8))
    said = capsys.readouterr().out
    _, classes = read_predictions(finished / "predictions" / "test.csv")
    for words in ("calibration error (ECE)", "all (accuracy)", "area under the risk–coverage curve", "(in every set)"):
        assert words in said
    assert all(sum(line.strip().startswith(name) for line in said.splitlines()) == 2 for name in classes)


def test_a_temperature_that_changes_nothing_says_so(finished: Path, tmp_path: Path) -> None:
    trained = open_trained(str(finished))
    val, classes = read_predictions(finished / "predictions" / "val.csv")
    fitted = apply_temperature(val, classes, fit_temperature(val, classes))
    copy = tmp_path / "run"
    (copy / "predictions").mkdir(parents=True)
    fitted.to_csv(copy / "predictions" / "val.csv", index=False)
    again = fit_on_validation(
        trained._replace(run=type(trained.run)(copy)), calibrate=True, conformal=None, coverage=None
    )
    assert again.temperature == pytest.approx(1, abs=1e-4) and "it changes nothing" in again.remarks[0]
    first = fit_on_validation(trained, calibrate=True, conformal=None, coverage=None)
    assert "it changes a probability by up to" in first.remarks[0]


@pytest.mark.parametrize("tta", TTA)
def test_views_are_averaged(tta: str, finished: Path) -> None:
    network = open_trained(str(finished))
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
    squares = {
        "none": [lambda x: x],
        "flips": [lambda x: x, lambda x: x[..., ::-1], lambda x: x[..., ::-1, :], lambda x: x[..., ::-1, ::-1]],
    }
    turns = [
        lambda x: x,
        lambda x: x.swapaxes(2, 3),
        lambda x: x[..., ::-1, ::-1],
        lambda x: x.swapaxes(2, 3)[..., ::-1, ::-1],
    ]
    squares["dihedral"] = [lambda x, t=t, f=f: f(t(x)) for t in turns for f in (lambda x: x, lambda x: x[..., ::-1])]
    expected = np.mean([network.probabilities(np.ascontiguousarray(view(images))) for view in squares[tta]], axis=0)
    np.testing.assert_allclose(predicted(network, images, tta=tta), expected, atol=1e-12)
    assert len({view(images).tobytes() for view in TTA[tta]}) == len(TTA[tta])
    if tta == "dihedral":
        turned = predicted(network, np.rot90(images, 1, (2, 3)), tta=tta)
        np.testing.assert_allclose(turned, expected, atol=1e-5)


def test_what_input_names(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "deep/c.webp", "d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    folder = str(tmp_path)
    assert find_inputs(folder)[0] == [f"{folder}/{name}" for name in ("a.PNG", "b.jpg", "deep/c.webp")]
    assert find_inputs(f"{folder}/**/*.webp")[0] == [f"{folder}/deep/c.webp"]
    assert find_inputs(f"{folder}/*.*")[0] == [f"{folder}/{name}" for name in ("a.PNG", "b.jpg", "d.txt")]
    assert find_inputs(f"{folder}/d.txt")[0] == [f"{folder}/d.txt"]
    table = tmp_path / "list.csv"
    table.write_text("image;note\nb.jpg;=1\ndeep/c.webp;\n")
    assert find_inputs(str(table))[0] == [f"{folder}/b.jpg", f"{folder}/deep/c.webp"]
    table.write_text("path,prediction\n'=1.jpg,nv\n/else/where.jpg,nv\n")
    assert find_inputs(str(table))[0] == [f"{folder}/=1.jpg", "/else/where.jpg"]
    (tmp_path / "[x].jpg").touch()
    assert find_inputs(f"{folder}/[x].jpg")[0] == [f"{folder}/[x].jpg"]
    table.write_text("file\nb.jpg\n")
    (tmp_path / "empty").mkdir()
    for wrong, words in (
        (str(table), "no column 'path' or 'image'; it has file"),
        (f"{folder}/empty", "is a folder without images"),
        (f"{folder}/*.bmp", "nor a pattern that fits a file"),
        (f"{folder}/absent.jpg", "check the path"),
    ):
        with pytest.raises(UserError, match=words):
            find_inputs(wrong)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"input": None}, "input has no value"),
        ({"input": None, "coverage": 0.8, "out": "x.csv"}, "out=x.csv is for a table"),
        ({"out": None}, r"has \d+ images, and a table of them needs a file; give out="),
        ({"out": "x.xlsx"}, r"must end in \.csv or \.jsonl"),
        ({"tta": "flip"}, "tta=flip is not a valid value; did you mean 'flips'"),
        ({"conformal": 90}, "conformal=90 is out of range"),
        ({"coverage": 0}, "coverage=0 is out of range"),
        ({"top": 0}, "top=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"max_pixels": 1.5}, "max_pixels=1.5"),
        ({"run": "absent"}, "neither a run folder"),
    ],
)
def test_mistakes_leave_no_file(
    given: dict[str, Any], words: str, finished: Path, listed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "table.csv"
    with pytest.raises(UserError, match=words):
        predict(settings(**{"run": str(finished), "input": str(listed), "out": str(out)} | given))
    assert not out.exists() and sorted(tmp_path.iterdir()) == [listed]


def test_a_table_is_never_replaced_by_accident(finished: Path, own_images: pd.DataFrame, tmp_path: Path) -> None:
    out = tmp_path / "deeper" / "table.csv"
    given = settings(run=str(finished), input=own_images["path"][0], out=str(out))
    predict(given)
    out.write_text("mine")
    with pytest.raises(UserError, match="exists already; give another, or force=true"):
        predict(given)
    assert out.read_text() == "mine"
    predict(given | {"force": True})
    assert out.read_text().startswith("path,prediction,p_akiec") and os.listdir(out.parent) == ["table.csv"]


def test_a_checkpoint_alone_predicts_but_has_no_validation(
    finished: Path, own_images: pd.DataFrame, tmp_path: Path
) -> None:
    alone = tmp_path / "best.ckpt"
    alone.write_bytes((finished / "checkpoints" / "best.ckpt").read_bytes())
    image = own_images["path"][0]
    predict(settings(run=str(alone), input=image))
    with pytest.raises(UserError, match=r"a checkpoint by itself has none; give run="):
        predict(settings(run=str(alone), input=image, calibrate=True))


def test_an_empty_set_is_not_a_missing_one() -> None:
    sets = fit_conformal(table := _rows(40), ("a", "b"), level=0.5)
    sets = sets._replace(threshold=np.array([0.0, 0.0]))
    fitted = Fitted(None, sets, None, ())
    rows = prediction_rows(["x", "y"], np.array([[0.5, 0.5], [np.nan, np.nan]]), {1: "no"}, ("a", "b"), fitted)
    assert rows["set"].tolist() == [[], None] and rows["set_size"].tolist() == [0, pd.NA] and len(table) == 40


def _rows(n: int) -> pd.DataFrame:
    ids = [f"i{k:03d}" for k in range(n)]
    rows = pd.DataFrame({"image_id": ids, "group": ids, "label": ["a", "b"] * (n // 2), "prediction": "a"})
    return rows.assign(p_a=0.6, p_b=0.4)


@pytest.mark.parametrize(
    "value", ["a b.jpg", 'a"b', "end\\", 'q\\"x', "it's", "a,b", "[x](1)", "*.jpg", "{a}", "a=b", "#1"]
)
def test_any_path_can_be_given(value: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parse = OverridesParser.create().parse_override
    assert parse(quoted(f"input={value}")).value() == value
    assert (
        quoted("tta=flips") == "tta=flips" and quoted("out=null") == "out=null" and quoted('run="x y"') == 'run="x y"'
    )


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_the_verb_from_the_command_line(
    finished: Path,
    own_images: pd.DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    image = tmp_path / "lesion (1), left.jpg"
    image.write_bytes(Path(own_images["path"][0]).read_bytes())
    words = [f"run={finished}", f"input={image}", f"out={tmp_path / 'table.jsonl'}", "num_workers=0"]
    monkeypatch.setattr(sys, "argv", ["predict", *words])
    runpy.run_module("skinkd.predict", run_name="__main__")
    row = json.loads((tmp_path / "table.jsonl").read_text())
    assert row["path"] == str(image) and row["error"] is None and row["prediction"] in capsys.readouterr().out
    own = read_predictions(finished / "predictions" / "test.csv")[0].iloc[0]
    assert row["prediction"] == own["prediction"] and row["p_nv"] == pytest.approx(own["p_nv"], abs=1e-6)
    for wrong, sentence in (
        ("input=absent.jpg", "error: input=absent.jpg is neither"),
        ("-m", "error: -m starts several"),
    ):
        monkeypatch.setattr(sys, "argv", ["predict", f"run={finished}", wrong])
        with pytest.raises(SystemExit, match="2"):
            runpy.run_module("skinkd.predict", run_name="__main__")
        assert capsys.readouterr().err.startswith(sentence)
