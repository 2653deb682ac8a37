"""Look at a dataset and prepare it: python -m skinkd.data verify|split|prepare|describe|augment|download data=<dataset>."""

import sys
from typing import Any

from omegaconf import DictConfig, OmegaConf

from skinkd.config import cli
from skinkd.config.names import check_names
from skinkd.config.ranges import check_ranges
from skinkd.config.required import check_required
from skinkd.config.user_errors import user_errors
from skinkd.errors import UserError, nearest

VERBS = ("verify", "split", "prepare", "describe", "augment", "download")


def main() -> None:
    """Take the verb off the command line and let Hydra compose the rest."""
    with user_errors():
        word = sys.argv[1] if len(sys.argv) > 1 else ""
        if word not in VERBS and not word.startswith("-"):
            wrong = f"{word!r} is not a verb of skinkd.data" if word else "skinkd.data needs a verb"
            raise UserError(wrong + nearest(word, VERBS))
    if word in VERBS:
        del sys.argv[1]

    def run(settings: DictConfig) -> None:
        from skinkd.data import verbs  # imports torch, which takes seconds

        config: dict[str, Any] = OmegaConf.to_container(settings, resolve=True)  # type: ignore[assignment]
        check_required(config)
        check_names(config)
        check_ranges(config)
        getattr(verbs, word)(config)

    cli.main(run, "data_verbs")


if __name__ == "__main__":
    main()
