"""Search settings on validation: python -m skinkd.tune method=swskd data=ham10000.

Each trial is a run of ``python -m skinkd.train`` in a process and a run folder of its own, scored on validation alone. The
search ends with the command of the best trial. Only that command, given by hand, sees the test part.
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
    """Begin or go on with a study, until it has ``tune.trials`` trials."""
    if find_spec("optuna") is None:
        raise UserError("python -m skinkd.tune needs the package optuna; run pip install 'skinkd[tune]'")
    for name in ("config", "run_dir", "force"):
        if settings[name]:
            raise UserError(f"{name}={settings[name]} fits one run, not the trials of a search; leave it out")
    given = list(HydraConfig.get().overrides.task)
    GlobalHydra.instance().clear()  # the plan composes the trials' configurations
    from skinkd.search.plan import plan_search  # imports torch and optuna, which take seconds
    from skinkd.search.study import search

    search(plan_search(settings, given))


if __name__ == "__main__":
    with user_errors():
        for argument in sys.argv[1:]:
            if argument in ("-m", "--multirun") or argument.startswith("sweep="):
                raise UserError(f"{argument} makes many runs of one command, as a search does itself; leave it out")
    cli.main(tune, "tune")
