"""The run folder: one folder for one resolved configuration, written atomically.

===========================  ============================================================================
``config.yaml``              the resolved configuration, from which the run can be repeated
``splits.csv``               image_id, group, split
``history.csv``              a row for each epoch: loss terms, validation metrics, learning rate, seconds
``checkpoints/``             ``best.ckpt`` (chosen on validation), ``last.ckpt`` (to go on from), ``last_before.ckpt``
``predictions/{val,test}.csv``  image_id, group, label, prediction, a probability for each class
``curves.png`` …             ``confusion_matrix.png``, ``environment.txt``
``metrics.json``             flat ``val/…`` and ``test/…`` numbers; written last, so it marks a finished run
===========================  ============================================================================
"""

import contextlib
import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from skinkd.config.identity import identity
from skinkd.config.stored import read_stored
from skinkd.errors import UserError
from skinkd.runs.cells import harmless_table, original
from skinkd.runs.checkpoints import trained_on
from skinkd.runs.console import say
from skinkd.runs.files import Lock, written_atomically

if TYPE_CHECKING:
    import pandas as pd  # slow to import, and not needed to tell whether a run is finished

_AGAIN = "the run's command computes it again from the checkpoints"


class RunFolder:
    """Paths and atomic writing of one run folder. Nothing is created before ``open``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = Lock(path / ".lock")

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints (:mod:`skinkd.runs.checkpoints`)."""
        return self.path / "checkpoints"

    @property
    def finished(self) -> bool:
        """Whether the run is finished: ``metrics.json`` exists and is whole."""
        try:
            return bool(self.metrics())
        except (UserError, OSError):
            return False

    def finished_with(self, *, test: bool) -> bool:
        """Return whether the run is finished, with test scores if ``test`` asks for them.

        A run that lacks only the test scores (``evaluation.test=false``) goes on at its last epoch and scores the test part.
        """
        return self.finished and (not test or "test/n" in self.metrics())

    def metrics(self) -> dict[str, Any]:
        """Return the numbers of a finished run.

        Raises:
            UserError: ``metrics.json`` is damaged.
            OSError: there is none.
        """
        path = self.path / "metrics.json"
        try:
            metrics = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:  # no JSON, or no text
            raise UserError(f"{path} is damaged ({error}); {_AGAIN}") from None
        if not isinstance(metrics, dict):
            raise UserError(f"{path} is damaged (it does not hold names with numbers); {_AGAIN}")
        return metrics

    def inside(self, *names: str) -> Path:
        """Return a folder or file of this run folder, to write to.

        Raises:
            UserError: a link, which whoever shared the run folder may have made, leads out of it.
        """
        path = self.path.joinpath(*names)
        if not path.resolve().is_relative_to(self.path.resolve()):
            raise UserError(
                f"{path} leads to {path.resolve()}, outside the run folder; say where to write with out=<folder>"
            )
        return path

    def open(self, config: dict[str, Any], splits: "pd.DataFrame", *, force: bool) -> None:
        """Create the folder, or go on in it, and lock it until the process ends.

        Args:
            config: the resolved configuration.
            splits: columns image_id, group, split.
            force: remove the files of an earlier run.

        Raises:
            UserError: another process runs in the folder, the folder belongs to another configuration (``run_dir`` given by
                hand), or its run began with other images or another split.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            taken = self._lock.take()
        except OSError as error:
            raise UserError(
                f"the run folder {self.path} cannot be written ({error.strerror}); set paths.output_dir to a "
                "folder you own"
            ) from None
        if not taken:
            raise UserError(
                f"another process is running in {self.path}; wait for it, or change the configuration or run_dir"
            )
        if force:
            self._clear()
        self.check_owner(config)
        self._check_splits(splits)
        self._remove_unfinished()
        self.write_csv("splits.csv", splits)
        self.write_config(config)
        with contextlib.suppress(OSError):
            try:
                self.metrics()
            except UserError as error:
                say(f"warning: {error}")

    def begun(self, config: dict[str, Any]) -> dict[str, Any] | None:
        """Return the configuration that this run stored when it began; None if it has not, or the file is damaged."""
        stored = self.path / "config.yaml"
        try:
            found: dict[str, Any] = read_stored(stored)
            return found if identity(found) == identity(config) else None
        except (OSError, UserError, KeyError, TypeError, AttributeError):
            return None

    def write_config(self, config: dict[str, Any]) -> None:
        """Write ``config.yaml``."""
        self.write_text("config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))

    def check_owner(self, config: dict[str, Any]) -> None:
        """Raise UserError if the folder holds a run of another configuration.

        A damaged ``config.yaml`` is written anew if the folder's name follows from the configuration, and so tells its owner.
        """
        stored = self.path / "config.yaml"
        if not stored.exists():
            return
        own = identity(config)
        named = self.path.name.endswith(f"-{own}")
        try:
            found = identity(read_stored(stored)) if stored.read_bytes().endswith(b"\n") else None
        except (UserError, KeyError, TypeError, AttributeError):
            found = None
        if found == own:
            return
        if found is None and named:
            say(f"warning: {stored} is damaged; it is written again")
            self.write_config(config)
        elif found is None:
            raise UserError(
                f"{stored} is damaged, so nothing tells whether {self.path} holds this run; restore the file, or begin again "
                "with force=true"
            )
        elif named:
            raise UserError(
                f"{stored} was changed since the run began; remove it, and the same command writes it again and goes on"
            )
        else:
            raise UserError(
                f"{self.path} holds a run of another configuration; give another run_dir, or force=true to replace it"
            )

    def _check_splits(self, splits: "pd.DataFrame") -> None:
        path = self.path / "splits.csv"
        if not path.exists():
            return
        begun = _read_splits(path)
        if begun == splits.astype(str).to_numpy().tolist():
            return
        if begun is None:
            if trained_on(self.checkpoints, splits):
                say(f"warning: {path} is damaged; it is written again")
                return
            raise UserError(
                f"{path} is damaged, and the checkpoints are of other images than the data has now; restore the data, or "
                "begin again with force=true"
            )
        raise UserError(
            f"the run in {self.path} began with {len(begun)} images, but the data now has {len(splits)} or is split "
            "differently; restore the data, or begin again with force=true"
        )

    def _remove_unfinished(self) -> None:
        """Remove the temporary files that a killed process left: the lock shows that it no longer writes them."""
        for path in [*self.path.glob(".*.tmp*"), *self.path.glob("*/.*.tmp*")]:
            if path.is_file():
                path.unlink()

    def _clear(self) -> None:
        holds = {entry.name for entry in self.path.iterdir()} - {".lock"}
        if holds and not holds & {"config.yaml", "splits.csv"}:
            raise UserError(
                f"{self.path} holds files and no run, and force=true would remove them; give another run_dir, or empty it"
            )
        for entry in self.path.iterdir():
            if entry.name == ".lock":
                continue
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def write(self, name: str, save: Callable[[Path], object]) -> Path:
        """Let ``save`` write a temporary file next to ``name``, then move it into place in one step."""
        path = self.path / name
        with written_atomically(path) as temporary:
            save(temporary)
        return path

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file."""
        return self.write(name, lambda path: path.write_text(text, encoding="utf-8"))

    def write_json(self, name: str, values: dict[str, Any]) -> Path:
        """Write a flat JSON object, keys in the given order; NaN raises ValueError, because JSON has no NaN."""
        return self.write_text(name, json.dumps(values, indent=2, allow_nan=False) + "\n")

    def write_csv(self, name: str, frame: "pd.DataFrame") -> Path:
        """Write a table in which no text is a formula (:mod:`skinkd.runs.cells`); floats keep every digit."""
        return self.write(name, lambda path: harmless_table(frame).to_csv(path, index=False))


def _read_splits(path: Path) -> list[list[str]] | None:
    """Return the rows of a stored ``splits.csv``; None if the file is damaged."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            text = file.read()
        header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    except (ValueError, csv.Error):
        return None
    if header != ["image_id", "group", "split"] or any(len(row) != len(header) for row in rows) or text[-1] != "\n":
        return None
    return [[original(cell) for cell in row] for row in rows]
