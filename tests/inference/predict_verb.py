"""The settings of ``python -m skinkd.predict``, as it composes them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

Predict = Callable[..., pd.DataFrame]
CONF = Path(__file__).parents[2] / "conf" / "predict.yaml"


def settings(**given: Any) -> dict[str, Any]:
    """The settings of the verb, as it composes them."""
    config: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(CONF))  # type: ignore[assignment]
    return {name: value for name, value in config.items() if name not in ("defaults", "hydra")} | given
