"""ISIC 2019's training set from its official tables: HAM10000, BCN20000 and MSK together, in 8 classes."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from skinkd.data.files import find_images, usable_images
from skinkd.data.groups import connected_groups
from skinkd.data.ham10000_folder import CITATION, CLASS_NAMES, DUPLICATE_PAIRS, IMAGE_FOLDERS
from skinkd.data.source import TABLE_BYTES, File, Settings, Source
from skinkd.data.table import ImageTable, listing, read_csv, subgroup_columns
from skinkd.errors import UserError

log = logging.getLogger(__name__)

CLASSES = ("AK", "BCC", "BKL", "DF", "MEL", "NV", "SCC", "VASC")
UNKNOWN = "UNK"
GROUND_TRUTH = "ISIC_2019_Training_GroundTruth.csv"
METADATA = "ISIC_2019_Training_Metadata.csv"
SUBGROUPS = {"sex": "sex", "age": "age_approx", "body_site": "anatom_site_general"}
FOLDERS = ("ISIC_2019_Training_Input", "images", "")
SUFFIX = "_downsampled"
SHA256 = {
    GROUND_TRUTH: "c193a9a94c538f0043de56fa680f02b436b6c308691da3aac24c2e9cf375b6bb",
    METADATA: "5aa3bc771c5d88d18f23824e8fccb93ef98de5a00976e2a42ec1fe54ceed2990",
}


def published_files(table: Settings) -> list[File]:
    """Return the two tables, by SHA-256, and the 9 GB of images, of which only the CRCs in the archive are known."""
    tables = [File(name=name, checksum=f"sha256:{sha256}", most_bytes=TABLE_BYTES) for name, sha256 in SHA256.items()]
    return [*tables, File(name="ISIC_2019_Training_Input.zip", unpack=".")]


SOURCE = Source(
    licence="CC BY-NC 4.0",
    title="the training set of the ISIC 2019 challenge",
    shows="dermatoscopic images of skin lesions",
    class_names={
        "AK": "actinic keratosis",
        "SCC": "squamous cell carcinoma",
        **{name.upper(): words for name, words in CLASS_NAMES.items() if name != "akiec"},
    },
    same_lesion="they have the same lesion_id, or belong to a published pair of images that show one lesion",
    citations=(
        CITATION,
        "C. Hernández-Pérez et al. BCN20000: dermoscopic lesions in the wild. Scientific Data 11:641, 2024. "
        "doi:10.1038/s41597-024-03387-w",
        "N. C. F. Codella et al. Skin lesion analysis toward melanoma detection: a challenge at the 2017 International "
        "Symposium on Biomedical Imaging (ISBI). 2018. arXiv:1710.05006",
    ),
    subgroups=SUBGROUPS,
    ids="ISIC archive",
    address="https://isic-challenge-data.s3.amazonaws.com/2019",
    files=published_files,
    class_maps=("isic2019_ham10000",),
)


def load_isic2019(
    root: str | Path, *, ham10000_root: str | Path, only_available: bool, on_bad_image: str
) -> ImageTable:
    """Return the table of an ISIC 2019 folder: 8 classes, groups of photographs of one lesion.

    Expected under ``root``: ``ISIC_2019_Training_GroundTruth.csv``, ``ISIC_2019_Training_Metadata.csv`` and
    the images in ``ISIC_2019_Training_Input``. The images of HAM10000 are a part of ISIC 2019 under the same
    ids: those absent from ``root`` are taken from ``ham10000_root``, if it has them. An image's id is its
    name without the ``_downsampled`` that some releases append, in the tables and in the files alike.

    A group is a connected component of "same lesion_id" and HAM10000's published duplicate pairs. An image without a
    lesion id is a separate group. UNK ("none of the others") is no diagnosis that could be learnt: such images are left
    out, and a warning counts them; the official training table has none.

    Args:
        root: the folder.
        ham10000_root: folder in HAM10000's layout; need not exist.
        only_available: use the images that exist; a warning says how many of how many these are.
        on_bad_image: "error" or "skip", see :func:`skinkd.data.files.usable_images`.

    Raises:
        UserError: a table is absent or unreadable, the two tables contradict each other, a row does not have exactly
            one class, or images are missing or damaged.
    """
    root, ham10000_root = (Path(path).expanduser().absolute() for path in (root, ham10000_root))
    frame = read_tables(root)
    found = find_images(ham10000_root, IMAGE_FOLDERS) | {
        path_id.removesuffix(SUFFIX): path for path_id, path in find_images(root, FOLDERS).items()
    }
    frame["path"] = [found.get(image_id, "") for image_id in frame["image_id"]]
    table = ImageTable("isic2019", CLASSES, frame)  # an id given twice is reported before the files are read
    frame, absent = table.frame, (table.frame["path"] == "").to_numpy()
    if absent.all():
        raise UserError(
            f"there are ISIC 2019 tables but no images in {root}; unpack ISIC_2019_Training_Input.zip there "
            "(challenge.isic-archive.com/data), or point SKINKD_DATA_DIR or paths.data_dir at the folder that "
            "holds isic2019/"
        )
    if absent.any() and only_available:
        log.warning(
            "data.only_available=true uses %d of the %d images of ISIC 2019",
            int((~absent).sum()),
            len(frame),
        )
        frame = frame[~absent]
    elif absent.any() and on_bad_image == "error":
        raise UserError(
            f"{int(absent.sum())} of the {len(frame)} images of ISIC 2019 are missing "
            f"({listing(frame['image_id'][absent])}); complete {root / FOLDERS[0]}, or set "
            "data.only_available=true to use those that are there"
        )
    usable = usable_images(frame, name=str(root), on_bad_image=on_bad_image)
    return ImageTable(table.name, _present(CLASSES, usable), _relabel(usable, CLASSES))


def read_tables(root: Path) -> pd.DataFrame:
    """Return image_id, label, group and subgroups of ISIC 2019 from its two tables alone; labels index ``CLASSES``.

    Raises:
        UserError: as :func:`load_isic2019`, except for the images.
    """
    for name in (GROUND_TRUTH, METADATA):
        if not (root / name).is_file():
            raise UserError(
                f"there is no {name} in {root}; put the two official tables and the folder {FOLDERS[0]} there "
                "(challenge.isic-archive.com/data, 2019), or point SKINKD_DATA_DIR or paths.data_dir at the "
                "folder that holds isic2019/"
            )
    truth = read_csv(root / GROUND_TRUTH, required=("image", *CLASSES))
    metadata = read_csv(root / METADATA, required=("image",), optional_cells=("lesion_id",))
    truth["image"] = truth["image"].str.removesuffix(SUFFIX)
    metadata["image"] = metadata["image"].str.removesuffix(SUFFIX)
    for frame, name in ((truth, GROUND_TRUTH), (metadata, METADATA)):
        repeated = frame["image"][frame["image"].duplicated()].unique()
        if len(repeated):
            raise UserError(
                f"{root / name}: {len(repeated)} images have more than one row ({listing(repeated)}); each "
                "image needs one"
            )
    label = _one_hot(truth, root / GROUND_TRUTH)
    lesion = dict(zip(metadata["image"], metadata["lesion_id"], strict=True))
    without = [image for image in truth["image"] if image not in lesion]
    if without:
        raise UserError(
            f"{root / METADATA} lacks {len(without)} images of {GROUND_TRUTH} ({listing(without)}); use the "
            "two tables of one release"
        )
    lesions = [lesion[image] or f"image:{image}" for image in truth["image"]]
    frame = pd.DataFrame(
        {
            "image_id": truth["image"],
            "label": label,
            "group": connected_groups(truth["image"].tolist(), lesions, DUPLICATE_PAIRS),
            **subgroup_columns(metadata.set_index("image").loc[truth["image"]], SUBGROUPS),
        }
    )
    known = label < len(CLASSES)
    if not known.all():
        log.warning("%d images of ISIC 2019 are labelled UNK and are left out", int((~known).sum()))
    return frame[known].reset_index(drop=True)


def _one_hot(truth: pd.DataFrame, source: Path) -> np.ndarray:
    """Return each row's class index; ``len(CLASSES)`` stands for UNK."""
    columns = [*CLASSES, *([UNKNOWN] if UNKNOWN in truth.columns else [])]
    try:
        values = truth[columns].to_numpy().astype(np.float64)
    except ValueError as error:
        raise UserError(f"{source}: {error}; each class column must hold 0 or 1") from error
    wrong = np.flatnonzero(~(np.isin(values, (0, 1)).all(axis=1) & (values.sum(axis=1) == 1)))
    if len(wrong):
        raise UserError(
            f"{source}: {len(wrong)} rows do not have a 1 in exactly one of {', '.join(columns)} "
            f"({listing(truth['image'].iloc[wrong])}); mend them"
        )
    return values.argmax(axis=1).astype(np.int64)


def _present(classes: Sequence[str], frame: pd.DataFrame) -> tuple[str, ...]:
    """Return the classes that have images: a part of ISIC 2019 need not have all of them."""
    return tuple(name for label, name in enumerate(classes) if (frame["label"] == label).any())


def _relabel(frame: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    present = _present(classes, frame)
    return frame.assign(label=[present.index(classes[label]) for label in frame["label"]])
