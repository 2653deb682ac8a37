"""Search settings on validation: python -m skinkd.tune method=swskd data=ham10000.

Each trial runs ``python -m skinkd.train`` in a separate process and run folder. It is scored on validation only. At the end
the search prints the command of the best trial. Only that command, given by hand, scores the test part.
"""

import sys
from importlib.util import find_spec

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from skinkd.config import cli
from skinkd.config.user_errors import user_errors
from skinkd.errors import UserError


def tune(settings: DictConfig) -> None:
    """Start a study, or continue it, until it has ``tune.trials`` trials."""
    if find_spec("optuna") is None:
        raise UserError("python -m skinkd.tune needs the package optuna; run pip install 'skinkd[tune]'")
    for name in ("config", "run_dir", "force"):
        if settings[name]:
            raise UserError(
                f"{name}={settings[name]} is for a single run, not for the trials of a search; leave it out"
            )
    given = list(HydraConfig.get().overrides.task)
    flags = [
        f"--config-dir={one.path}" for one in HydraConfig.get().runtime.config_sources if one.provider == "command-line"
    ]
    GlobalHydra.instance().clear()  # the plan composes the trials' configurations
    from skinkd.search.plan import plan_search  # imports torch and optuna, which take seconds
    from skinkd.search.study import search

    search(plan_search(settings, given, flags))


if __name__ == "__main__":
    with user_errors():
        for argument in sys.argv[1:]:
            if argument in ("-m", "--multirun") or argument.startswith("sweep="):
                raise UserError(f"{argument} starts several runs, and a search starts its trials itself; leave it out")
    cli.main(tune, "tune")
