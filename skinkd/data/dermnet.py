"""DermNet as distributed: ``train/<class>/…`` and ``test/<class>/…``, 23 classes, no lesion or patient ids."""

import logging
from pathlib import Path

import numpy as np

from skinkd.data.class_folders import scan_classes
from skinkd.data.files import usable_images
from skinkd.data.folder import group_near_duplicates
from skinkd.data.source import Source
from skinkd.data.table import ImageTable
from skinkd.errors import UserError

log = logging.getLogger(__name__)

CLASSES = 23
SOURCE = Source(
    licence="dermnetnz.org",
    title="DermNet",
    shows="photographs of skin diseases",
    same_lesion="they are near-copies of each other; the dataset tells neither lesions nor patients",
    by_hand="DermNet has terms of its own (dermnetnz.org), so fetch it yourself: the 23-class collection that the "
    "literature uses is on Kaggle as shubhamgoel27/dermnet; unpack its train/ and test/ folders into {root}",
)


def load_dermnet(
    root: str | Path,
    *,
    near_duplicate_bits: int | None,
    drop_train_test_duplicates: bool,
    memory: str | Path,
    on_bad_image: str,
) -> ImageTable:
    """Return DermNet's table: groups of near-duplicates, the official split in ``official_split``.

    A warning always tells the overlap of the train and test folders: how many test images have a near-duplicate in
    train, or that this was not measured.

    Args:
        root: folder that holds train/ and test/.
        near_duplicate_bits: largest number of the perceptual hash's 256 bits in which near-duplicates differ.
        drop_train_test_duplicates: leave out the training images of groups that are also in test.
        memory: folder that stores the perceptual hashes.
        on_bad_image: "error" or "skip", see :func:`skinkd.data.files.usable_images`.

    Raises:
        UserError: train/ or test/ is absent, or an image cannot be used.
    """
    root = Path(root).expanduser().absolute()
    absent = [name for name in ("train", "test") if not (root / name).is_dir()]
    if absent:
        raise UserError(
            f"there is no {' and no '.join(absent)} folder in {root}; unpack DermNet's train/<class>/ and "
            "test/<class>/ there (python -m skinkd.data download data=dermnet says from where), or point "
            "SKINKD_DATA_DIR or paths.data_dir at the folder that holds dermnet/"
        )
    if drop_train_test_duplicates and near_duplicate_bits is None:
        raise UserError(
            "data.drop_train_test_duplicates=true needs data.near_duplicate_bits to find them; set it, e.g. to 32"
        )
    frame, classes = scan_classes(root)
    if len(classes) != CLASSES:
        log.warning("%s has %d classes; the DermNet of the literature has %d", root, len(classes), CLASSES)
    frame = usable_images(frame, name=str(root), on_bad_image=on_bad_image)
    frame = group_near_duplicates(
        frame, bits=near_duplicate_bits, memory=Path(memory), name=str(root), on_bad_image=on_bad_image
    )
    part, group = frame["official_split"].to_numpy(str), frame["group"].to_numpy(str)
    in_test = np.isin(group, group[part == "test"])
    in_train = np.isin(group, group[part == "train"])
    shared, copies = (part == "test") & in_train, (part == "train") & in_test
    if near_duplicate_bits is None:
        log.warning(
            "the overlap of DermNet's train and test folders is not measured, as data.near_duplicate_bits is null; "
            "set it, e.g. to 32"
        )
    elif not shared.any():
        log.warning("0 of the %d test images of DermNet have a near-duplicate in train", (part == "test").sum())
    else:
        log.warning(
            "%d of the %d test images of DermNet (%.1f %%) have a near-duplicate among %d training images%s",
            shared.sum(),
            (part == "test").sum(),
            100 * shared.sum() / (part == "test").sum(),
            copies.sum(),
            ", which are left out"
            if drop_train_test_duplicates
            else "; data.drop_train_test_duplicates=true leaves these out",
        )
    if drop_train_test_duplicates:
        frame = frame[~copies]
    return ImageTable("dermnet", classes, frame)
