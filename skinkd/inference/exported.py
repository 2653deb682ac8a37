"""Opens a folder that ``python -m skinkd.export`` wrote, and runs its network with ONNX Runtime."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skinkd.errors import UserError, check_choice

CARD = "export.json"
_KEYS = ("classes", "image_size", "files", "input", "outputs")


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
        found = self.session.run([self.card["outputs"]["probabilities"]], {self.card["input"]["name"]: given})
        return found[0].astype(np.float64)


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
    import onnxruntime  # takes a second

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
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
    absent = [key for key in _KEYS if not isinstance(card, dict) or key not in card]
    if absent:
        raise UserError(f"{setting}: {folder / CARD} has no {', '.join(absent)}; export the run again")
    return card
