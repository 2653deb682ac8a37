"""Experiment trackers behind one interface: Weights & Biases, CSV, TensorBoard or none.

The run folder is complete without a tracker, and every report is built from the run folder.
"""

import os
import re
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from skinkd.config.user_errors import first_line
from skinkd.errors import UserError, check_choice
from skinkd.runs.console import is_main_process, say
from skinkd.runs.folder import RunFolder

_TAG, _NAME, _PROJECT = 64, 128, 128  # characters that W&B takes
_OF_HOME = {
    "WANDB_DATA_DIR": ("~/.local/share/wandb", "data"),
    "WANDB_CACHE_DIR": ("~/.cache/wandb", "cache"),
    "WANDB_CONFIG_DIR": ("~/.config/wandb", "config"),
}
"""W&B's variable for a folder -> where in the home it is, and its name in a run folder."""


@dataclass(frozen=True)
class RunInfo:
    """How the tracker lists a run: its name, tags, group, kind and configuration."""

    name: str
    tags: list[str]
    group: str | None
    job_type: str
    config: dict[str, Any]


@dataclass(frozen=True)
class Report:
    """The results of a finished run.

    Attributes:
        metrics: the flat numbers of metrics.json.
        part: "test", or "val" if the test part stays unseen; the attributes below belong to this part.
        predictions: the prediction table.
        classes: the K class names.
        per_class: the table of metrics by class.
        examples: images (H, W, 3) with captions.
    """

    metrics: dict[str, Any]
    part: str
    predictions: pd.DataFrame
    classes: Sequence[str]
    per_class: pd.DataFrame
    examples: Sequence[tuple[np.ndarray, str]]


class Tracker:
    """Logs to a Lightning logger; without a logger, to nothing."""

    def __init__(self, logger: Logger | None = None) -> None:
        self.logger = logger

    def report(self, report: Report) -> None:
        """Log the results."""
        if self.logger is not None:
            # without val/…: these names are the curves of training, which must not get a further point
            numbers = {name: value for name, value in report.metrics.items() if not name.startswith("val/")}
            self.logger.log_metrics(numbers)

    def finish(self, *, failed: bool) -> None:
        """Close the run and mark it as finished or failed."""
        if self.logger is not None:
            self.logger.finalize("failed" if failed else "success")


@contextmanager
def failure_is_a_warning() -> Iterator[None]:
    """Let a run that has finished outlive its tracker, which may fail for many reasons: the network, the disk, its service."""
    try:
        yield
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        say(f"warning: the tracker failed ({reason}); the run folder is complete without it")


def check_tracker(settings: dict[str, Any]) -> None:
    """Raise UserError if ``logger.kind`` is not a tracker, its package is absent, or it refuses a name. Open nothing."""
    kind = check_choice("logger.kind", settings["kind"], ("wandb", "csv", "tensorboard", "none"))
    if kind == "tensorboard" and find_spec("tensorboard") is None:
        raise UserError("logger=tensorboard needs the package tensorboard; run pip install 'skinkd[tensorboard]'")
    if kind == "wandb":
        for name in ("project", "entity"):
            _check_name(f"logger.{name}", settings[name])


def _check_name(setting: str, name: Any) -> None:
    """Refuse a name of a project or an entity that W&B refuses."""
    if name is None:
        return
    text = str(name)
    if not text or len(text) > _PROJECT or re.search(r"[/\\#?%:]", text):
        raise UserError(
            f"{setting}={text} is refused by W&B; give 1 to {_PROJECT} characters, and none of / \\ # ? % :"
        )


def _fitting(name: str, longest: int) -> str:
    """Return a name that is not longer than W&B takes."""
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def _is_disabled() -> bool:
    """Return whether the environment forbids W&B, by its own variables."""
    mode, disabled = (os.environ.get(name, "").lower() for name in ("WANDB_MODE", "WANDB_DISABLED"))
    return mode == "disabled" or disabled in ("true", "1", "yes", "on")


def _give_a_home(folder: Path) -> None:
    """Let W&B keep its files in the run folder where the user's home cannot be written, as in some containers."""
    for variable, (usual, own) in _OF_HOME.items():
        if variable in os.environ:
            continue
        try:
            with tempfile.TemporaryFile(dir=_made(Path(os.path.expanduser(usual)))):
                pass  # asking for permission is not enough: root has it everywhere
        except OSError:
            os.environ[variable] = str(_made(folder / "wandb" / own))


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def open_tracker(settings: dict[str, Any], info: RunInfo, folder: RunFolder) -> Tracker:
    """Return the tracker ``logger.kind``, which writes into the run folder; in other processes than the main one, none."""
    kind = settings["kind"]
    if kind == "none" or not is_main_process():
        return Tracker()
    if kind == "csv":
        return Tracker(CSVLogger(save_dir=folder.path, name="", version="csv"))
    if kind == "tensorboard":
        return Tracker(TensorBoardLogger(save_dir=folder.path, name="", version="tensorboard"))
    if _is_disabled():
        say("W&B is disabled by WANDB_MODE or WANDB_DISABLED; nothing is logged there")
        return Tracker()
    _give_a_home(folder.path.absolute())
    return WandbTracker(settings, info, folder)


