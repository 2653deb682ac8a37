"""The images of a finished run, what the verb predicts for them, and the run as an exported folder."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from predict_verb import Predict, settings

from skinkd.build.tables import load_split
from skinkd.config.resolve import read_config
from skinkd.inference.prediction import predict
from skinkd.inference.trained import open_trained
from skinkd.runs.cells import original_table
from skinkd.scoring.conformal import as_plain, fit_conformal
from skinkd.scoring.predictions import read_predictions
from skinkd.scoring.temperature import fit_temperature


@pytest.fixture
def table_of(finished: Path, tmp_path: Path) -> Predict:
    """Predicts with settings of the verb and returns the table that it writes, text as text."""

    def run(images: object, *, ending: str = "csv", **given: Any) -> pd.DataFrame:
        out = tmp_path / f"out{len(list(tmp_path.glob('out*')))}.{ending}"
        predict(settings(**{"run": str(finished), "input": str(images), "out": str(out), "num_workers": 0} | given))
        if ending == "jsonl":
            return pd.DataFrame([json.loads(line) for line in out.read_text("utf-8").splitlines()])
        frame = original_table(pd.read_csv(out, dtype=str, keep_default_na=False))
        return frame.astype({name: float for name in frame if name.startswith("p_") and (frame["error"] == "").all()})

    return run


@pytest.fixture(scope="session")
def own_images(finished: Path) -> pd.DataFrame:
    """The run's own test images, in the order of its predictions."""
    table, parts = load_split(read_config(finished / "config.yaml"))
    return table.frame[(parts == "test").to_numpy()].sort_values("image_id", ignore_index=True)


@pytest.fixture
def listed(own_images: pd.DataFrame, tmp_path: Path) -> Path:
    file = tmp_path / "test images.csv"
    own_images[["image_id", "path"]].to_csv(file, index=False)
    return file


@pytest.fixture(scope="session")
def exported(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as ``python -m skinkd.export`` writes it, with the temperature and the sets of the run."""

    class Deployed(torch.nn.Module):
        def __init__(self, network: torch.nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            logits = self.network(image)
            return logits, logits.softmax(dim=1)

    folder, trained = tmp_path_factory.mktemp("exported"), open_trained(str(finished))
    val, classes = read_predictions(finished / "predictions" / "val.csv")
    names = ["logits", "probabilities"]
    torch.onnx.export(
        Deployed(trained.network),
        (torch.zeros((2, 3, 32, 32), dtype=torch.uint8),),
        str(folder / "model.onnx"),
        input_names=["image"],
        output_names=names,
        dynamic_axes={name: {0: "batch"} for name in ["image", *names]},
        dynamo=False,
    )
    card = {
        "classes": classes,
        "image_size": 32,
        "files": {"fp32": "model.onnx", "int8": "model_int8.onnx"},
        "input": {"name": "image", "dtype": "uint8", "layout": "NCHW"},
        "outputs": {name: name for name in names},
        "temperature": fit_temperature(val, classes),
        "conformal": as_plain(fit_conformal(val, classes, level=0.8)),
    }
    (folder / "export.json").write_text(json.dumps(card))
    return folder
