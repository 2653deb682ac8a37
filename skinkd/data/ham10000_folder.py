"""HAM10000's layout of files, which the embedded dataset has too."""

from pathlib import Path

import pandas as pd

from skinkd.data.files import find_images, usable_images
from skinkd.data.groups import connected_groups
from skinkd.data.table import ImageTable, class_labels, listing, read_csv, split_column, subgroup_columns
from skinkd.errors import UserError

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
METADATA_NAMES = ("HAM10000_metadata.csv", "HAM10000_metadata", "HAM10000_metadata.tab")
CLASS_NAMES = {
    "akiec": "actinic keratosis or intraepithelial carcinoma",
    "bcc": "basal cell carcinoma",
    "bkl": "benign keratosis-like lesion",
    "df": "dermatofibroma",
    "mel": "melanoma",
    "nv": "melanocytic nevus",
    "vasc": "vascular lesion",
}
CITATION = (
    "P. Tschandl, C. Rosendahl, H. Kittler. The HAM10000 dataset, a large collection of multi-source dermatoscopic images of "
    "common pigmented skin lesions. Scientific Data 5:180161, 2018. doi:10.1038/sdata.2018.161"
)
COLUMNS = ("lesion_id", "image_id", "dx")
SUBGROUPS = {"sex": "sex", "age": "age", "body_site": "localization", "confirmation": "dx_type"}
IMAGE_FOLDERS = ("HAM10000_images_part_1", "HAM10000_images_part_2", "HAM10000_images", "images", "")
MASKS = "HAM10000_segmentations_lesion_tschandl"
PAIRS_NAME = "duplicate_pairs.csv"
SPLIT_NAME = "dermamnist_split.csv"

# Pairs of images that show one lesion under two lesion ids: Scientific Data 12:196 (2025). The last digits of the ids.
DUPLICATE_PAIRS = tuple(
    (f"ISIC_00{first}", f"ISIC_00{second}")
    for first, second in (
        ("33481", "33421"), ("33556", "32634"), ("29152", "33173"), ("29036", "27027"), ("27820", "28209"),
        ("27689", "32647"), ("30906", "24879"), ("33391", "34186"), ("25226", "30074"), ("26087", "25664"),
        ("24736", "29748"), ("24770", "27811"), ("27162", "29061"), ("24602", "32283"), ("29625", "24629"),
        ("30000", "31392"), ("24437", "31299"), ("33374", "33417"),
    )
)  # fmt: skip


def read_folder(root: str | Path, *, on_bad_image: str) -> ImageTable:
    """Return the table of a folder in HAM10000's layout; see :func:`skinkd.data.ham10000.load_ham10000`."""
    root = Path(root).expanduser().absolute()
    metadata = _metadata(root)
    images = find_images(root, IMAGE_FOLDERS) if metadata else {}
    if metadata is None or not images:
        lacking = "no HAM10000 metadata" if metadata is None else "HAM10000 metadata but no images"
        raise UserError(
            f"there is {lacking} in {root}; put HAM10000_metadata.csv and the folders "
            "HAM10000_images_part_1 and HAM10000_images_part_2 there (Harvard Dataverse, "
            "doi:10.7910/DVN/DBW86T), or point SKINKD_DATA_DIR or paths.data_dir at the folder that holds "
            "ham10000/, or train on data=synthetic, which needs no files"
        )
    rows = read_csv(metadata, required=COLUMNS)
    frame = pd.DataFrame(
        {
            "image_id": rows["image_id"],
            "path": [images.get(image_id, "") for image_id in rows["image_id"]],
            "label": class_labels(rows["dx"].tolist(), CLASSES, source=metadata, column="dx"),
            "group": connected_groups(
                rows["image_id"].tolist(), rows["lesion_id"].tolist(), [*DUPLICATE_PAIRS, *_read_pairs(root)]
            ),
            **subgroup_columns(rows, SUBGROUPS),
        }
    )
    if (root / SPLIT_NAME).is_file():
        split = read_csv(root / SPLIT_NAME, required=("image_id", "split"))
        if repeated := sorted(set(split["image_id"][split["image_id"].duplicated()])):
            raise UserError(
                f"{root / SPLIT_NAME} has more than one line for {len(repeated)} images ({listing(repeated)}); keep one "
                "line of each"
            )
        part_of = dict(zip(split["image_id"], split_column(split["split"], root / SPLIT_NAME), strict=True))
        frame["official_split"] = [part_of.get(image_id, "") for image_id in frame["image_id"]]
    # before the files are looked at, so that an id given twice is reported as such
    table = ImageTable("ham10000", CLASSES, frame)
    usable = usable_images(table.frame, name=str(root), on_bad_image=on_bad_image)
    return table if len(usable) == len(table) else ImageTable(table.name, CLASSES, usable)


def lesion_mask(image: Path) -> Path | None:
    """Return the mask of the lesion in an image of such a folder, or None if there is no such file."""
    places = (folder / MASKS / f"{image.stem}_segmentation.png" for folder in (image.parent.parent, image.parent))
    return next((path for path in places if path.is_file()), None)


def _metadata(root: Path) -> Path | None:
    """Return the metadata, whatever the capital letters of its name; None if there is none."""
    names = [name.lower() for name in METADATA_NAMES]
    files = [path for path in root.iterdir() if path.name.lower() in names] if root.is_dir() else []
    exact = [root / name for name in METADATA_NAMES if (root / name).is_file()]
    return next((path for path in (*exact, *sorted(files)) if path.is_file()), None)


def _read_pairs(root: Path) -> list[tuple[str, str]]:
    path = root / PAIRS_NAME
    if not path.is_file():
        return []
    pairs = read_csv(path, required=("image_id_a", "image_id_b"), may_be_empty=True)
    return list(zip(pairs["image_id_a"], pairs["image_id_b"], strict=True))
