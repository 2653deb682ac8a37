"""HAM10000 in its original layout: Tschandl, Rosendahl, Kittler, Scientific Data 5:180161 (2018)."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from skinkd.data.files import find_images, usable_images
from skinkd.data.table import ImageTable, class_labels, listing, read_csv, split_column
from skinkd.errors import UserError

log = logging.getLogger(__name__)

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
METADATA_NAMES = ("HAM10000_metadata.csv", "HAM10000_metadata", "HAM10000_metadata.tab")
IMAGE_FOLDERS = ("HAM10000_images_part_1", "HAM10000_images_part_2", "HAM10000_images", "images", "")
PAIRS_NAME = "duplicate_pairs.csv"
SPLIT_NAME = "dermamnist_split.csv"

# Images of one lesion that carry two lesion ids: Scientific Data 12:196 (2025). Written as the ids' last
# digits.
DUPLICATE_PAIRS = tuple(
    (f"ISIC_00{first}", f"ISIC_00{second}")
    for first, second in (
        ("33481", "33421"), ("33556", "32634"), ("29152", "33173"), ("29036", "27027"), ("27820", "28209"),
        ("27689", "32647"), ("30906", "24879"), ("33391", "34186"), ("25226", "30074"), ("26087", "25664"),
        ("24736", "29748"), ("24770", "27811"), ("27162", "29061"), ("24602", "32283"), ("29625", "24629"),
        ("30000", "31392"), ("24437", "31299"), ("33374", "33417"),
    )
)  # fmt: skip


def load_ham10000(root: str | Path, *, on_bad_image: str) -> ImageTable:
    """Return the table of a HAM10000 folder: 7 classes, groups of photographs of one lesion.

    Expected under ``root``: ``HAM10000_metadata.csv`` (or Dataverse's ``HAM10000_metadata``) and the images
    in ``HAM10000_images_part_1`` and ``…_part_2``, in ``HAM10000_images``, in ``images``, or beside the
    metadata. A group is a connected component of "same lesion_id" and "known duplicate pair": the published
    pairs and those of ``duplicate_pairs.csv`` (columns image_id_a, image_id_b) beside the metadata, if there
    is one. Every file's two ends are checked. With ``dermamnist_split.csv`` (columns image_id, split: train, val
    or test) beside the metadata the table has a column ``official_split``, DermaMNIST's split of these images
    (Yang et al., Scientific Data 10:41, 2023), for ``protocol=dermamnist``.

    Raises:
        UserError: nothing at ``root``; metadata that cannot be read or names an unknown class or an id twice;
            a missing or damaged image, unless ``on_bad_image`` is "skip".
    """
    root = Path(root).expanduser().absolute()
    metadata = next((root / name for name in METADATA_NAMES if (root / name).is_file()), None)
    images = find_images(root, IMAGE_FOLDERS) if metadata else {}
    if metadata is None or not images:
        lacking = "no HAM10000 metadata" if metadata is None else "HAM10000 metadata but no images"
        raise UserError(
            f"there is {lacking} in {root}; put HAM10000_metadata.csv and the folders "
            "HAM10000_images_part_1 and HAM10000_images_part_2 there (Harvard Dataverse, "
            "doi:10.7910/DVN/DBW86T), or point SKINKD_DATA_DIR or paths.data_dir at the folder that holds "
            "ham10000/, or train on data=synthetic, which needs no files"
        )
    rows = read_csv(metadata, required=("lesion_id", "image_id", "dx"))
    frame = pd.DataFrame(
        {
            "image_id": rows["image_id"],
            "path": [images.get(image_id, "") for image_id in rows["image_id"]],
            "label": class_labels(rows["dx"].tolist(), CLASSES, source=metadata, column="dx"),
            "group": connected_groups(
                rows["image_id"].tolist(), rows["lesion_id"].tolist(), [*DUPLICATE_PAIRS, *_read_pairs(root)]
            ),
        }
    )
    if (root / SPLIT_NAME).is_file():
        split = read_csv(root / SPLIT_NAME, required=("image_id", "split"))
        if repeated := sorted(set(split["image_id"][split["image_id"].duplicated()])):
            raise UserError(
                f"{root / SPLIT_NAME}: {len(repeated)} images are there more than once ({listing(repeated)}); leave one line "
                "of each"
            )
        part_of = dict(zip(split["image_id"], split_column(split["split"], root / SPLIT_NAME), strict=True))
        frame["official_split"] = [part_of.get(image_id, "") for image_id in frame["image_id"]]
    # before the files are looked at, so that an id given twice is reported as such
    table = ImageTable("ham10000", CLASSES, frame)
    usable = usable_images(table.frame, name=str(root), on_bad_image=on_bad_image)
    return table if len(usable) == len(table) else ImageTable(table.name, CLASSES, usable)


def load_synthetic(
    root: str | Path, *, images: int, height: int, width: int, seed: int, on_bad_image: str
) -> ImageTable:
    """Return the table of the embedded dataset, made under ``root`` in HAM10000's format if not yet there."""
    from skinkd.data.synthetic import generate

    folder = generate(Path(root).expanduser(), images=images, image_size=(height, width), seed=seed)
    return ImageTable("synthetic", CLASSES, load_ham10000(folder, on_bad_image=on_bad_image).frame)


def connected_groups(
    image_ids: Sequence[str], lesion_ids: Sequence[str], pairs: Iterable[tuple[str, str]]
) -> list[str]:
    """Return each image's group: images are joined by equal lesion id and by pair, and by chains of these.

    A group is named by the smallest lesion id in it, so that the name does not depend on the order of the
    rows. Pairs that name an image not in ``image_ids`` are ignored.
    """
    parent = {lesion: lesion for lesion in lesion_ids}

    def root(lesion: str) -> str:
        while parent[lesion] != lesion:
            parent[lesion] = parent[parent[lesion]]
            lesion = parent[lesion]
        return lesion

    lesion_of = dict(zip(image_ids, lesion_ids, strict=True))
    for first, second in pairs:
        if first in lesion_of and second in lesion_of:
            low, high = sorted((root(lesion_of[first]), root(lesion_of[second])))
            parent[high] = low
    return [root(lesion) for lesion in lesion_ids]


def _read_pairs(root: Path) -> list[tuple[str, str]]:
    path = root / PAIRS_NAME
    if not path.is_file():
        return []
    pairs = read_csv(path, required=("image_id_a", "image_id_b"), may_be_empty=True)
    return list(zip(pairs["image_id_a"], pairs["image_id_b"], strict=True))
