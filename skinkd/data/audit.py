"""The audit of a split: the content of ``splits_report.json``."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from skinkd.data.hashing import image_hashes
from skinkd.data.near import remembered_pairs
from skinkd.data.splits import PARTS, LeakReport
from skinkd.data.table import ImageTable
from skinkd.errors import check_range

LISTED = 100  # near-duplicate pairs named in the report


def audit_split(
    table: ImageTable,
    parts: pd.Series,
    leak: LeakReport,
    *,
    near_duplicate_bits: int | None,
    memory: Path | None,
) -> dict[str, Any]:
    """Return the report of a split, as plain values for JSON.

    ``parts``: for each part, the numbers of images and groups, and the number of images of each class.
    ``groups_in_two_parts``, ``leak_train``, ``leak_train_or_val``, ``leak_train_by_class``: of ``leak``.
    ``near_duplicates``: for each two parts, the number of pairs of images across them that are near-duplicates and of
    different groups, and the names of the first ``LISTED`` pairs; None: not looked for.

    Args:
        table: the images.
        parts: the part of each row.
        leak: of the same table and parts.
        near_duplicate_bits: number of the perceptual hash's 256 bits by which two near-duplicates may differ; None:
            near-duplicates are not looked for.
        memory: folder that keeps the hashes and their near pairs for later calls; None: they are not kept.
    """
    part, frame = parts.to_numpy(str), table.frame
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
            **_across(frame, part, remembered_pairs(hashes, distance=near_duplicate_bits, memory=memory)),
        }
    return report


def _across(frame: pd.DataFrame, part: np.ndarray, near: np.ndarray) -> dict[str, Any]:
    """Count and name the near-duplicates of different groups between each two parts; ``near`` has all pairs, (M, 2)."""
    ids, groups = frame["image_id"].to_numpy(str), frame["group"].to_numpy(str)
    near = near[groups[near[:, 0]] != groups[near[:, 1]]]
    found = {}
    for first, second in (("test", "train"), ("test", "val"), ("val", "train")):
        either = np.concatenate([near, near[:, ::-1]])
        pairs = either[(part[either[:, 0]] == first) & (part[either[:, 1]] == second)]
        pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
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
    """Return the report's numbers under the names that metrics.json and the trackers use."""
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
