"""The leak audit of a split: what ``splits_report.json`` says."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from skinkd.data.hashing import image_hashes, near_pairs
from skinkd.data.splits import PARTS, measure_leak
from skinkd.data.table import ImageTable
from skinkd.errors import check_range

LISTED = 100  # near-duplicate pairs named in the report


def audit_split(
    table: ImageTable, parts: pd.Series, *, near_duplicate_bits: int | None, memory: Path | None
) -> dict[str, Any]:
    """Return the report of a split, as plain values for JSON.

    ``parts``: images, groups and images of each class, for each part; ``groups_in_two_parts``; of test,
    ``leak_train`` and ``leak_train_or_val``, the shares whose group is also there, and ``leak_train_by_class``;
    ``near_duplicates`` (None if not looked for): for each pair of parts the number of pairs of images across
    them whose perceptual hashes are near and whose groups differ, and the first of them by name.

    Args:
        table: the images.
        parts: the part of each row.
        near_duplicate_bits: largest number of the hash's 256 bits in which near-duplicates differ; None looks
            for none.
        memory: folder to remember the hashes in, or None.
    """
    part, frame = parts.to_numpy(str), table.frame
    leak = measure_leak(frame, parts)
    report: dict[str, Any] = {
        "dataset": table.name,
        "parts": {
            name: {
                "images": int((part == name).sum()),
                "groups": int(frame["group"][part == name].nunique()),
                "classes": dict(
                    zip(
                        table.classes,
                        np.bincount(frame["label"][part == name], minlength=len(table.classes)).tolist(),
                        strict=True,
                    )
                ),
            }
            for name in PARTS
        },
        "groups_in_two_parts": leak.shared_groups,
        "leak_train": leak.in_train,
        "leak_train_or_val": leak.in_train_or_val,
        "leak_train_by_class": {table.classes[k]: share for k, share in leak.in_train_per_label.items()},
        "near_duplicates": None,
    }
    if near_duplicate_bits is not None:
        check_range("data.near_duplicate_bits", near_duplicate_bits, 0, 256)
        hashes = image_hashes(frame["path"].tolist(), memory=memory)
        report["near_duplicates"] = {
            "bits": near_duplicate_bits,
            **_across(frame, part, hashes, near_duplicate_bits),
        }
    return report


def _across(frame: pd.DataFrame, part: np.ndarray, hashes: np.ndarray, bits: int) -> dict[str, Any]:
    """Count and name near-duplicates between each two parts, where groups do not already join them."""
    ids, groups = frame["image_id"].to_numpy(str), frame["group"].to_numpy(str)
    found = {}
    for first, second in (("test", "train"), ("test", "val"), ("val", "train")):
        rows, others = np.flatnonzero(part == first), np.flatnonzero(part == second)
        near = near_pairs(hashes[rows], distance=bits, others=hashes[others])
        pairs = np.stack([rows[near[:, 0]], others[near[:, 1]]], axis=1)
        pairs = pairs[groups[pairs[:, 0]] != groups[pairs[:, 1]]]
        found[f"{first}-{second}"] = {
            "pairs": len(pairs),
            f"images_of_{first}": len(np.unique(pairs[:, 0])),
            "first": [[str(ids[i]), str(ids[j])] for i, j in pairs[:LISTED]],
        }
    return found


def audit_sentence(report: dict[str, Any]) -> str:
    """Return the report's leaks as one sentence."""
    near = report["near_duplicates"]
    shared = f"{report['groups_in_two_parts']} groups are in more than one part"
    if near is None:
        return f"split: {shared}; near-duplicates were not looked for"
    counts = ", ".join(f"{near[name]['pairs']} {name}" for name in ("test-train", "test-val", "val-train"))
    return f"split: {shared}; near-duplicates of other groups: {counts}"


def audit_numbers(report: dict[str, Any]) -> dict[str, float]:
    """Return the report's numbers, flat, as metrics.json and the trackers have them."""
    near = report["near_duplicates"]
    pairs = (
        {}
        if near is None
        else {f"split/near_duplicates_{name}": near[name]["pairs"] for name in ("test-train", "test-val", "val-train")}
    )
    return {
        "split/test_images": report["parts"]["test"]["images"],
        "split/groups_in_two_parts": report["groups_in_two_parts"],
        "split/leak_train": report["leak_train"],
        "split/leak_train_or_val": report["leak_train_or_val"],
        **pairs,
    }
