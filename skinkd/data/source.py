"""What is known of a published dataset: one ``SOURCE`` in the module of its loader, found through the loader."""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skinkd.config.targets import package_of
from skinkd.errors import UserError

Settings = Mapping[str, Any]
"""``data.table`` of a configuration: the loader as ``_target_``, and its arguments."""


TABLE_BYTES = 100_000_000
"""The most bytes of a table of metadata; those of the published datasets have below 10 MB."""


@dataclass(frozen=True, kw_only=True)
class File:
    """One file to download.

    Attributes:
        name: path of the file in the dataset's folder.
        url: address below ``Source.address``; "": ``name``.
        checksum: "md5:<hexadecimal>" or "sha256:<hexadecimal>"; None: none is published.
        unpack: folder, in the dataset's folder, to unpack the ZIP archive into; None: the file is no archive.
        check: raises UserError for a wrong file, where there is no checksum.
        most_bytes: no server may send more; the largest published archive has 13 GB.
    """

    name: str
    url: str = ""
    checksum: str | None = None
    unpack: str | None = None
    check: Callable[[Path], object] | None = None
    most_bytes: int = 20_000_000_000


@dataclass(frozen=True)
class NamedSplit:
    """A split of the dataset's images that another dataset published; the loader puts it into ``official_split``.

    Attributes:
        protocol: value of the setting ``protocol`` that chooses the split.
        how: what to do where the split is absent, to end a sentence.
    """

    protocol: str
    how: str


@dataclass(frozen=True, kw_only=True)
class Source:
    """What is known of a published dataset. Whatever is left out does not apply to the dataset.

    Attributes:
        licence: the terms of use.
        licence_note: what a reader of the licence must know, such as where others state another; a sentence or two.
        licence_of: returns the terms of the files that ``data.table`` chooses, where not all files have the same.
        title: the dataset's name in print.
        shows: what its images show, a noun phrase.
        class_names: class -> its name in full, where the class is an abbreviation.
        same_lesion: when two of its images count as images of one lesion, to end a sentence; "": the dataset tells nothing,
            and each image counts as a separate lesion.
        by_patient: the groups of its loader are patients, so that no patient is in two parts of a split.
        citations: the publications to cite.
        subgroups: column of ``skinkd.data.table.SUBGROUPS`` -> name of the column in the dataset's metadata.
        ids: name of the archive that gives the image ids and groups: two images with equal ids of one archive are the
            same image, wherever their files lie. ``{key}`` stands for an argument of the loader. None: ids and groups
            mean nothing outside their folder.
        address: where the files lie.
        files: returns the files to download, given ``data.table``; asks no server.
        listing: returns the files to download, where only the server knows them; its argument gets the content of an
            address below ``address``.
        by_hand: how to get the files, where they must not be downloaded by a program; ``{root}`` is their folder.
        chosen_by: settings below ``data`` that choose among the files.
        named_split: a split of these images that another dataset published.
        class_maps: tables in ``conf/class_map`` that translate the class names.
        generated: the loader makes the images itself, in its ``root``.
        lesion_mask: returns the file of the lesion's mask, given the image's; None where there is none. A mask has the size
            of its image, and is above 0 on the lesion.
        artefact_masks: returns by kind, such as "hair", the files of the masks of what is not skin, given the image's.
    """

    licence: str
    licence_note: str = ""
    licence_of: Callable[[Settings], str] | None = None
    title: str = ""
    shows: str = ""
    class_names: Mapping[str, str] = field(default_factory=dict)
    same_lesion: str = ""
    by_patient: bool = False
    citations: tuple[str, ...] = ()
    subgroups: Mapping[str, str] = field(default_factory=dict)
    ids: str | None = None
    address: str = ""
    files: Callable[[Settings], Sequence[File]] | None = None
    listing: Callable[[Callable[[str], bytes]], Sequence[File]] | None = None
    by_hand: str = ""
    chosen_by: tuple[str, ...] = ()
    named_split: NamedSplit | None = None
    class_maps: tuple[str, ...] = ()
    generated: bool = False
    lesion_mask: Callable[[Path], Path | None] | None = None
    artefact_masks: Callable[[Path], Mapping[str, Path]] | None = None

    def licence_for(self, table: Settings) -> str:
        """Return the terms of use of the files that ``data.table`` chooses."""
        return self.licence if self.licence_of is None else self.licence_of(table)


def source_of(table: Settings) -> Source | None:
    """Return the ``SOURCE`` of the module that defines the loader; None: it has none, or cannot or may not be imported.

    So a dataset needs no entry in any list, and a loader of another package is found as ours are.

    Raises:
        UserError: ``SOURCE`` is something else.
    """
    if package_of(str(table["_target_"]), "data.table") is None:  # to import a module is to run it
        return None
    module, _, name = str(table["_target_"]).rpartition(".")
    try:
        loader = getattr(importlib.import_module(module), name, None)
    except ImportError:  # whoever calls the loader is told why
        return None
    defined = getattr(loader, "__module__", "")
    source = getattr(sys.modules.get(defined), "SOURCE", None)
    if source is not None and not isinstance(source, Source):
        raise UserError(
            f"SOURCE of {defined} is a {type(source).__name__}, and it must be a Source; write SOURCE = Source(licence=…), "
            "with Source from skinkd.data.source"
        )
    return source


def archive_of_ids(table: Settings) -> str | None:
    """Return ``Source.ids`` of a loader with its arguments filled in; None: ids mean nothing outside their folder."""
    source = source_of(table)
    return source.ids.format_map(table) if source is not None and source.ids is not None else None