class WandbTracker(Tracker):
    """Logs a run folder to a separate W&B run, offline if there is no API key or no network.

    The run folder keeps the run's id, so that a resumed run is the same W&B run. A run resumed offline writes a second
    offline folder with the same id; W&B joins the two when they are synced.
    """

    def __init__(self, settings: dict[str, Any], info: RunInfo, folder: RunFolder) -> None:
        import wandb

        self._wandb = wandb
        self._folder = folder
        self._settings = settings
        self.run, self.offline = _open_run(
            settings,
            folder,
            name=_fitting(info.name, _NAME),
            group=_fitting(info.group, _NAME) if info.group else None,
            job_type=info.job_type,
            tags=[_fitting(tag, _TAG) for tag in info.tags],
            config=info.config,
        )
        folder.write_text("wandb_run_id", f"{self.run.id}\n")
        if self.offline:
            say(f"W&B logs offline; to upload: {self.sync_command}")
        super().__init__(WandbLogger(experiment=self.run, log_model=False))
        self.run.define_metric("trainer/global_step")
        self.run.define_metric("*", step_metric="trainer/global_step")
        for name in ("accuracy", "balanced_accuracy", "f1_macro", "auroc_macro"):
            self.run.define_metric(f"val/{name}", step_metric="trainer/global_step", summary="max")
        for name in ("loss", "ece", "brier"):
            self.run.define_metric(f"val/{name}", step_metric="trainer/global_step", summary="min")

    @property
    def sync_command(self) -> str:
        """The command that uploads an offline run."""
        return _sync_command(self.run)

    def report(self, report: Report) -> None:
        """Log test metrics, the part's confusion matrix, table by class and examples, and with ``log_checkpoint`` best.ckpt."""
        wandb = self._wandb
        names = {name: number for number, name in enumerate(report.classes)}
        media: dict[str, Any] = {
            f"{report.part}/confusion_matrix": wandb.plot.confusion_matrix(
                y_true=[names[label] for label in report.predictions["label"]],
                preds=[names[label] for label in report.predictions["prediction"]],
                class_names=list(report.classes),
            ),
            f"{report.part}/per_class": wandb.Table(dataframe=report.per_class),
        }
        if report.examples:
            media[f"{report.part}/examples"] = [wandb.Image(image, caption=text) for image, text in report.examples]
        numbers = {name: value for name, value in report.metrics.items() if isinstance(value, int | float)}
        self.run.log({name: value for name, value in numbers.items() if name.startswith("test/")})
        # the summary holds the selected checkpoint's numbers, not the last epoch's
        self.run.summary.update(report.metrics)
        # after the numbers: online, a table asks the server first, and fails without it
        self.run.log(media)
        if self._settings["log_checkpoint"]:
            artifact = wandb.Artifact(f"checkpoint-{self.run.id}", type="model")
            artifact.add_file(str(self._folder.checkpoints / "best.ckpt"))
            self.run.log_artifact(artifact)

    def finish(self, *, failed: bool) -> None:
        """Close the run. Otherwise the next run of this process would log into it."""
        folder = os.path.dirname(self.run.dir)
        try:
            self._wandb.finish(exit_code=1 if failed else 0)
        except TimeoutError:
            say(f"W&B did not take all data in time; to upload the rest: wandb sync --no-skip-online {folder}")


def _finish_timeout() -> dict[str, Any]:
    """Return how many seconds the end of the run waits for W&B, unless the environment says so.

    W&B's default is without limit: a run whose server is gone would never end.
    """
    return {} if "WANDB_FINISH_TIMEOUT" in os.environ else {"finish_timeout": 600.0}


def add_to_run(settings: dict[str, Any], folder: RunFolder, numbers: dict[str, float]) -> None:
    """Add numbers to the summary of a run folder's W&B run, if it has one; offline, in a further folder with the same id."""
    if settings["kind"] != "wandb" or _stored_id(folder) is None:
        return
    run, offline = _open_run(settings, folder)
    run.summary.update(numbers)
    run.finish()
    if offline:
        say(f"W&B logs offline; to upload: {_sync_command(run)}")


def _open_run(settings: dict[str, Any], folder: RunFolder, **about: Any) -> tuple[Any, bool]:
    """Return the folder's W&B run, or a new one, and whether it is offline; ``about`` are arguments of wandb.init."""
    import wandb

    known = _stored_id(folder)

    def start(mode: Literal["online", "offline"]) -> Any:
        return wandb.init(
            project=settings["project"],
            entity=settings["entity"],
            id=known,
            resume="allow" if known and mode == "online" else None,
            dir=folder.path,
            mode=mode,
            reinit="finish_previous",
            settings=wandb.Settings(
                silent=True, console="off", init_timeout=60, finish_timeout_raises=True, **_finish_timeout()
            ),
            **about,
        )

    if not _must_be_offline():
        try:
            return start("online"), False
        except Exception as error:  # W&B's errors have no common base
            say(f"W&B cannot be reached: {first_line(error)}")
    try:
        return start("offline"), True
    except Exception as error:
        raise UserError(
            f"W&B cannot log in {folder.path}: {first_line(error)}; logger=csv trains without W&B"
        ) from error


def _sync_command(run: Any) -> str:
    return f"wandb sync {shlex.quote(os.path.dirname(run.dir))}"


def _must_be_offline() -> bool:
    import wandb

    mode = os.environ.get("WANDB_MODE", "").lower()
    if mode:
        return mode != "online"
    try:
        return not wandb.login(prompt=False)
    except wandb.errors.Error as error:  # there is a key, but no server accepts it
        say(f"W&B cannot be reached: {first_line(error)}")
        return True


def _stored_id(folder: RunFolder) -> str | None:
    path = folder.path / "wandb_run_id"
    return path.read_text().strip() if path.exists() else None
