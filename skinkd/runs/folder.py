"""The run folder: one folder for one resolved configuration, written atomically.

===========================  ============================================================================
``config.yaml``              the resolved configuration, enough to rebuild the run
``splits.csv``               image_id, group, split
``history.csv``              a row an epoch: loss terms, validation metrics, learning rate, seconds
``checkpoints/``             ``best.ckpt`` (chosen on validation), ``last.ckpt`` (to go on from)
``predictions/{val,test}.csv``  image_id, group, label, prediction, a probability for each class
``curves.png`` …             ``confusion_matrix.png``, ``environment.txt``
``metrics.json``             flat ``val/…`` and ``test/…`` numbers; written last: with it the run is finished
===========================  ============================================================================
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import pandas as pd
import yaml

from skinkd.errors import UserError

NOT_IDENTITY = (
    "config",
    "force",
    "group",
    "job_type",
    "run_dir",
    "sweep",
    "paths",
    "logger",
    "data.num_workers",
    "evaluation.test",
    "trainer.enable_progress_bar",
    "trainer.log_every_n_steps",
)
"""Settings that change no number of a run, and so not its folder."""

ADDED_SETTINGS: dict[str, Any] = {
    "backbone.conv_weights": None,
    "data.augment_on": "cpu",
    "loss.label_smoothing": 0.0,
}
"""Settings that came after the first release: dotted name -> the value at which a run is what it was without the setting, of
its teachers too.
At that value the setting does not enter the identity, so that earlier runs keep their folders. Nor does a mapping that
holds nothing else."""


def identity(config: dict[str, Any]) -> str:
    """Eight hexadecimal digits of everything in the resolved configuration that can change a number.

    A file or folder below one of ``paths`` counts by its place below it, so that data and outputs may move; one given
    anywhere else counts as it is.
    """
    places = sorted(config["paths"].items(), key=lambda item: -len(str(item[1])))
    text = json.dumps(_identity(config, "", places), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _identity(node: Any, name: str, places: list[tuple[str, Any]]) -> Any:
    if isinstance(node, dict):
        full = {key: (f"{name}.{key}" if name else key) for key in node}
        kept = {
            key: value
            for key, value in node.items()
            if full[key] not in NOT_IDENTITY and not _holds_added_defaults(value, full[key])
        }
        return {key: _identity(value, full[key], places) for key, value in kept.items()}
    if isinstance(node, list):
        return [_identity(value, name, places) for value in node]
    for place_name, place in places:
        if isinstance(node, str) and (node == str(place) or node.startswith(f"{place}/")):
            return f"<{place_name}>{node.removeprefix(str(place))}"
    return node


def _holds_added_defaults(value: Any, name: str) -> bool:
    """Whether a setting came later and has the value at which it changes nothing, or is a mapping of such settings."""
    own_name = name.rpartition("method.teacher.run.")[2]
    if own_name in ADDED_SETTINGS:
        default = ADDED_SETTINGS[own_name]
        # True == 1 in Python, and they are different settings
        return value == default and isinstance(value, bool) == isinstance(default, bool)
    return (
        isinstance(value, dict)
        and bool(value)
        and all(_holds_added_defaults(inner, f"{name}.{key}") for key, inner in value.items())
    )


def run_path(config: dict[str, Any]) -> Path:
    """``run_dir`` if it is set, else ``<output_dir>/<method>-<data>-<backbone>-seed<seed>-<identity>``."""
    if config["run_dir"]:
        return Path(config["run_dir"])
    parts = [
        config["method"]["name"],
        config["data"]["name"],
        config["backbone"]["name"],
        f"seed{config['seed']}",
    ]
    if config["data"]["fold"] is not None:
        parts.append(f"fold{config['data']['fold']}")
    name = "-".join([*(str(part).replace("/", "_") for part in parts), identity(config)])
    return Path(config["paths"]["output_dir"]) / name


class RunFolder:
    """Paths and atomic writing of one run folder. Nothing is created before ``open``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: TextIO | None = None

    @property
    def checkpoints(self) -> Path:
        """Folder of ``best.ckpt`` and ``last.ckpt``."""
        return self.path / "checkpoints"

    @property
    def last_checkpoint(self) -> Path | None:
        """The checkpoint to go on from, if there is one."""
        path = self.checkpoints / "last.ckpt"
        return path if path.exists() else None

    @property
    def finished(self) -> bool:
        """Whether the run reached its end: ``metrics.json`` is there."""
        return (self.path / "metrics.json").exists()

    def finished_with(self, *, test: bool) -> bool:
        """Whether the run is finished, with its test scores if they are asked for.

        One that lacks them alone (``evaluation.test=false``) goes on from its last epoch to its scoring.
        """
        return self.finished and (not test or "test/n" in self.metrics())

    def metrics(self) -> dict[str, Any]:
        """The numbers of a finished run."""
        return json.loads((self.path / "metrics.json").read_text())

    def open(self, config: dict[str, Any], splits: pd.DataFrame, *, force: bool) -> None:
        """Create the folder, or go on in it, and hold it until the process ends.

        Args:
            config: the resolved configuration.
            splits: columns image_id, group, split.
            force: remove what an earlier run left.

        Raises:
            UserError: another process holds the folder, it belongs to another configuration (``run_dir`` given by hand),
                or the run that it holds began on other images or another split.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / ".lock").open("w")
        except OSError as error:
            raise UserError(
                f"the run folder {self.path} cannot be written ({error.strerror}); set paths.output_dir to a place "
                "you may write to"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is running in {self.path}; wait for it, or change the configuration or run_dir"
            ) from None
        if force:
            self._clear()
        self.check_owner(config)
        self._check_splits(splits)
        self.write_csv("splits.csv", splits)
        self.write_text("config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))

    def check_owner(self, config: dict[str, Any]) -> None:
        """Raise UserError if the folder holds a run of another configuration."""
        stored = self.path / "config.yaml"
        if stored.exists() and identity(yaml.safe_load(stored.read_text())) != identity(config):
            raise UserError(
                f"{self.path} holds a run of another configuration; give another run_dir, or force=true to replace it"
            )

    def _check_splits(self, splits: pd.DataFrame) -> None:
        path = self.path / "splits.csv"
        if not path.exists():
            return
        begun = pd.read_csv(path, dtype=str, keep_default_na=False)
        if begun.to_numpy().tolist() != splits.astype(str).to_numpy().tolist():
            raise UserError(
                f"the run in {self.path} began with {len(begun)} images and the data now has {len(splits)}, or another "
                "split of them; bring the data back as it was, or begin again with force=true"
            )

    def _clear(self) -> None:
        for entry in self.path.iterdir():
            if entry.name == ".lock":
                continue
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def write(self, name: str, save: Callable[[Path], object]) -> Path:
        """Let ``save`` write to a temporary file beside ``name``, then move it into place in one step."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp{path.suffix}")
        try:
            save(temporary)
            os.replace(temporary, path)
        except OSError as error:
            error.filename = error.filename or str(path)
            raise
        finally:
            temporary.unlink(missing_ok=True)
        return path

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file."""
        return self.write(name, lambda path: path.write_text(text, encoding="utf-8"))

    def write_json(self, name: str, values: dict[str, Any]) -> Path:
        """Write a flat JSON object, keys in the given order; NaN is refused because JSON has none."""
        return self.write_text(name, json.dumps(values, indent=2, allow_nan=False) + "\n")

    def write_csv(self, name: str, frame: pd.DataFrame) -> Path:
        """Write a table; floats keep every digit."""
        return self.write(name, lambda path: frame.to_csv(path, index=False))
