"""HAM10000: Tschandl, Rosendahl, Kittler, Scientific Data 5:180161 (2018)."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from skinkd.data.ham10000_folder import CITATION, CLASS_NAMES, COLUMNS, SPLIT_NAME, SUBGROUPS, lesion_mask, read_folder
from skinkd.data.source import TABLE_BYTES, File, NamedSplit, Source
from skinkd.data.synthetic import load_synthetic as load_synthetic  # stored runs name it as this module's
from skinkd.data.table import ImageTable, read_csv
from skinkd.errors import UserError

DOI = "doi:10.7910/DVN/DBW86T"
METADATA = "HAM10000_metadata"
FILES = ("HAM10000_images_part_1", "HAM10000_images_part_2", METADATA)


def load_ham10000(root: str | Path, *, on_bad_image: str) -> ImageTable:
    """Return the table of a HAM10000 folder: 7 classes, groups of photographs of one lesion.

    Expected under ``root``: ``HAM10000_metadata.csv`` (or Dataverse's ``HAM10000_metadata``) and the images
    in ``HAM10000_images_part_1`` and ``…_part_2``, in ``HAM10000_images``, in ``images``, or next to the
    metadata. A group is a connected component of "same lesion_id" and "known duplicate pair": the published
    pairs, and those of ``duplicate_pairs.csv`` (columns image_id_a, image_id_b) if that lies next to the
    metadata. Every file's first and last bytes are checked. If ``dermamnist_split.csv`` (columns image_id, split:
    train, val or test) lies next to the metadata, the table has a column ``official_split``: DermaMNIST's split of
    these images (Yang et al., Scientific Data 10:41, 2023), for ``protocol=dermamnist``. Sex, age, localization and
    dx_type of the metadata become the columns of ``skinkd.data.table.SUBGROUPS``.

    Raises:
        UserError: nothing at ``root``; metadata that cannot be read or names an unknown class or an id twice;
            a missing or damaged image, unless ``on_bad_image`` is "skip".
    """
    return read_folder(root, on_bad_image=on_bad_image)


def listed_files(get: Callable[[str], bytes]) -> list[File]:
    """Return the images and the metadata as the Dataverse lists them, with their MD5 sums.

    Args:
        get: returns the content of an address below the Dataverse's.

    Raises:
        UserError: the listing is no Dataverse's, or lacks a file.
    """
    listing = get(f"api/datasets/:persistentId/?persistentId={DOI}")
    try:
        entries = json.loads(listing)["data"]["latestVersion"]["files"]
        records: dict[str, Mapping[str, Any]] = {Path(entry["label"]).stem: entry["dataFile"] for entry in entries}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"the server does not list the files of {DOI} as a Dataverse does; set download.address to a Dataverse"
        ) from error
    absent = [name for name in FILES if name not in records]
    if absent:
        raise UserError(f"the Dataverse lists no {', '.join(absent)} for {DOI}; look there whether it has a new name")
    return [_file(name, records[name]) for name in FILES]


def _file(name: str, record: Mapping[str, Any]) -> File:
    url = f"api/access/datafile/{record['id']}"
    checksum = f"md5:{record['md5']}" if record.get("md5") else None
    if name != METADATA:
        return File(name=f"{name}.zip", url=url, checksum=checksum, unpack=name)
    if record.get("originalFileFormat"):
        # the Dataverse has turned the table into its own format; the checksum need not be the original file's
        url, checksum = f"{url}?format=original", None
    return File(
        name=f"{name}.csv",
        url=url,
        checksum=checksum,
        check=lambda path: read_csv(path, required=COLUMNS),
        most_bytes=TABLE_BYTES,
    )


SOURCE = Source(
    licence="CC BY-NC-SA 4.0",
    licence_note="The licence is not stated alike everywhere: those who pass the dataset on name CC BY-NC-SA 4.0, and ISIC "
    "2019, which has the same images, is under CC BY-NC 4.0. skinkd names the stricter of the two. Both exclude commercial "
    "use. Read the dataset's record (doi:10.7910/DVN/DBW86T) before you pass anything on.",
    title="HAM10000",
    shows="dermatoscopic images of pigmented skin lesions",
    class_names=CLASS_NAMES,
    same_lesion="they have the same lesion_id, or belong to a published pair of images that show one lesion",
    citations=(CITATION,),
    subgroups=SUBGROUPS,
    ids="ISIC archive",
    address="https://dataverse.harvard.edu",
    listing=listed_files,
    named_split=NamedSplit("dermamnist", how=f"put {SPLIT_NAME} (image_id, split) next to HAM10000's metadata"),
    class_maps=("isic2019_ham10000", "dermamnist_ham10000"),
    lesion_mask=lesion_mask,
)
