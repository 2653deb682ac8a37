"""The rows of the study (docs/study.md), their settings in each regime, and the experiment file of each fine-tuned row."""

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
FUSED = {"backbone": {**HYBRID["backbone"], "fusion": "features"}}
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
        like: the row whose chosen settings it has, where it is not tuned itself.
        workers: loading processes.
    """

    method: str
    backbone: str
    settings: dict[str, Any]
    teacher: str | None = None
    searched: bool = True
    like: str | None = None
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
    "mskd_features": Row("mskd", "mskd_student", FUSED, teacher="hybrid_teacher", searched=False, like="mskd"),
    "tsskd": Row("tsskd", "timm", LITE0, workers=2),
    "swskd": Row("swskd", "timm", LITE0),
    "byot": Row("byot", "timm", LITE0),
    "kd": Row("kd", "timm", LITE0, teacher="teacher"),
    "hybrid_supervised": Row("supervised", "mskd_student", HYBRID),
    "hybrid_features": Row("supervised", "mskd_student", FUSED, searched=False, like="hybrid_supervised"),
    "supervised": Row("supervised", "timm", LITE0),
    "label_smoothing": Row("supervised", "timm", {**LITE0, "loss": {"label_smoothing": 0.1}}),
}
"""In the order in which a block of one fold and seed begins them: teachers, then those that take longest."""

SEARCHED = [name for name, row in ROWS.items() if row.searched]

REGIMES = {
    "fine_tuned": (),
    "scratch": ("experiment=scratch_study",),
    "memorised": ("experiment=scratch_study", "trainer.max_epochs=25", "augment=none"),
}
"""The regimes of docs/study.md: how a command line begins. A fine-tuned row has an experiment file of its own."""

WHOLE = ("backbone=timm", "backbone.name=resnet10t")
HYBRID_FROM_SCRATCH = ("backbone=mskd_student", "backbone.conv_branch=resnet10t")
FROM_SCRATCH = {
    "teacher": ("method=supervised", *WHOLE),
    "hybrid_teacher": (
        *("method=mskd_teacher", "backbone=mskd_teacher"),
        *("backbone.small_vit.patch_size=8", "backbone.convmixer.patch_size=4"),
    ),
    "teacher_head": (
        *("method=ssdkd_projection", *WHOLE, "optim=ssdkd_projection"),
        *("monitor.metric=val/retrieval_loss", "monitor.mode=min"),
    ),
    "mskd": ("method=mskd", *HYBRID_FROM_SCRATCH),
    "hybrid_supervised": ("method=supervised", *HYBRID_FROM_SCRATCH),
    "mskd_features": ("method=mskd", *HYBRID_FROM_SCRATCH, "backbone.fusion=features"),
    "hybrid_features": ("method=supervised", *HYBRID_FROM_SCRATCH, "backbone.fusion=features"),
    "label_smoothing": ("method=supervised", "loss.label_smoothing=0.1"),
}
"""What a row from scratch adds to its regime; a row that is not here is ``method=<row>``. Networks as in the first study."""


def command_line(name: str, regime: str) -> list[str]:
    """The words with which the command line of a row begins."""
    if regime == "fine_tuned":
        return [f"experiment=lite_study_{name}"]
    return [*REGIMES[regime], *FROM_SCRATCH.get(name, (f"method={name}",))]


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
    for name, row in ROWS.items():
        about = f"It has the settings of the row {row.like}." if row.like else comment
        text = experiment_text(name, chosen.get(row.like or name, {}), f"The row {name} of docs/study.md. {about}")
        (EXPERIMENTS / f"lite_study_{name}.yaml").write_text(text, encoding="utf-8")
