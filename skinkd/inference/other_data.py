"""Scores a trained network on other data, without the images that its run has seen."""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader
from tqdm import tqdm

from skinkd.build.checkpoints import find_checkpoint
from skinkd.build.seen import Seen, seen_images
from skinkd.build.tables import load_split, load_table
from skinkd.config.identity import identity
from skinkd.config.names import check_names
from skinkd.config.ranges import check_ranges
from skinkd.config.required import check_required
from skinkd.config.resolve import read_config
from skinkd.data.dataset import SkinDataset, start_worker, whole_batch
from skinkd.data.source import source_of
from skinkd.data.table import ImageTable, UnlabelledTable
from skinkd.data.transforms import eval_pipeline
from skinkd.errors import UserError, check_choice, nearest
from skinkd.inference.trained import Trained, open_trained
from skinkd.runs.console import say
from skinkd.runs.folder import RunFolder
from skinkd.runs.plots import plot_confusion
from skinkd.runs.tables import print_results
from skinkd.scoring.bootstrap import intervals_of_test
from skinkd.scoring.metrics import evaluate as score
from skinkd.scoring.metrics import per_class
from skinkd.scoring.predictions import prediction_table


class ClassTable(NamedTuple):
    """The common classes of a run and other data.

    Attributes:
        classes: the C common classes, in which predictions are scored, in the run's order.
        of_run: for each of the run's K classes, the index of its common class.
        of_data: for each class of the data, the index of its common class; None if the class is left out.
    """

    classes: tuple[str, ...]
    of_run: tuple[int, ...]
    of_data: tuple[int | None, ...]


def evaluate(settings: DictConfig) -> None:
    """Load a run's network and the data, leave out the images that the run has seen, score the others, write.

    Raises:
        UserError: the run does not exist, the data cannot be read, a class has no counterpart, or no image is left.
    """
    config: dict[str, Any] = OmegaConf.to_container(settings, resolve=True)  # type: ignore[assignment]
    check_required(config)
    check_names(config)
    check_ranges(config)
    checkpoint = find_checkpoint(config["run"], setting="run")
    out = output_folder(config, checkpoint)
    trained = open_trained(config["run"])
    table = chosen_images(config)
    meeting = match_classes(
        trained.classes,
        table.classes,
        class_map=config.get("class_map") or {},
        leave_out=config["leave_out"],
        stored=stored_class_maps(config, trained.config),
    )
    seen = seen_images(table, trained.card, trained.config, config)
    rows, removed = unseen_rows(table, seen, meeting)
    copies = (
        ""
        if removed["copies"] is None
        else f"{removed['copies']} as near-copies of its images or of the lesion of a near-copy, "
    )
    say(
        f"{removed['seen']} of the {len(table)} images of {table.name} are left out because the run was trained or "
        f"selected on them or on their lesions, {copies}{removed['class']} because of their class; {len(rows)} are scored"
    )
    if seen.gap:
        say(
            f"warning: content was not compared with {'all' if removed['copies'] is not None else 'any'} of the run's "
            f"images: {seen.gap}; copies of them under other names may be among those scored"
        )
    probability = predict(trained, UnlabelledTable(table.name, rows), config["data"])
    merged = np.zeros((len(rows), len(meeting.classes)), np.float64)
    np.add.at(merged.T, list(meeting.of_run), probability.T)
    predictions = prediction_table(rows, np.arange(len(rows)), merged, meeting.classes)
    report(config, out, predictions, meeting.classes, removed)


def output_folder(config: dict[str, Any], checkpoint: Path) -> RunFolder:
    """Return the folder ``out``, else ``evaluations/<data.name>`` of the run, with ``-<part>`` if a part is chosen.

    Raises:
        UserError: the folder holds another evaluation: other data, part, class table, checkpoint or seed.
    """
    name = "-".join([str(config["data"]["name"]).replace("/", "_"), *([config["part"]] if config["part"] else [])])
    home = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent
    folder = RunFolder(Path(config["out"] or RunFolder(home).inside("evaluations", name)))
    stored = folder.path / "config.yaml"
    if stored.is_file() and not config["force"] and _essence(read_config(stored)) != _essence(config):
        raise UserError(
            f"{folder.path} holds an evaluation with another configuration (data, class_map, leave_out, …); give data.name or "
            "out another value, or force=true to replace it"
        )
    return folder


def _essence(config: dict[str, Any]) -> str:
    """Return a hash of the settings that can change the numbers of an evaluation."""
    run = Path(config["run"]).expanduser().resolve()
    data = ("name", "table", "near_duplicate_bits", "fractions", "split_seed", "fold", "folds")
    return identity(
        {name: config.get(name) for name in ("paths", "part", "protocol", "seed", "evaluation")}
        | {
            "run": str(run if run.is_file() else run / "checkpoints" / "best.ckpt"),
            "data": {name: config["data"].get(name) for name in data},
            "class_map": config.get("class_map") or {},
            "leave_out": sorted(config["leave_out"]),
        }
    )


def chosen_images(config: dict[str, Any]) -> ImageTable:
    """Return the images of the data, or of one part of its split."""
    if config["part"] is None:
        return load_table(config)
    check_choice("part", config["part"], ("train", "val", "test"))
    table, parts = load_split(config)
    return ImageTable(table.name, table.classes, table.frame[(parts == config["part"]).to_numpy()])


def stored_class_maps(config: dict[str, Any], run: dict[str, Any] | None) -> list[str]:
    """Return the names in ``conf/class_map`` that suit both the data of this evaluation and the run's, if it is known."""
    sources = [source_of(known["data"]["table"]) for known in (config, run) if known is not None]
    names = [source.class_maps if source is not None else () for source in sources]
    return [name for name in names[0] if all(name in others for others in names)]


