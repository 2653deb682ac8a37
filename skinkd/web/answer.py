"""What the page shows of a network and of an image; it runs in the worker process."""

from base64 import b64encode
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from skinkd.data.decode import decode_image
from skinkd.data.transforms import eval_pipeline
from skinkd.explanation.maps import make_maps, methods_for
from skinkd.scoring.conformal import prediction_sets
from skinkd.web.networks import open_for_page
from skinkd.web.pictures import central_square, coloured_map

METHODS = ("gradcam", "occlusion")
"""Methods of explanation; the first that can explain the network is taken."""


class Answers:
    """An open network, and the answers on it.

    Args:
        settings: those of conf/app.yaml, resolved.

    Raises:
        UserError: there is no such network, or a setting is out of range.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self.max_pixels, self.explanation = settings["max_pixels"], settings["explanation"]
        self.network = open_for_page(
            settings["run"], file=settings["file"], level=settings["set_level"], cells=self.explanation["cells"]
        )
        self.pipeline = eval_pipeline(image_size=self.network.predictor.image_size)
        self.method = methods_for(self.network.output, METHODS)[0]

    def about(self) -> dict[str, Any]:
        """Return what the page shows of the network before there is an image, as plain values."""
        card, sets, classes = self.network.card, self.network.sets, self.network.predictor.classes
        return {
            "size": self.network.predictor.image_size,
            "card": None
            if card is None
            else {name: card[name] for name in ("name", "model", "data", "results", "limits")},
            "set": None
            if sets is None
            else {
                "level": sets.level,
                "always": [name for name, most in zip(classes, sets.threshold, strict=True) if not np.isfinite(most)],
                "coverage": self.network.coverage,
            },
            "learned": self.network.learned.get(self.method),
        }

    def answer(self, image: bytes) -> dict[str, Any]:
        """Return what the page shows of an image, as plain values.

        Args:
            image: the bytes of its file.

        Raises:
            UserError: they are no image that is read, or it is too large.
        """
        pixels = decode_image(image, max_pixels=self.max_pixels, name="The file")
        seen = self.pipeline(image=pixels)["image"].transpose(2, 0, 1)[None].copy()
        probability, sets = self.network.predictor.probabilities(seen)[0], self.network.sets
        inside = None if sets is None else prediction_sets(probability, sets)
        order = np.argsort(-probability, kind="stable")
        return {
            "classes": [
                {
                    "name": self.network.predictor.classes[k],
                    "probability": float(probability[k]),
                    "in_set": inside is not None and bool(inside[k]),
                }
                for k in order
            ],
            "picture": in_base64(central_square(pixels)),
            "map": self._map(seen, int(order[0])),
        }

    def _map(self, image: NDArray[np.uint8], number: int) -> dict[str, Any] | None:
        output = self.network.output
        values = make_maps(self.method, output, torch.from_numpy(image), torch.tensor([number]), self.explanation)[0]
        picture = coloured_map(values.numpy())
        if picture is None:
            return None
        cells = list(output.layer.cells) if self.method == "gradcam" and output.layer else None
        return {"method": self.method, "cells": cells, "picture": in_base64(picture)}


def in_base64(data: bytes) -> str:
    """Return bytes in base64, as JSON holds them."""
    return b64encode(data).decode()
