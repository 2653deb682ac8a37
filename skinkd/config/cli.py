"""The start of every verb that Hydra configures."""

import sys
from collections.abc import Callable
from typing import Any

import hydra
from hydra._internal.hydra import Hydra
from hydra.types import RunMode
from omegaconf import DictConfig

from skinkd.config.command_line import CONF, config_dir, flag_first, hold_back, stored_sweep
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


_composed_mode = Hydra.get_mode


def _mode(self: Hydra, config_name: str | None, overrides: list[str]) -> Any:
    """Return the value of ``hydra.mode``, and compose the configuration only if a file or an override may set it.

    Hydra composes the whole configuration to learn this value, which takes a fifth of a second. In conf/ only the files of
    sweep/ set it.
    """
    words = ("hydra.mode", "hydra.searchpath", "sweep=", "sweep@")
    given = [text for text in overrides if text.lstrip("+").startswith(words) and text != "hydra.mode=RUN"]
    if given or config_dir(sys.argv[1:]):
        return _composed_mode(self, config_name=config_name, overrides=overrides)
    return RunMode.RUN if "hydra.mode=RUN" in overrides else None


Hydra.get_mode = _mode  # type: ignore[method-assign]
