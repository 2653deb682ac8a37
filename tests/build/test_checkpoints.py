"""What a checkpoint holds, and that it is what was scored."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from torch import Tensor
from train_process import metrics_of

from skinkd.build.objects import build_data
from skinkd.build.tables import load_split
from skinkd.models.backbone import Backbone

Trained = Callable[..., Path]


def load(folder: Path, name: str = "best") -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", map_location="cpu", weights_only=True)


def fresh_network(card: dict[str, Any], state: dict[str, Tensor]) -> Backbone:
    """The network built from nothing but the checkpoint."""
    options = {name: value for name, value in card["backbone"].items() if name != "_target_"}
    network = Backbone(**options, num_classes=len(card["classes"])).eval()
    own = {name.removeprefix("network."): value for name, value in state.items() if name.startswith("network.")}
    network.load_state_dict(own, strict=True)
    return network


@torch.no_grad()
def scores(folder: Path, network: Backbone, part: str = "test") -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of the part's images by the given network, and the stored ones."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    data = build_data(config, *load_split(config))
    batches = data.test_dataloader() if part == "test" else data.val_dataloader()
    rows = data.rows(part)
    found = {}
    for batch in batches:
        for index, row in zip(batch.index.tolist(), network(batch.image).softmax(dim=1), strict=True):
            found[rows["image_id"][index]] = row.numpy()
    table = pd.read_csv(folder / "predictions" / f"{part}.csv")
    columns = [name for name in table.columns if name.startswith("p_")]
    return np.stack([found[name] for name in table["image_id"]]), table[columns].to_numpy()


@pytest.mark.parametrize("name", ["best", "last"])
def test_it_holds_plain_values_and_a_card(finished: Path, name: str) -> None:
    stored = load(finished, name)
    card = stored["skinkd"]
    splits = pd.read_csv(finished / "splits.csv", dtype=str).set_index("image_id")
    assert card["classes"] == ["akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"]
    assert card["backbone"]["name"] == "test_resnet.r160_in1k"
    for part in ("train", "val"):
        of_part = splits[splits["split"] == part]
        assert set(card["images"][part]) == set(of_part.index)
        assert set(card["groups"][part]) == set(of_part["group"])
    assert stored["epoch"] in (0, 1)


# SW-SKD trains the most beside the network; the others show nothing that it does not
@pytest.mark.parametrize(
    "method", ["swskd", *(pytest.param(name, marks=pytest.mark.slow) for name in ("supervised", "tsskd"))]
)
def test_a_fresh_network_gives_the_stored_predictions(trained: Trained, method: str) -> None:
    settings = ["data.image_size=64", "backbone.head=mlp", "class_weights=inverse", "trainer.max_epochs=1"]
    folder = trained(f"method={method}", *settings)
    stored = load(folder)
    network = fresh_network(stored["skinkd"], stored["state_dict"])
    # the deployed network is the plain one
    assert metrics_of(folder)["parameters"] == sum(parameter.numel() for parameter in network.parameters())
    for part in ("val", "test"):
        ours, theirs = scores(folder, network, part)
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    # nothing but weights: no class weights, no normalisation statistics
    assert not any("criterion" in key or "normalise" in key for key in stored["state_dict"])


def test_a_run_can_start_from_the_checkpoint_of_another(trained: Trained, finished: Path) -> None:
    weights = finished / "checkpoints" / "best.ckpt"
    folder = trained(f"backbone.weights={weights}", "optim.lr=1e-12", "trainer.max_epochs=1", "seed=3")
    before, after = load(finished)["state_dict"], load(folder)["state_dict"]
    parameters = [name for name, value in before.items() if value.is_floating_point() and "running_" not in name]
    assert len(parameters) > 10
    for name in parameters:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-9)


def test_with_ema_the_averages_of_the_best_epoch_are_stored_and_scored(trained: Trained) -> None:
    """The averaging callback puts its last average in place of any loaded weights if it takes part in scoring."""
    folder = trained(
        "method=tf_kd",
        "ema.decay=0.5",
        "optim=adam_multistep",
        "optim.lr=1e-3",
        "optim.schedule.at=[0.5]",
        "optim.schedule.factor=1e4",
        "monitor.metric=val/loss",
        "monitor.mode=min",
    )
    assert [load(folder, name)["epoch"] for name in ("best", "last")] == [0, 1]
    for name in ("best", "last"):
        stored = load(folder, name)
        averaged, raw = stored["state_dict"], stored["current_model_state"]
        key = next(key for key in averaged if key.startswith("network.") and averaged[key].is_floating_point())
        assert not torch.equal(averaged[key], raw[key])
    stored = load(folder)
    ours, theirs = scores(folder, fresh_network(stored["skinkd"], stored["state_dict"]))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    others, _ = scores(folder, fresh_network(stored["skinkd"], stored["current_model_state"]))
    assert np.abs(others - theirs).max() > 1e-3
