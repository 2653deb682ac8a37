"""What the page shows of a network and of an image; it runs in the worker process."""

from base64 import b64encode
from typing import Any

import numpy as np
import torch

from skinkd.data.decode import decode_image
from skinkd.data.transforms import eval_pipeline
from skinkd.explanation.maps import make_maps, methods_for
from skinkd.web.examples import draw_examples
from skinkd.web.networks import open_for_page
from skinkd.web.pictures import central_square, coloured_map

METHODS = ("gradcam", "occlusion")
"""Methods of explanation; the first that can explain the network is taken."""


class Answers:
    """An open network, and how the page's questions about it are answered.

    Args:
        settings: those of conf/app.yaml, resolved.

    Raises:
        UserError: there is no such network, or a setting is out of range.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.network = open_for_page(
            settings["run"], cells=settings["explanation"]["cells"], level=settings["interval"]
        )
        self.pipeline = eval_pipeline(image_size=self.network.image_size)
        self.method = methods_for(self.network.output, METHODS)[0]

    def about(self) -> dict[str, Any]:
        """Return what the page shows of the network before there is an image, as plain values."""
        examples = [{"name": name, "jpeg": _text(jpeg)} for name, jpeg in draw_examples().items()]
        return {"network": self.network.name, "card": self.network.card, "examples": examples}

    def answer(self, image: bytes) -> dict[str, Any]:
        """Return what the page shows of an image, as plain values.

        Args:
            image: the bytes of its file.

        Raises:
            UserError: they are no image that is read, or it is too large.
        """
        pixels = decode_image(image, max_pixels=self.settings["max_pixels"], name="The file")
        seen = torch.from_numpy(self.pipeline(image=pixels)["image"].transpose(2, 0, 1)[None].copy())
        with torch.inference_mode():
            probability = self.network.output.logits(seen)[0].softmax(0).double().numpy()
        order = np.argsort(-probability, kind="stable")
        classes = [{"name": self.network.classes[k], "probability": float(probability[k])} for k in order]
        return {
            "classes": classes,
            "set": None,
            "picture": _text(central_square(pixels)),
            "map": self._map(seen, int(order[0])),
        }

    def _map(self, image: torch.Tensor, number: int) -> dict[str, Any] | None:
        output = self.network.output
        values = make_maps(self.method, output, image, torch.tensor([number]), self.settings["explanation"])[0]
        picture = coloured_map(values.numpy())
        if picture is None:
            return None
        cells = list(output.layer.cells) if self.method == "gradcam" and output.layer else None
        return {"method": self.method, "cells": cells, "picture": _text(picture)}


def _text(data: bytes) -> str:
    return b64encode(data).decode()