def match_classes(
    run: Sequence[str],
    data: Sequence[str],
    *,
    class_map: Mapping[str, Sequence[str]],
    leave_out: Sequence[str],
    stored: Sequence[str] = (),
) -> ClassTable:
    """Map the run's classes and the data's to common classes by ``class_map``; a name not in it is a common class itself.

    Classes of the run that the data lacks stay: a prediction of such a class is wrong. ``stored`` are the class maps to
    propose in the error if a class has no counterpart.

    Raises:
        UserError: a name is listed under two classes, or a class of the data has no counterpart in the run.
    """
    meaning: dict[str, str] = {}
    leave_out = [str(name) for name in leave_out]  # from the command line, a class named 0 comes as a number
    for common, names in ((str(key), [str(name) for name in listed]) for key, listed in class_map.items()):
        for name in names:
            if meaning.setdefault(name, common) != common:
                raise UserError(f"class_map has {name!r} under {meaning[name]!r} and {common!r}; keep one of them")
    for name in leave_out:
        check_choice("leave_out", name, data)
    common_of_run = [meaning.get(name, name) for name in run]
    classes = tuple(dict.fromkeys(common_of_run))
    of_data: list[int | None] = []
    for name in data:
        common = meaning.get(name, name)
        if name in leave_out:
            of_data.append(None)
        elif common in classes:
            of_data.append(classes.index(common))
        else:
            leave = f"leave_out=[{_quoted(name)}]"
            leave = leave if re.fullmatch(r"[\w-]+", name) else shlex.quote(leave)
            key, known = re.sub(r"[^A-Za-z0-9_]+", "_", run[0]), [_quoted(run[0]), _quoted(name)]
            raise UserError(
                f"class {name!r} of the data is not a class of the run{nearest(name, run)}; map it, as in "
                f"'+class_map.{key}=[{','.join(known)}]' for {run[0]!r}, "
                f"{''.join(f'give class_map={table}, ' for table in stored)}or {leave}"
            )
    return ClassTable(classes, tuple(classes.index(name) for name in common_of_run), tuple(of_data))


def _quoted(name: str) -> str:
    """Return a class name as it must be written inside a list on the command line."""
    return name if re.fullmatch(r"[A-Za-z0-9_ -]+", name) else f'"{name}"'


def unseen_rows(table: ImageTable, seen: Seen, meeting: ClassTable) -> tuple[pd.DataFrame, dict[str, int | None]]:
    """Return the rows to score, with class names as labels, and how many are left out as "seen", "copies" and "class"."""
    frame = table.frame
    out = seen.known if seen.copies is None else seen.known | seen.copies
    place = [meeting.of_data[label] for label in frame["label"]]
    unwanted = np.array([index is None for index in place]) & ~out
    keep = ~out & ~unwanted
    if not keep.any():
        raise UserError(
            f"no image of {table.name} is left: the run was trained or selected on {int(out.sum())} of its "
            f"{len(table)} images, or on copies of them, and {int(unwanted.sum())} are of classes left out; give other data"
        )
    rows = frame[keep].assign(
        label=[meeting.classes[index] for index, kept in zip(place, keep, strict=True) if kept and index is not None]
    )
    return rows.reset_index(drop=True), {
        "seen": int(seen.known.sum()),
        "copies": None if seen.copies is None else int(seen.copies.sum()),
        "class": int(unwanted.sum()),
    }


def predict(trained: Trained, table: UnlabelledTable, settings: dict[str, Any]) -> np.ndarray:
    """Return the probabilities of the K classes for each of the N images of the table, (N, K)."""
    trained.network.to("cuda" if torch.cuda.is_available() else "cpu")
    pipeline = eval_pipeline(image_size=trained.image_size)
    loader = DataLoader(
        SkinDataset(table.frame, pipeline=pipeline, views=None, seed=0),
        batch_size=settings["eval_batch_size"],
        num_workers=settings["num_workers"],
        collate_fn=whole_batch,
        worker_init_fn=start_worker,
    )
    batches = tqdm(loader, desc="scoring", unit="batch", disable=None, leave=False)
    return np.concatenate([trained.probabilities(batch.image.numpy()) for batch in batches])


def report(
    config: dict[str, Any],
    folder: RunFolder,
    predictions: pd.DataFrame,
    classes: Sequence[str],
    removed: dict[str, int | None],
) -> None:
    """Write predictions.csv, confusion_matrix.png, config.yaml and, last, metrics.json; print the table."""
    settings = config["evaluation"]
    bins, level = settings["calibration_bins"], settings["interval"]
    metrics: dict[str, Any] = {
        "removed/seen_images": removed["seen"],
        "removed/near_copies": removed["copies"],  # null: not searched
        "removed/images_of_classes_left_out": removed["class"],
        **{f"test/{name}": value for name, value in score(predictions, classes, calibration_bins=bins).items()},
        **intervals_of_test(predictions, classes, settings, seed=config["seed"]),
    }
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.write_text("config.yaml", OmegaConf.to_yaml(OmegaConf.create(config)))
    folder.write_csv("predictions.csv", predictions)
    plot_confusion(predictions, classes, folder.path / "confusion_matrix.png")
    folder.write_json("metrics.json", metrics)
    print_results(
        metrics,
        per_class(predictions, classes, level=level),
        title=folder.path.name,
        folder=folder.path,
        level=level,
    )
