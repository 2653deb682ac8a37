"""The start of every verb that Hydra configures."""

import sys
from collections.abc import Callable

import hydra
from omegaconf import DictConfig

from skinkd.config.command_line import CONF, flag_first, hold_back, stored_sweep
from skinkd.config.overrides import check_overrides
from skinkd.config.process import prepare_process
from skinkd.config.quoting import at_home
from skinkd.config.targets import take_allowed
from skinkd.config.user_errors import user_errors
from skinkd.jobs.launcher import register_launcher


def main(verb: Callable[[DictConfig], None], config_name: str) -> None:
    """Run ``verb`` on the configuration that the command line composes; the body of ``python -m skinkd.<verb>``.

    Args:
        verb: what to do; it may raise :class:`skinkd.errors.UserError`.
        config_name: the primary file in ``conf/``, such as "train".
    """
    prepare_process()
    register_launcher()
    with user_errors():
        sys.argv[1:] = hold_back(flag_first(stored_sweep(take_allowed(at_home(sys.argv[1:])))))
        check_overrides(config_name, sys.argv[1:])

    def guarded(config: DictConfig) -> None:
        with user_errors():
            verb(config)

    hydra.main(config_path=f"pkg://{CONF}", config_name=config_name, version_base="1.3")(guarded)()
