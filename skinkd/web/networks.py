"""A network that the page shows, from a run folder, a checkpoint or an exported folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from skinkd.card.facts import card_facts
from skinkd.card.write import JSON
from skinkd.errors import UserError
from skinkd.explanation.outputs import Output, outputs_of
from skinkd.inference.exported import Exported
from skinkd.inference.fitted import run_predictions
from skinkd.inference.predictor import Predictor, open_predictor
from skinkd.inference.trained import Trained
from skinkd.scoring.conformal import Conformal, fit_conformal, score_sets


class Network(NamedTuple):
    """An open network and what is known of it.

    Attributes:
        predictor: gives the probabilities.
        output: the classifier to explain.
        card: the facts of its model card (:func:`skinkd.card.facts.card_facts`); None: an export without a card.
        sets: its conformal sets; None: it has no validation predictions.
        coverage: share of the test images whose set holds the true class, by class, and "all"; empty if unknown.
        learned: for each method of explanation, whether its maps depend on what the network learned, as ``python -m
            skinkd.explain`` found; empty if that was not tried.
    """

    predictor: Predictor
    output: Output
    card: dict[str, Any] | None
    sets: Conformal | None
    coverage: dict[str, float]
    learned: dict[str, bool]


def open_for_page(given: str, *, file: str, level: float, cells: int) -> Network:
    """Open a run folder, a checkpoint or an exported folder.

    Args:
        given: the setting ``run``.
        file: of an exported folder, "fp32" or "int8".
        level: of the conformal sets of a run; those of an exported folder are fitted already.
        cells: as in :func:`skinkd.explanation.outputs.choose_layer`.

    Raises:
        UserError: it is none of these, or a file of it is damaged.
    """
    network = open_predictor(given, file=file)
    if isinstance(network, Exported):
        return Network(
            predictor=network,
            output=Output("final", _ExportedLogits(network), None),
            card=_read(network.folder / JSON, remedy="export the run again"),
            sets=network.sets(),
            coverage={},
            learned={},
        )
    return _of_run(network, level=level, cells=cells)


def _of_run(trained: Trained, *, level: float, cells: int) -> Network:
    sets, coverage = None, {}
    if _has(trained, "val"):
        sets = fit_conformal(run_predictions(trained, "val"), trained.classes, level=level)
        if _has(trained, "test"):
            scored = score_sets(run_predictions(trained, "test"), trained.classes, sets).dropna(subset="coverage")
            coverage = dict(zip(scored["class"], scored["coverage"].astype(float), strict=True))
    return Network(
        predictor=trained,
        output=outputs_of(trained.network, image_size=trained.image_size, cells=cells)[0],
        card=card_facts(trained, paths=None, export=None, export_notes=()),
        sets=sets,
        coverage=coverage,
        learned={} if trained.run is None else _learned(trained.run.path / "explanations" / "scores.json"),
    )


def _has(trained: Trained, part: str) -> bool:
    return trained.run is not None and (trained.run.path / "predictions" / f"{part}.csv").is_file()


def _learned(scores: Path) -> dict[str, bool]:
    """Return the verdicts in the scores of explanations, of the final classifier."""
    found = _read(scores, remedy="explain the run again") or {}
    names = ((name, name.split("/")) for name in found)
    return {parts[1]: bool(found[name]) for name, parts in names if (parts[0], parts[2:]) == ("final", ["depends"])}


def _read(file: Path, *, remedy: str) -> dict[str, Any] | None:
    try:
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    except ValueError as error:
        raise UserError(f"{file} cannot be read ({error}); {remedy}") from None


class _ExportedLogits(nn.Module):
    """The logits of an exported network, for explanations that need no gradient."""

    def __init__(self, network: Exported) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), uint8 or float in [0, 1], to (B, K)."""
        card: Mapping[str, Any] = self.network.card
        if card["input"]["dtype"] == "uint8":
            given = images if images.dtype == torch.uint8 else (images * 255).round().to(torch.uint8)
        else:
            given = images.float() / 255 if images.dtype == torch.uint8 else images
        found = self.network.session.run([card["outputs"]["logits"]], {card["input"]["name"]: given.detach().numpy()})
        return torch.from_numpy(np.asarray(found[0]))
