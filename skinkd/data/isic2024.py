"""SLICE-3D, the training set of the ISIC 2024 challenge: crops of total-body photographs, benign and malignant."""

from pathlib import Path
from typing import Any

import pandas as pd

from skinkd.data.files import find_images, usable_images
from skinkd.data.hdf5 import images_in
from skinkd.data.source import Source
from skinkd.data.table import ImageTable, class_labels, read_csv, subgroup_columns
from skinkd.errors import UserError

CLASSES = ("benign", "malignant")
TARGETS = ("0", "1")
METADATA, IMAGES = "train-metadata.csv", "train-image.hdf5"
FOLDERS = ("train-image/image", "train-image", "images", "")
COLUMNS = ("isic_id", "target", "patient_id")
SUBGROUPS = {"sex": "sex", "age": "age_approx", "body_site": "anatom_site_general"}
SOURCE = Source(
    licence="CC BY-NC 4.0",
    title="SLICE-3D, the training set of the ISIC 2024 challenge",
    shows="crops around skin lesions from 3D total-body photographs",
    by_patient=True,
    citations=(
        "N. R. Kurtansky et al. The SLICE-3D dataset: 400,000 skin lesion image crops extracted from 3D TBP for skin cancer "
        "detection. Scientific Data 11:884, 2024. doi:10.1038/s41597-024-03743-w",
        "International Skin Imaging Collaboration. SLICE-3D 2024 Challenge Dataset. 2024. doi:10.34970/2024-slice-3d",
    ),
    subgroups=SUBGROUPS,
    ids="ISIC archive",
    by_hand=(
        "ISIC 2024 is downloaded from kaggle.com/competitions/isic-2024-challenge, after its rules are accepted there; put "
        f"{METADATA} and {IMAGES} (or the folder train-image) into {{root}}"
    ),
)


def load_isic2024(root: str | Path, *, memory: str | Path, on_bad_image: str) -> ImageTable:
    """Return the table of an ISIC 2024 folder: benign and malignant, grouped by patient.

    Expected under ``root``: ``train-metadata.csv`` and the images, either as ``<isic_id>.jpg`` in one of ``FOLDERS`` or in
    ``train-image.hdf5``, which is read without unpacking. If both are there, the folder is taken. A target of 1 is malignant.

    Args:
        root: the folder.
        memory: folder that stores the list of the images in the HDF5 file.
        on_bad_image: "error" or "skip", see :func:`skinkd.data.files.usable_images`.

    Raises:
        UserError: the metadata or the images are absent, unreadable or wrong, or h5py is needed and not installed.
    """
    root = Path(root).expanduser().absolute()
    if not (root / METADATA).is_file():
        raise UserError(
            f"there is no {METADATA} in {root}; put it and {IMAGES} there (kaggle.com/competitions/isic-2024-challenge), or "
            "point SKINKD_DATA_DIR or paths.data_dir at the folder that holds isic2024/"
        )
    rows = read_metadata(root / METADATA)
    found = find_images(root, FOLDERS)
    if not found and (root / IMAGES).exists():
        found = images_in(root / IMAGES, memory=Path(memory))
    if not found:
        raise UserError(f"there is {METADATA} but no {IMAGES} and no folder train-image in {root}; put either there")
    frame = pd.DataFrame(
        {
            "image_id": rows["isic_id"],
            "path": rows["isic_id"].map(found).fillna(""),
            "label": class_labels(rows["target"].tolist(), TARGETS, source=root / METADATA, column="target"),
            "group": rows["patient_id"],
            **subgroup_columns(rows, SUBGROUPS),
        }
    )
    table = ImageTable("isic2024", CLASSES, frame)  # an id given twice is reported before the files are read
    usable = usable_images(table.frame, name=str(root), on_bad_image=on_bad_image)
    usable.attrs["group_column"] = "patient_id"  # one patient has lesions of both classes
    return ImageTable(table.name, CLASSES, usable)


def read_metadata(file: Path) -> pd.DataFrame:
    """Return the columns that are used, as :func:`skinkd.data.table.read_csv` does.

    The published file has 55 columns and 401,059 rows. pandas reads the few that are needed in seconds. Of a file that pandas
    does not take, ``read_csv`` reads every cell, and says what is wrong.
    """
    names = {*COLUMNS, *SUBGROUPS.values()}
    as_text: dict[str, Any] = {"dtype": str, "keep_default_na": False, "skipinitialspace": True}
    try:
        header = pd.read_csv(file, nrows=0, **as_text).columns
        last = header[-1]  # which a line that is too short lacks
        used = [name for name in header if name in names or name == last]
        rows = pd.read_csv(file, usecols=used, na_values={last: [""]}, **as_text)
    except (ValueError, OSError):  # pandas' own errors of parsing are ValueErrors
        rows = pd.DataFrame()
    if set(COLUMNS) <= set(rows.columns) and not rows.isna().any(axis=None) and len(rows):
        rows = rows.apply(lambda column: column.str.strip())
        if not (rows[list(COLUMNS)] == "").any(axis=None):
            return rows
    return read_csv(file, required=COLUMNS)
