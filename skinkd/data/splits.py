"""The part of each image in a split, and how much a split leaks: pure functions of table and seed."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from skinkd.data.source import NamedSplit, Source
from skinkd.data.table import ImageTable, listing
from skinkd.errors import UserError, check_whole, nearest

PARTS = ("train", "val", "test")
PROTOCOLS = ("grouped", "image_level", "oversampled", "official")
"""Of every dataset; a dataset's ``SOURCE`` may name a further split."""


@dataclass(frozen=True)
class LeakReport:
    """How many test images show a lesion that is also in train or in val.

    Attributes:
        test_images: number of test images.
        in_train: share of them whose group also has images in train.
        in_train_or_val: share of them whose group also has images in train or val.
        in_train_per_label: ``in_train`` among the test images of each label.
        shared_groups: number of groups with images in more than one part.
    """

    test_images: int
    in_train: float
    in_train_or_val: float
    in_train_per_label: dict[int, float]
    shared_groups: int

    def sentence(self, classes: Sequence[str]) -> str:
        """Return the report as one sentence, classes by name."""
        each = ", ".join(f"{classes[label]} {share:.1%}" for label, share in self.in_train_per_label.items())
        return (
            f"{self.in_train:.1%} of the {self.test_images} test images show a lesion that is also in train "
            f"({each}); {self.shared_groups} lesions are in more than one part"
        )


def protocol_images(table: ImageTable, protocol: str) -> ImageTable:
    """Return the images that the protocol splits: the table itself, except for "oversampled".

    "oversampled" repeats the images of each class, in the order of their ids, until every class has as many as the
    largest. It does so before the split, as published code does (MSKD's, of Pavel et al. 2025), so that the effect on
    the score can be measured. The second copy of an image is called "<image_id>#2"; copies keep the group.
    """
    if protocol != "oversampled":
        return table
    frame = table.frame
    most = frame["label"].value_counts().max()
    copies = []
    for _, rows in frame.groupby("label"):
        number = np.arange(most)
        taken = rows.iloc[number % len(rows)]
        copy = number // len(rows) + 1
        names = [one if k == 1 else f"{one}#{k}" for one, k in zip(taken["image_id"], copy, strict=True)]
        copies.append(taken.assign(image_id=names))
    return ImageTable(table.name, table.classes, pd.concat(copies, ignore_index=True))


def make_split(
    table: ImageTable,
    *,
    protocol: str,
    fractions: Mapping[str, float],
    seed: int,
    fold: int | None,
    folds: int | None,
    source: Source | None = None,
) -> pd.Series:
    """Return the part ("train", "val" or "test") of each row of ``table.frame``.

    Args:
        table: the images.
        protocol: "grouped" keeps each group in one part; "image_level" ignores groups, as the papers' code
            does, and leaks (see :func:`measure_leak`); "oversampled" does the same on a table with copies
            (:func:`protocol_images`), and leaks more; "official" is the dataset's own split, and
            ``source.named_split.protocol`` another dataset's split of the same images.
        fractions: share of the images for train, val and test; not used when ``fold`` is given.
        seed: of the split; the same seed gives the same split.
        fold: with ``folds``, the fold to test on (see :func:`grouped_folds`), or None.
        folds: number of folds, or None.
        source: the dataset's ``SOURCE``, which may name a further split; None: it has none.

    Raises:
        UserError: an unknown protocol, fractions that are no shares, a fold out of range, or a class that is
            absent from a part.
    """
    named = source.named_split if source is not None else None
    known = [*PROTOCOLS, *([named.protocol] if named else [])]
    if protocol not in known:
        raise UserError(f"protocol={protocol} is no split of the dataset {table.name}{nearest(str(protocol), known)}")
    check_shares(fractions, fold=fold, folds=folds, protocol=protocol)
    fractions = {part: fractions[part] for part in PARTS}
    if fold is not None and folds is not None:
        parts = grouped_folds(table.frame, fold=fold, folds=folds, seed=seed)
    elif protocol == "grouped":
        parts = grouped_split(table.frame, fractions=fractions, seed=seed)
    elif protocol in ("image_level", "oversampled"):
        parts = image_level_split(table.frame, fractions=fractions, seed=seed)
    else:
        parts = official_split(table, protocol=protocol, fractions=fractions, seed=seed, named=named)
    official = protocol == "official" or (named is not None and protocol == named.protocol)
    _check_classes(table, parts, official=official)
    return parts


