"""Show where a trained network looks, and score that: python -m skinkd.explain run=outputs/<run>."""

from importlib.util import find_spec

from omegaconf import DictConfig

from skinkd.config import cli
from skinkd.errors import UserError


def explain(settings: DictConfig) -> None:
    """Explain the test images of ``run``, or the images of ``input``."""
    for name in ("captum", "skimage"):
        if find_spec(name) is None:
            raise UserError(f"python -m skinkd.explain needs the package {name}; run pip install 'skinkd[explain]'")
    from skinkd.explanation import run  # imports torch and captum, which take seconds

    run.explain(settings)


if __name__ == "__main__":
    cli.main(explain, "explain")
