"""Time and memory of what a run does before and after training, for 10,000 to 400,000 made-up images.

Each number of images is measured in a process of its own. A CSV names images that all have the same bytes (hard links
to one JPEG), so that the disk holds one image; the perceptual hashes are made up and stored as if the images had been
hashed, with one near-copy for each hundred images. So the table says nothing of the time to decode and hash pixels.

Usage: python benchmarks/scale.py [--images 10000 100000 400000] [--json scale.json] [--folder /tmp/scale]
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import numpy as np

Result = TypeVar("Result")
STEPS = ("table", "split", "audit, first", "audit, again", "loader", "score", "intervals")


def made_up(folder: Path, images: int) -> np.ndarray:
    """Write images.csv and the images' files; return made-up hashes, (N, 4)."""
    import cv2

    rng = np.random.default_rng(0)
    picture = cv2.resize(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8), (96, 96), interpolation=cv2.INTER_CUBIC)
    lines = ["path,label,patient"]
    for k in range(images):
        part = folder / f"{k // 1000:04d}"
        if k % 1000 == 0:  # a file system limits the links to one file
            part.mkdir(parents=True)
            (part / "0.jpg").write_bytes(cv2.imencode(".jpg", picture)[1].tobytes())
        else:
            (part / f"{k % 1000}.jpg").hardlink_to(part / "0.jpg")
        lines.append(f"{part.name}/{k % 1000}.jpg,{'malignant' if k % 50 == 0 else 'benign'},p{k // 20}")
    (folder / "images.csv").write_text("\n".join(lines) + "\n")
    hashes = rng.integers(1, 2**64, (images, 4), dtype=np.uint64)
    near = images // 100
    copies = hashes[rng.integers(0, images, near)]
    for _ in range(16):
        copies[np.arange(near), rng.integers(0, 4, near)] ^= np.uint64(1) << rng.integers(0, 64, near).astype(np.uint64)
    hashes[rng.choice(images, near, replace=False)] = copies
    return hashes


def measure(images: int, folder: Path) -> dict[str, Any]:
    """Return the seconds and the processor's seconds of each step, and the peak memory of the process in MiB."""
    import albumentations as A

    from skinkd.data.audit import audit_split
    from skinkd.data.datamodule import SkinDataModule
    from skinkd.data.folder import load_table
    from skinkd.data.splits import make_split, measure_leak
    from skinkd.data.transforms import eval_pipeline, train_pipeline
    from skinkd.scoring.bootstrap import intervals_of_test
    from skinkd.scoring.metrics import evaluate

    hashes = made_up(folder, images)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rows: dict[str, Any] = {}

    def timed(name: str, do: Callable[[], Result]) -> Result:
        wall, cpu = time.perf_counter(), time.process_time()
        result = do()
        rows[name] = {
            "seconds": time.perf_counter() - wall,
            "cpu": time.process_time() - cpu,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before,
        }
        return result

    table = timed(
        "table",
        lambda: load_table(
            folder / "images.csv",
            root=None,
            path_column="path",
            label_column="label",
            id_column=None,
            group_column="patient",
            split_column_name=None,
            near_duplicate_bits=None,
            memory=folder / "cache",
            on_bad_image="error",
        ),
    )
    fractions = {"train": 0.7, "val": 0.1, "test": 0.2}
    parts = timed(
        "split", lambda: make_split(table, protocol="grouped", fractions=fractions, seed=0, fold=None, folds=None)
    )

    def audit() -> dict[str, Any]:
        leak = measure_leak(table.frame, parts)
        return audit_split(table, parts, leak, near_duplicate_bits=32, memory=folder / "cache")

    with mock.patch("skinkd.data.hashing._hash_file", side_effect=AssertionError("no image is hashed here")):
        from skinkd.data.hashing import VERSION, _state, store

        store(folder / "cache" / f"hashes-{VERSION}-{_state(table.frame['path'].tolist())}.npy", hashes)
        first = timed("audit, first", audit)
        assert timed("audit, again", audit) == first

    def first_batch() -> Any:
        data = SkinDataModule(
            table=table,
            parts=parts,
            train_pipeline=train_pipeline([A.Resize(64, 64), A.HorizontalFlip()], image_size=64),
            eval_pipeline=eval_pipeline(image_size=64),
            views="one",
            batch_size=64,
            eval_batch_size=128,
            num_workers=2,
            seed=0,
            sampler="none",
        )
        return next(iter(data.train_dataloader()))

    assert len(timed("loader", first_batch).index) == 64
    test = table.frame[(parts == "test").to_numpy()]
    predictions = predicted(test, table.classes)
    timed("score", lambda: evaluate(predictions, table.classes, calibration_bins=15))
    settings = {"bootstrap_replicates": 1000, "interval": 0.95, "calibration_bins": 15}
    timed("intervals", lambda: intervals_of_test(predictions, table.classes, settings, seed=0))
    pairs = first["near_duplicates"]["test-train"]["pairs"]
    return {"images": images, "near_pairs_test_train": pairs, "steps": {name: rows[name] for name in STEPS}}


def predicted(test: Any, classes: tuple[str, ...]) -> Any:
    """Return a made-up prediction table of the test part."""
    from skinkd.scoring.predictions import prediction_table

    rows = test.reset_index(drop=True)
    rows = rows.assign(label=[classes[label] for label in rows["label"]])
    share = np.random.default_rng(1).random(len(rows))
    return prediction_table(rows, np.arange(len(rows)), np.stack([share, 1 - share], axis=1), classes)


def main() -> None:
    """Measure each number of images in a process, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000, 400_000])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--folder", type=Path, help="for the made-up files; default: a temporary folder")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.folder:
        given.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="scale-", dir=given.folder))
    try:
        if given.one:
            print(json.dumps(measure(given.one, folder)))
            return
        results = []
        for images in given.images:
            words = [sys.executable, __file__, "--one", str(images), "--folder", str(folder)]
            done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
            results.append(json.loads(done.stdout.splitlines()[-1]))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("Seconds on the clock, and the processor's seconds in brackets; memory without the imports.\n")
    print("| step | " + " | ".join(f"{result['images']:,} images" for result in results) + " |")
    print("| --- |" + " ---: |" * len(results))
    for step in STEPS:
        cells = [result["steps"][step] for result in results]
        print(f"| {step} | " + " | ".join(f"{cell['seconds']:.1f} s ({cell['cpu']:.1f} s)" for cell in cells) + " |")
    peaks = [max(cell["peak_mib"] for cell in result["steps"].values()) for result in results]
    print("| peak memory | " + " | ".join(f"{peak:,.0f} MiB" for peak in peaks) + " |")
    if given.json:
        given.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
