"""A stand-in for MedMNIST's DermaMNIST where it cannot be fetched: HAM10000's images at 28 px or more, in the same split.

Run ``SKINKD_DATA_DIR=… python benchmarks/dermamnist_of_ham10000.py <folder> [28|64|128|224]``, which writes
``<folder>/medmnist/dermamnist.npz`` (with another size than 28 ``dermamnist_<size>.npz``); then train with
``SKINKD_DATA_DIR=<folder>``. Images are squeezed to squares by averaging areas; MedMNIST's own file was made from the original
600×450 images and has its rows in another order.
"""

import os
import sys
from pathlib import Path

import cv2
import numpy as np

from skinkd.data.files import read_image
from skinkd.data.ham10000 import load_ham10000

size = int(sys.argv[2]) if len(sys.argv) > 2 else 28
frame = load_ham10000(os.path.join(os.environ["SKINKD_DATA_DIR"], "ham10000"), on_bad_image="error").frame
arrays = {}
for part in ("train", "val", "test"):
    rows = frame[(frame["official_split"] == part).to_numpy()]
    images = [cv2.resize(read_image(path), (size, size), interpolation=cv2.INTER_AREA) for path in rows["path"]]
    arrays[f"{part}_images"] = np.stack(images)
    arrays[f"{part}_labels"] = rows["label"].to_numpy(np.uint8)[:, None]
target = Path(sys.argv[1]) / "medmnist" / (f"dermamnist_{size}.npz" if size != 28 else "dermamnist.npz")
target.parent.mkdir(parents=True, exist_ok=True)
np.savez_compressed(target, **arrays)
print(target)
