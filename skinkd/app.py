"""Show a trained network on a page of this machine: python -m skinkd.app run=outputs/<run>."""

import sys
from functools import partial
from importlib.util import find_spec
from typing import Any

from omegaconf import DictConfig, OmegaConf

from skinkd.config import cli
from skinkd.config.ranges import check_ranges
from skinkd.config.user_errors import user_errors
from skinkd.errors import UserError

PACKAGES = ("starlette", "uvicorn", "captum", "skimage")


def app(settings: DictConfig) -> None:
    """Serve the page until Ctrl-C."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise UserError(f"python -m skinkd.app needs the package {missing[0]}; run pip install 'skinkd[app]'")
    config: dict[str, Any] = OmegaConf.to_container(settings, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    check_ranges(config)
    from skinkd.web.opening import open_network
    from skinkd.web.serve import serve
    from skinkd.web.server import Limits

    limits = config["limits"]
    serve(
        partial(open_network, config),
        host=config["host"],
        port=config["port"],
        limits=Limits(**{name: limits[name] for name in Limits._fields}),
        seconds=limits["seconds"],
        memory_mb=limits["memory_mb"],
    )


if __name__ == "__main__":
    with user_errors():
        for argument in sys.argv[1:]:
            if argument in ("-m", "--multirun") or argument.startswith("sweep="):
                raise UserError(f"{argument} starts several runs, and the page shows one network; leave it out")
    cli.main(app, "app")
