"""The arguments of Lightning's Trainer that a run may have, and what happens to the others: they are refused by name.

skinkd validates at the end of an epoch, chooses the best checkpoint there, and writes into one run folder. An argument that
would change this belongs to another setting, which the refusal names, or to none.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

from skinkd.errors import UserError, check_choice, nearest

ARGUMENTS = (
    *("accelerator", "devices", "num_nodes", "strategy", "precision", "sync_batchnorm"),
    *("max_epochs", "max_steps", "max_time", "check_val_every_n_epoch", "fast_dev_run", "overfit_batches"),
    *("limit_train_batches", "limit_val_batches", "limit_test_batches"),
    *("accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "log_every_n_steps"),
    *("deterministic", "benchmark", "detect_anomaly", "profiler", "enable_progress_bar"),
)
"""The arguments that work. Their numbers have their ranges in :mod:`skinkd.config.ranges`."""

CHOICES = {
    "accelerator": ("auto", "cpu", "cuda", "gpu", "mps"),
    "strategy": ("auto", "ddp", "ddp_find_unused_parameters_true", "fsdp"),
    "precision": ("auto", "32-true", "32", "bf16-mixed", "bf16", "16-mixed", "64-true", "64"),
    "gradient_clip_algorithm": ("norm", "value"),
    "profiler": ("simple", "advanced"),
    "deterministic": ("true", "false", "warn"),
}
"""The words of those arguments that have words."""

REFUSED = {
    "logger": "choose the tracker with logger=<choice>",
    "callbacks": "skinkd has its own; extend the package to add one",
    "enable_checkpointing": "a run always keeps its best and its last checkpoint",
    "default_root_dir": "set paths.output_dir or run_dir",
    "val_check_interval": "validation comes at the end of an epoch; set trainer.check_val_every_n_epoch",
    "num_sanity_val_steps": "no validation comes before training",
    "limit_predict_batches": "a run predicts only what it validates and tests",
    "min_epochs": "set early_stopping.patience",
    "min_steps": "set early_stopping.patience",
    "use_distributed_sampler": "the loaders share the images among processes themselves",
    "reload_dataloaders_every_n_epochs": "the loaders already draw every epoch anew",
    "inference_mode": "no setting of skinkd needs it",
    "plugins": "choose with strategy=<choice> and precision=<choice>",
    "barebones": "it would leave out the files of the run folder",
    "enable_model_summary": "the parameters are counted in metrics.json",
    "enable_autolog_hparams": "the whole configuration is logged",
    "model_registry": "set logger.log_checkpoint=true",
}
"""The other arguments of Lightning's Trainer, each with what to do instead."""

_VARIABLES = "PL_TRAINER_"
_TIME = r"\d+:\d\d:\d\d:\d\d"


def check_trainer(settings: Mapping[str, Any]) -> None:
    """Raise UserError for a setting of ``trainer`` that is refused, unknown or has a word that it cannot have.

    Also for a variable of the environment from which Lightning takes an argument that is not given: no configuration would
    hold it, and neither would the run's name.
    """
    for name in os.environ:
        if name.startswith(_VARIABLES):
            setting = name.removeprefix(_VARIABLES).lower()
            raise UserError(f"{name} in the environment would change the trainer; unset it, and give trainer.{setting}")
    for name, value in settings.items():
        if name in REFUSED:
            raise UserError(f"trainer.{name}={value} is not for skinkd: {REFUSED[name]}; leave trainer.{name} out")
        if name not in ARGUMENTS:
            raise UserError(f"trainer.{name} is not an argument of the trainer{nearest(name, ARGUMENTS)}")
        if name in CHOICES and value is not None:
            check_choice(
                f"trainer.{name}", str(value).lower() if isinstance(value, bool) else str(value), CHOICES[name]
            )
    quick = settings.get("fast_dev_run", False)
    if not isinstance(quick, bool) and not (isinstance(quick, int) and quick >= 0):
        raise UserError(f"trainer.fast_dev_run={quick} must be true, false or a number of batches")
    time = settings.get("max_time")
    if time is not None and not re.fullmatch(_TIME, str(time)):
        raise UserError(f"trainer.max_time={time} must be days:hours:minutes:seconds, such as 00:12:00:00")
    every = settings.get("check_val_every_n_epoch", 1)
    if every > settings["max_epochs"]:
        raise UserError(
            f"trainer.check_val_every_n_epoch={every} is more than trainer.max_epochs={settings['max_epochs']}, so no epoch "
            "would be validated; set it to fewer epochs"
        )
    ends = [name for name in ("max_steps", "max_time") if settings.get(name) is not None]
    if every > 1 and ends:
        raise UserError(
            f"trainer.{ends[0]}={settings[ends[0]]} may end the training in an epoch that "
            f"trainer.check_val_every_n_epoch={every} does not validate; leave one of them out"
        )


def lightning_arguments(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of Lightning's Trainer; :func:`image_limits` has those that the loaders follow.

    ``max_steps`` is a callback's: Lightning's own limit ends an epoch without its validation.

    Lightning's own ``fast_dev_run`` writes no checkpoint, and a run ends with the scores of its best one. So
    ``fast_dev_run=n`` is one epoch of n batches of each part, and all files are written.
    """
    written = _written_out(settings)
    return {name: value for name, value in written.items() if name not in _NOT_LIGHTNINGS}


def image_limits(settings: Mapping[str, Any]) -> dict[str, float]:
    """Return for each part the share of its images (a float) or the number of its batches (an int) that is used."""
    written = _written_out(settings)
    overfit = written.get("overfit_batches", 1.0)
    limits = {part: written.get(f"limit_{part}_batches", 1.0) for part in ("val", "test")}
    return (
        {"train": overfit, **limits} if overfit == 1.0 else {"train": overfit, "val": overfit, "test": limits["test"]}
    )


_NOT_LIGHTNINGS = ("overfit_batches", "limit_val_batches", "limit_test_batches", "max_steps")


def _written_out(settings: Mapping[str, Any]) -> dict[str, Any]:
    quick = int(settings.get("fast_dev_run", False))
    given = {name: value for name, value in settings.items() if name != "fast_dev_run"}
    if not quick:
        return given
    return given | {"max_epochs": 1, **{f"limit_{part}_batches": quick for part in ("train", "val", "test")}}
