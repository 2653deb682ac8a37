"""Predictions of an exported folder, and what is said of a folder that is damaged or lacks something."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from predict_verb import Predict, settings

from skinkd.errors import UserError
from skinkd.inference.exported import open_exported
from skinkd.inference.fitted import fit_on_validation
from skinkd.inference.prediction import predict
from skinkd.inference.predictor import open_predictor


def test_an_exported_folder_gives_the_same_within_1e_5(table_of: Predict, listed: Path, exported: Path) -> None:
    asked = {"calibrate": True, "conformal": 0.8}
    of_run, of_export = table_of(listed, **asked), table_of(listed, run=str(exported), batch_size=7, **asked)
    columns = [name for name in of_run if name.startswith("p_")]
    np.testing.assert_allclose(of_export[columns], of_run[columns], atol=1e-5)
    assert of_export["prediction"].equals(of_run["prediction"]) and of_export["set"].equals(of_run["set"])


def test_an_exported_folder_that_is_damaged_or_lacks_something(exported: Path, tmp_path: Path) -> None:
    card = json.loads((exported / "export.json").read_text())
    copy = tmp_path / "export"
    copy.mkdir()

    def refused(words: str, **asked: Any) -> None:
        with pytest.raises(UserError, match=words):
            fit_on_validation(
                open_exported(copy, file="fp32"), **{"calibrate": False, "conformal": None, "coverage": None} | asked
            )

    (copy / "export.json").write_text("{")
    refused("cannot be read")
    (copy / "export.json").write_text(json.dumps({name: card[name] for name in card if name != "outputs"}))
    refused("has no outputs")
    (copy / "export.json").write_text(json.dumps(card | {"temperature": None, "conformal": None}))
    refused(r"model\.onnx cannot be opened by ONNX Runtime")
    (copy / "model.onnx").write_bytes((exported / "model.onnx").read_bytes())
    refused("holds no temperature that was fitted; give run=", calibrate=True)
    refused("holds no conformal that was fitted", conformal=0.9)
    refused("coverage=0.8 is fitted on validation predictions", coverage=0.8)
    (copy / "export.json").write_text(json.dumps(card))
    refused("were fitted at 0.8; give conformal=0.8", conformal=0.9)
    with pytest.raises(UserError, match="an export has no test predictions"):
        predict(settings(run=str(exported), calibrate=True))
    with pytest.raises(UserError, match="file=int16"):
        open_predictor(str(copy), file="int16")


def test_without_onnxruntime_one_sentence(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skinkd.inference.exported.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"needs onnxruntime; run pip install 'skinkd\[export\]'$"):
        open_predictor(str(exported), file="fp32")


def test_a_float_export_takes_floats(finished: Path) -> None:
    """The image as float32 in [0, 1] is the network's own division."""

    class Session:
        def run(self, outputs: list[str], given: dict[str, np.ndarray]) -> list[np.ndarray]:
            assert outputs == ["p"] and given["x"].dtype == np.float32 and given["x"].max() == 1
            return [np.ones((1, 2), np.float32)]

    from skinkd.inference.exported import Exported

    card = {"input": {"name": "x", "dtype": "float32"}, "outputs": {"probabilities": "p"}}
    found = Exported(Session(), ("a", "b"), 1, card, finished).probabilities(np.full((1, 3, 1, 1), 255, np.uint8))
    assert found.dtype == np.float64
