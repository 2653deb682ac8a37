"""The rows of the study of fine-tuned networks (docs/study.md), and the experiment file of each."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

EXPERIMENTS = Path(__file__).parents[2] / "conf" / "experiment"

LITE0 = {
    "backbone": {
        "name": "tf_efficientnet_lite0",
        "weights": "${oc.env:SKINKD_WEIGHTS,weights}/tf_efficientnet_lite0.safetensors",
    }
}
LITE2 = {
    "backbone": {
        "name": "tf_efficientnet_lite2",
        "weights": "${oc.env:SKINKD_WEIGHTS,weights}/tf_efficientnet_lite2.safetensors",
    }
}
HYBRID = {
    "backbone": {
        "conv_branch": "tf_efficientnet_lite0",
        "conv_weights": "${oc.env:SKINKD_WEIGHTS,weights}/tf_efficientnet_lite0.safetensors",
    }
}
HYBRID_TEACHER = {
    "backbone": {
        "conv_branch": "tf_efficientnet_lite2",
        "conv_weights": "${oc.env:SKINKD_WEIGHTS,weights}/tf_efficientnet_lite2.safetensors",
        "small_vit": {"patch_size": 8},
    }
}


@dataclass(frozen=True)
class Row:
    """A row of the study.

    Attributes:
        method, backbone: choices of these groups.
        settings: what its experiment file says beside lite_study's.
        teacher: the row whose run of the same fold and seed teaches it.
        searched: whether its settings are tuned.
        workers: loading processes.
    """

    method: str
    backbone: str
    settings: dict[str, Any]
    teacher: str | None = None
    searched: bool = True
    workers: int = 1


ROWS = {
    "teacher": Row("supervised", "timm", LITE2, searched=False),
    "hybrid_teacher": Row("mskd_teacher", "mskd_teacher", HYBRID_TEACHER, searched=False),
    "teacher_head": Row(
        *("ssdkd_projection", "timm"),
        {**LITE2, "monitor": {"metric": "val/retrieval_loss", "mode": "min"}},
        teacher="teacher",
        searched=False,
        workers=3,
    ),
    "ssdkd": Row("ssdkd", "timm", LITE0, teacher="teacher_head", workers=3),
    "mskd": Row("mskd", "mskd_student", HYBRID, teacher="hybrid_teacher"),
    "tsskd": Row("tsskd", "timm", LITE0, workers=2),
    "swskd": Row("swskd", "timm", LITE0),
    "byot": Row("byot", "timm", LITE0),
    "kd": Row("kd", "timm", LITE0, teacher="teacher"),
    "hybrid_supervised": Row("supervised", "mskd_student", HYBRID),
    "supervised": Row("supervised", "timm", LITE0),
    "label_smoothing": Row("supervised", "timm", {**LITE0, "loss": {"label_smoothing": 0.1}}),
}
"""In the order in which a block of one fold and seed begins them: teachers, then those that take longest."""

SEARCHED = [name for name, row in ROWS.items() if row.searched]


def experiment_text(name: str, chosen: dict[str, Any], comment: str) -> str:
    """The experiment file of a row.

    Args:
        name: of the row.
        chosen: settings by dotted name, and ``augment``, beside the row's own.
        comment: its first line.
    """
    row = ROWS[name]
    defaults: list[Any] = ["lite_study", {"override /method": row.method}, {"override /backbone": row.backbone}]
    if "augment" in chosen:
        defaults.append({"override /augment": chosen["augment"]})
    values: dict[str, Any] = {}
    given = {"backbone.pretrained": False, **dict(_flat(row.settings)), **chosen}
    if row.teacher:
        given["method.teacher.bf16"] = True  # as the students' own passes
    for key, value in given.items():
        if key != "augment":
            node = values
            *groups, last = key.split(".")
            for group in groups:
                node = node.setdefault(group, {})
            node[last] = value
    body = yaml.safe_dump({"defaults": defaults, **values}, sort_keys=False, width=1000, allow_unicode=True)
    return f"# @package _global_\n# {comment}\n{body}"


def _flat(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def write_experiments(chosen: dict[str, dict[str, Any]], comment: str) -> None:
    """Write the experiment file of every row, with the chosen settings of those that have some."""
    for name in ROWS:
        text = experiment_text(name, chosen.get(name, {}), f"The row {name} of docs/study.md. {comment}")
        (EXPERIMENTS / f"lite_study_{name}.yaml").write_text(text, encoding="utf-8")
