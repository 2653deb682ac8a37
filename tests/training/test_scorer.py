"""The scorer of a trainer's validation and test passes, on probabilities that the test knows."""

from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from skinkd.batch import Batch
from skinkd.scoring.metrics import evaluate
from skinkd.training.scorer import Scorer

CLASSES = ("a", "b", "c")


class Answers(L.LightningModule):
    """Says of image i what the row i of its tables says."""

    def __init__(self, outputs: dict[str, Tensor]) -> None:
        super().__init__()
        self.outputs = outputs

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        return {name: rows[batch.index] for name, rows in self.outputs.items()}

    test_step = validation_step

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Train nothing."""

    def configure_optimizers(self) -> None:
        """Train nothing."""


def probabilities(images: int, seed: int) -> Tensor:
    return torch.randn(images, len(CLASSES), generator=torch.Generator().manual_seed(seed)).softmax(dim=1)


def run(scorer: Scorer, method: Answers, part: str, images: int, batch_size: int) -> dict[str, Any]:
    samples = [Batch(torch.zeros(1), torch.tensor(0), torch.tensor(i)) for i in reversed(range(images))]
    trainer = L.Trainer(
        accelerator="cpu",
        callbacks=[scorer],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=1,
        num_sanity_val_steps=0,
    )
    loader = DataLoader(samples, batch_size=batch_size)  # type: ignore[arg-type]
    if part == "fit":
        trainer.fit(method, loader, loader)
    else:
        (trainer.validate if part == "val" else trainer.test)(method, loader, verbose=False)
    return dict(trainer.callback_metrics)


def data(images: int) -> Any:
    rows = pd.DataFrame(
        {
            "image_id": [f"image{i}" for i in range(images)],
            "group": [f"lesion{i // 2}" for i in range(images)],
            "label": [i % len(CLASSES) for i in range(images)],
        }
    )
    return SimpleNamespace(classes=CLASSES, rows=lambda part: rows)


@pytest.mark.parametrize("part", ["val", "test", "fit"])
@pytest.mark.parametrize(("images", "batch_size"), [(7, 3), (6, 6), (4, 1)])
def test_every_output_gets_its_table_and_metrics(part: str, images: int, batch_size: int) -> None:
    outputs = {"": probabilities(images, 0), "exit_1": probabilities(images, 1)}
    scorer = Scorer(data(images), calibration_bins=10)
    logged = run(scorer, Answers(outputs), part, images, batch_size)
    training, part = part == "fit", "val" if part == "fit" else part
    assert list(scorer.results) == [part]
    assert list(scorer.results[part]) == ["", "exit_1"]
    expected = {}
    for output, scored in scorer.results[part].items():
        assert scored.table["image_id"].tolist() == [f"image{i}" for i in range(images)]
        assert scored.table["label"].tolist() == [CLASSES[i % 3] for i in range(images)]
        np.testing.assert_array_equal(scored.table[["p_a", "p_b", "p_c"]], outputs[output].numpy())
        assert scored.metrics == evaluate(scored.table, CLASSES, calibration_bins=10)
        prefix = f"{part}/{output}/" if output else f"{part}/"
        expected |= {f"{prefix}{name}": value for name, value in scored.metrics.items()}
    expected = expected if training else {}  # the monitor and the history need them; after training nothing does
    assert {name: float(value) for name, value in logged.items()} == pytest.approx(expected, rel=1e-6)


def test_a_pass_replaces_the_one_before() -> None:
    scorer = Scorer(data(6), calibration_bins=10)
    run(scorer, Answers({"": probabilities(6, 0), "exit_1": probabilities(6, 1)}), "val", 6, 4)
    run(scorer, Answers({"": probabilities(6, 2)}), "val", 6, 4)
    assert list(scorer.results["val"]) == [""]
    np.testing.assert_array_equal(scorer.results["val"][""].table[["p_a", "p_b", "p_c"]], probabilities(6, 2).numpy())
