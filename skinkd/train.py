"""Train one method on one dataset: python -m skinkd.train method=swskd data=ham10000."""

from omegaconf import DictConfig

from skinkd.config import cli
from skinkd.config.identity import run_path
from skinkd.config.resolve import resolved, stored_settings
from skinkd.runs.console import say
from skinkd.runs.folder import RunFolder


def train(settings: DictConfig) -> None:
    """Train a run, resume it, or say that it has finished."""
    stored = settings.config is not None
    settings = stored_settings(settings)
    config = resolved(settings)
    folder = RunFolder(run_path(config))
    if folder.finished_with(test=config["evaluation"]["test"]) and not config["force"]:
        folder.check_owner(config)
        say(f"this run has finished already; force=true runs it again\n{folder.path}")
        return
    from skinkd.build.tables import check_stored_table
    from skinkd.training.run import run_training  # imports Lightning, which takes seconds

    if stored:
        check_stored_table(config)
    run_training(settings, config, folder)


if __name__ == "__main__":
    cli.main(train, "train")
