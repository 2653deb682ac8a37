"""Write a trained network as files that run without us: python -m skinkd.export run=outputs/<run>."""

import sys
from importlib.util import find_spec
from typing import Any

from omegaconf import DictConfig, OmegaConf

from skinkd.config import cli
from skinkd.errors import UserError

PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def export(settings: DictConfig) -> None:
    """Write the export folder of ``run``; exit code 1 if int8 loses more than the limits allow."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise UserError(f"python -m skinkd.export needs {', '.join(missing)}; run pip install 'skinkd[export]'")
    from skinkd.deployment.folder import export_run  # imports torch, which takes seconds

    values: dict[str, Any] = OmegaConf.to_container(settings, resolve=True)  # type: ignore[assignment]
    if not export_run(values):
        sys.exit(1)


if __name__ == "__main__":
    cli.main(export, "export")
