"""The images of an export: the run's training images for calibration, its test images for the scores, and three of ours."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from skinkd.build.seen import own_images
from skinkd.data.drawn_lesions import draw_lesion, photograph
from skinkd.data.drawn_looks import LOOKS
from skinkd.data.files import read_image
from skinkd.data.transforms import eval_pipeline
from skinkd.errors import UserError
from skinkd.inference.trained import Trained
from skinkd.runs.cells import original_table

GOLDEN = ("bcc", "mel", "nv")
"""Classes of the drawn lesions that an export is checked with."""


def run_images(trained: Trained, paths: dict[str, Any]) -> pd.DataFrame:
    """Return the run's images as it split them: image_id, group, label (class name), path and split.

    Args:
        trained: a run folder, opened.
        paths: where data lies now.

    Raises:
        UserError: the data cannot be read, or lacks an image of the run.
    """
    assert trained.run is not None
    frame, gap = own_images(trained.config, trained.card, paths)
    if frame is None:
        raise UserError(f"run={trained.run.path}: {gap}; give paths.data_dir or paths.output_dir, where it lies now")
    splits = original_table(pd.read_csv(trained.run.path / "splits.csv", dtype=str, keep_default_na=False))
    rows = splits[["image_id", "split"]].merge(frame, on="image_id", how="left")
    absent = rows["image_id"][rows["path"].isna()]
    if len(absent):
        raise UserError(
            f"{len(absent)} of the {len(rows)} images of run={trained.run.path} are no longer in its data, such as "
            f"{absent.iloc[0]}; restore the data"
        )
    return rows.assign(label=[trained.classes[label] for label in rows["label"].astype(int)])


def calibration_paths(rows: pd.DataFrame, *, images: int, seed: int) -> list[str]:
    """Draw training images to calibrate on; all of them if there are fewer.

    Args:
        rows: the run's images, from ``run_images``.
        images: how many to draw.
        seed: of the draw.
    """
    paths = rows["path"][rows["split"] == "train"].to_numpy()
    return np.random.default_rng(seed).permutation(paths)[:images].tolist()


def batches(paths: list[str], *, image_size: int, batch_size: int, title: str) -> Iterator[np.ndarray]:
    """Yield uint8 batches (N, 3, H, W) of image files, read as in validation, with a progress bar."""
    pipeline = eval_pipeline(image_size=image_size)
    for start in tqdm(range(0, len(paths), batch_size), desc=title, unit="batch", disable=None, leave=False):
        images = [pipeline(image=read_image(path))["image"] for path in paths[start : start + batch_size]]
        yield np.stack(images).transpose(0, 3, 1, 2).copy()


def write_golden(folder: Path, *, image_size: int) -> list[Path]:
    """Write a drawn lesion of each class of ``GOLDEN`` as PNG, which every decoder reads alike; return their paths."""
    folder.mkdir()
    size = int(1.3 * image_size), int(1.7 * image_size)
    written = []
    for number, name in enumerate(GOLDEN):
        rng = np.random.default_rng(number)
        image, *_ = photograph(draw_lesion(LOOKS[name], image_size=size, rng=rng), image_size=size, rng=rng)
        path = folder / f"{name}.png"
        path.write_bytes(cv2.imencode(".png", image[..., ::-1])[1].tobytes())
        written.append(path)
    return written
