"""Opens a folder that ``python -m skinkd.export`` wrote, and runs its network with ONNX Runtime."""

import json
import textwrap
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skinkd.errors import UserError, check_choice
from skinkd.scoring.conformal import Conformal, from_plain

CARD = "export.json"
_MOST_PIXELS = 10_000  # of a side of the network's images; a larger number in a stranger's file would fill the memory


def _names(value: Any, *keys: str) -> bool:
    """Return whether a value has these keys, and texts alone."""
    return isinstance(value, dict) and all(isinstance(value.get(key, ""), str) and key in value for key in keys)


_RIGHT: dict[str, Callable[[Any], bool]] = {
    "classes": lambda value: isinstance(value, list) and len(value) > 1 and all(isinstance(one, str) for one in value),
    "image_size": lambda value: type(value) is int and 1 <= value <= _MOST_PIXELS,
    "files": lambda value: isinstance(value, dict),
    "input": lambda value: _names(value, "name", "dtype"),
    "outputs": lambda value: _names(value, "logits", "probabilities"),
}
"""What a reader needs of export.json -> whether a value can be that."""


class Exported(NamedTuple):
    """The network of an exported folder.

    Attributes:
        session: ONNX Runtime's session of the chosen file.
        classes: the K class names, in the order of the probabilities.
        image_size: height and width of the network's images, px.
        card: the content of export.json.
        folder: the exported folder.
    """

    session: Any
    classes: tuple[str, ...]
    image_size: int
    card: dict[str, Any]
    folder: Path

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return class probabilities (N, K) of images (N, 3, H, W), computed in float32."""
        given = images if self.card["input"]["dtype"] == "uint8" else images.astype(np.float32) / np.float32(255)
        try:
            (found,) = self.session.run([self.card["outputs"]["probabilities"]], {self.card["input"]["name"]: given})
        except Exception as error:  # ONNX Runtime raises many kinds of errors for a network of another kind
            raise UserError(
                f"the network in {self.folder} does not take the images that {CARD} says ({type(error).__name__}); export the "
                "run again"
            ) from None
        if np.shape(found) != (len(images), len(self.classes)):
            raise UserError(
                f"the network in {self.folder} gives probabilities of shape {np.shape(found)} for {len(images)} images and "
                f"{len(self.classes)} classes; export the run again"
            )
        return np.asarray(found, np.float64)

    def sets(self) -> Conformal | None:
        """Return the conformal sets that were fitted before the export; None: none were.

        Raises:
            UserError: export.json holds something else in their place.
        """
        values = self.card.get("conformal")
        try:
            found = None if values is None else from_plain(values)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            found = Conformal(0.0, True, np.array([]), np.array([]))
        if found is not None and not (found.threshold.shape == found.n.shape == (len(self.classes),)):
            raise UserError(f"the sets (conformal) in {self.folder / CARD} are damaged; export the run again")
        return found


def is_export(folder: Path) -> bool:
    """Return whether a folder is an exported folder."""
    return (folder / CARD).is_file()


def open_exported(folder: Path, *, file: str, setting: str = "run") -> Exported:
    """Open an exported folder.

    Args:
        folder: the folder with export.json.
        file: "fp32" or "int8".
        setting: the key that gave the folder, for errors.

    Raises:
        UserError: ONNX Runtime is not installed, export.json is no export's, or the file cannot be opened.
    """
    if find_spec("onnxruntime") is None:
        raise UserError(
            f"{setting}={folder} is an exported folder, which needs onnxruntime; run pip install 'skinkd[export]'"
        )
    card = _read_card(folder, setting=setting)
    files = {name: value for name, value in card["files"].items() if str(value).endswith(".onnx")}
    path = folder / Path(str(files[check_choice("file", file, files)])).name
    if path.exists() and not path.is_file():  # a pipe hangs
        raise UserError(f"{setting}: {path} is not a file; export the run again")
    import onnxruntime  # takes a second

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its errors are told below, in one sentence
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises many kinds of errors for a damaged file
        raise UserError(
            f"{setting}: {path} cannot be opened by ONNX Runtime ({type(error).__name__}); export the run again"
        ) from None
    return Exported(session, tuple(card["classes"]), card["image_size"], card, folder)


def _read_card(folder: Path, *, setting: str) -> dict[str, Any]:
    try:
        card = json.loads((folder / CARD).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{setting}: {folder / CARD} cannot be read ({error}); export the run again") from None
    absent = [key for key in _RIGHT if not isinstance(card, dict) or key not in card]
    if absent:
        raise UserError(f"{setting}: {folder / CARD} has no {', '.join(absent)}; export the run again")
    for key, right in _RIGHT.items():
        if not right(card[key]):
            shown = textwrap.shorten(json.dumps(card[key]), 80)
            raise UserError(f"{setting}: {folder / CARD} has {key}={shown}, which no export has; export the run again")
    return card