def check_shares(fractions: Mapping[str, float], *, fold: int | None, folds: int | None, protocol: str) -> None:
    """Raise UserError unless the shares of the parts, or the fold, can make a split; needs no data."""
    if set(fractions) != set(PARTS):
        raise UserError(f"data.fractions names {listing(fractions)}; it must name {', '.join(PARTS)}")
    _check_fractions(fractions)
    if (fold is None) != (folds is None):
        raise UserError(f"data.fold={fold} and data.folds={folds} go together; set both or neither")
    if fold is not None and folds is not None:
        if protocol != "grouped":
            raise UserError(f"data.fold={fold} is for protocol=grouped; protocol={protocol} has no folds")
        _check_fold(fold, folds)


def official_split(
    table: ImageTable, *, protocol: str, fractions: Mapping[str, float], seed: int, named: NamedSplit | None
) -> pd.Series:
    """Return the published split, which is the column ``official_split``; it may put a group into two parts.

    If the split has no validation part, whole groups are taken from train, stratified by class. Their share of train is
    ``val / (train + val)`` of ``fractions``.

    Raises:
        UserError: the dataset has no such column, an image has no part in it, or a part has no image.
    """
    if "official_split" not in table.frame.columns:
        how = named.how if named and protocol == named.protocol else "use protocol=grouped"
        raise UserError(f"protocol={protocol}: the dataset {table.name} has no such split; {how}")
    parts = table.frame["official_split"].astype(object).rename("part")
    without = table.frame["image_id"][(parts == "").to_numpy()]
    if len(without):
        raise UserError(
            f"protocol={protocol}: {len(without)} images of {table.name} have no part in that split "
            f"({listing(without)}); complete the split, or use protocol=grouped"
        )
    if "val" not in set(parts):
        _check_fractions(fractions)
        train = table.frame[(parts == "train").to_numpy()]
        both = fractions["train"] + fractions["val"]
        shares = {name: fractions[name] / both for name in ("train", "val")}
        parts.loc[train.index] = _assign(train["group"], train["label"], shares, seed)
    if absent := [part for part in PARTS if part not in set(parts)]:
        raise UserError(
            f"protocol={protocol}: the split of {table.name} has no {' and no '.join(absent)} part; complete it, or use "
            "protocol=grouped"
        )
    return parts


def grouped_split(frame: pd.DataFrame, *, fractions: Mapping[str, float], seed: int) -> pd.Series:
    """Split whole groups, stratified by class: the part of each row.

    The class of a group is its most frequent label. Within each class the groups are taken in an order drawn by
    ``seed``, and each goes to the part that is filled least relative to its share. So in each class no part exceeds its
    share by more than the largest group, and a class with at least as many groups as there are parts is in every part.
    The order is that of SHA-256 of seed and group: it depends neither on the order of the rows nor on any library's
    generator.

    Args:
        frame: columns ``group`` and ``label``.
        fractions: part name -> share of the images; above 0, summing to 1.
        seed: of the split.
    """
    _check_fractions(fractions)
    return _assign(frame["group"], frame["label"], fractions, seed)


def image_level_split(frame: pd.DataFrame, *, fractions: Mapping[str, float], seed: int) -> pd.Series:
    """Split single images, stratified by class, as if no two of them showed the same lesion; this leaks."""
    _check_fractions(fractions)
    return _assign(frame["image_id"], frame["label"], fractions, seed)


def grouped_folds(frame: pd.DataFrame, *, fold: int, folds: int, seed: int) -> pd.Series:
    """Grouped, stratified cross-validation: the part of each row when testing on ``fold``.

    Fold ``fold`` (counted from 0) is test, the next one (cyclically) is val, the others are train. Over all
    folds every image is tested once and chooses checkpoints once.

    Raises:
        UserError: fewer than 3 folds, or ``fold`` outside 0..folds-1.
    """
    _check_fold(fold, folds)
    number = _assign(frame["group"], frame["label"], {str(k): 1 / folds for k in range(folds)}, seed)
    return number.map({str(k): "train" for k in range(folds)} | {str(fold): "test", str((fold + 1) % folds): "val"})


