"""Predict the classes of images: python -m skinkd.predict run=outputs/<run> input=<image, folder, pattern or CSV>."""

import re
import sys
from typing import Any

from omegaconf import DictConfig, OmegaConf

from skinkd.config import cli
from skinkd.config.user_errors import user_errors
from skinkd.errors import UserError

_PATHS = ("run", "input", "out")


def predict(settings: DictConfig) -> None:
    """Predict the images of ``input`` by the network of ``run``."""
    config: dict[str, Any] = OmegaConf.to_container(settings, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    from skinkd.inference import prediction  # imports torch, which takes seconds

    prediction.predict(config)


def quoted(word: str) -> str:
    """Return an override with its value in quotes if it is a path, which may hold spaces, brackets or commas."""
    name, equals, value = word.partition("=")
    if name not in _PATHS or not value or value in ("null", "???") or value[0] in "'\"":
        return word
    return (
        name
        + equals
        + '"'
        + re.sub(r'(\\*)("|$)', lambda end: 2 * end[1] + ("\\" if end[2] else "") + end[2], value)
        + '"'
    )


if __name__ == "__main__":
    with user_errors():
        for argument in sys.argv[1:]:
            if argument in ("-m", "--multirun"):
                raise UserError(f"{argument} starts several runs, and predict has one network; leave it out")
    sys.argv[1:] = [quoted(word) for word in sys.argv[1:]]
    cli.main(predict, "predict")