def measure_leak(frame: pd.DataFrame, parts: pd.Series) -> LeakReport:
    """Return how much of test shares a group with train and val; ``parts`` has one entry per row."""
    part, group, label = parts.to_numpy(str), frame["group"].to_numpy(str), frame["label"].to_numpy()
    groups = {name: set(group[part == name]) for name in np.unique(part)}
    train, val = groups.get("train", set()), groups.get("val", set())
    test = part == "test"
    in_train = np.array([one in train for one in group[test]], dtype=bool)
    in_either = np.array([one in train or one in val for one in group[test]], dtype=bool)
    test_labels = label[test]
    where: dict[str, set[str]] = defaultdict(set)
    for name, members in groups.items():
        for member in members:
            where[member].add(name)
    return LeakReport(
        test_images=int(test.sum()),
        in_train=float(in_train.mean()) if test.any() else 0.0,
        in_train_or_val=float(in_either.mean()) if test.any() else 0.0,
        in_train_per_label={int(k): float(in_train[test_labels == k].mean()) for k in np.unique(test_labels)},
        shared_groups=sum(len(names) > 1 for names in where.values()),
    )


def shared_between(own: pd.DataFrame, other: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Return how many images of each part of ``own`` have their id or their group in each part of ``other``.

    ``images["test of this, train of the other"]`` counts the images in the test part of ``own`` whose id or group is in
    the train part of ``other``, and so on for all pairs of parts.

    Args:
        own: a split, with the columns image_id, group and split.
        other: another split; if it has no column group, its images have the groups that ``own`` gives them.
    """
    if "group" not in other.columns:
        groups = dict(zip(own["image_id"], own["group"], strict=True))
        other = other.assign(group=[groups.get(one, one) for one in other["image_id"]])
    counts = {}
    for mine in PARTS:
        rows = own[(own["split"] == mine).to_numpy()]
        for theirs in PARTS:
            seen = other[(other["split"] == theirs).to_numpy()]
            shared = rows["image_id"].isin(seen["image_id"]) | rows["group"].isin(seen["group"])
            counts[f"{mine} of this, {theirs} of the other"] = int(shared.sum())
    return {"images": counts}


def _assign(groups: pd.Series, labels: pd.Series, fractions: Mapping[str, float], seed: int) -> pd.Series:
    """Return a part for each row, by the rule of :func:`grouped_split`."""
    label_counts: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for group, label in zip(groups.tolist(), labels.tolist(), strict=True):
        label_counts[group][label] += 1
    by_class: dict[int, list[str]] = defaultdict(list)
    for group, counts in label_counts.items():
        by_class[max(counts, key=lambda label: (counts[label], -label))].append(group)  # ties: the lowest label

    part_of: dict[str, str] = {}
    for members in by_class.values():
        members.sort(key=lambda group: hashlib.sha256(f"{seed}:{group}".encode()).digest())
        filled = dict.fromkeys(fractions, 0)
        for group in members:
            part = min(filled, key=lambda name: filled[name] / fractions[name])  # ties: the first part
            filled[part] += sum(label_counts[group].values())
            part_of[group] = part
    return pd.Series([part_of[group] for group in groups.tolist()], index=groups.index, name="part", dtype=object)


def _check_fold(fold: int, folds: int) -> None:
    check_whole("data.folds", folds, 3)  # train, val and test
    if not isinstance(fold, int) or not 0 <= fold < folds:
        raise UserError(f"data.fold={fold} is out of range; with data.folds={folds} it must be 0 to {folds - 1}")


def _check_fractions(fractions: Mapping[str, float]) -> None:
    total = sum(fractions.values())
    if min(fractions.values()) <= 0 or abs(total - 1) > 1e-6:
        given = ", ".join(f"{name} {share:g}" for name, share in fractions.items())
        raise UserError(f"data.fractions is {given}; each must be above 0 and together they must be 1, not {total:g}")


def _check_classes(table: ImageTable, parts: pd.Series, *, official: bool) -> None:
    """Raise UserError unless each part has images of every class; of a published split, only train must."""
    present = {part: set(table.frame["label"][(parts == part).to_numpy()]) for part in PARTS}
    for label, name in enumerate(table.classes):
        needed = PARTS if not official else ("train",)
        absent = [part for part in needed if label not in present[part]]
        if absent:
            rows = table.frame[(table.frame["label"] == label).to_numpy()]
            bits, groups = table.frame.attrs.get("near_duplicate_bits"), rows["group"].nunique()
            if bits is not None and groups < len(rows):
                raise UserError(
                    f"class {name!r} is absent from the {' and '.join(absent)} part of {table.name}: its {len(rows)} images "
                    f"are {groups} groups, because images that differ in at most data.near_duplicate_bits={bits} of 256 bits "
                    "of their hashes are joined; if they show different lesions, give a smaller number, or null to join none"
                )
            raise UserError(
                f"class {name!r} is absent from the {' and '.join(absent)} part of {table.name}: it has "
                f"{len(rows)} images of {groups} lesions; add images of the class, use fewer "
                "folds, or leave the class out"
            )
