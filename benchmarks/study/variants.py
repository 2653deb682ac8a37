"""The ablations and the remedies of docs/study.md: a row with some settings other than the chosen ones.

An ablation is scored on test, a remedy on validation alone. Their scores are in ``ablations.csv`` and ``remedies.csv``; the
ablations' runs are in archives, as the rows' are.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from skinkd.runs.folder import RunFolder

from .jobs import Job
from .plan import make_job
from .tables import markdown


@dataclass(frozen=True)
class Variant:
    """A row's chosen settings with some changes.

    Attributes:
        row: of docs/study.md.
        name: what differs, as the tables say it.
        settings: overrides; none is the row as chosen.
    """

    row: str
    name: str
    settings: tuple[str, ...] = ()


WEIGHT = "method.loss_weights"
FEATURES = "backbone.fusion=features"
NO_RELATIONS = tuple(f"{WEIGHT}.{term}=0" for term in ("rkd_distance", "rkd_angle", "channel_relation"))

AS_CHOSEN = "as chosen"
SHARED = (
    *(Variant("tsskd", f"ratio {ratio}", (f"method.ratio={ratio}",)) for ratio in (0.25, 0.5, 1.0)),
    Variant("tsskd", "basic augmentation instead of RGA", ("augment=basic",)),
    Variant("swskd", "neither FRB nor LRB", (f"{WEIGHT}.frb=0", f"{WEIGHT}.lrb=0")),
    Variant("swskd", "FRB alone", (f"{WEIGHT}.lrb=0",)),
    Variant("swskd", "LRB alone", (f"{WEIGHT}.frb=0",)),
    Variant("swskd", "raise instead of swap", ("method.rectify_mode=raise",)),
    Variant("ssdkd", "without ss", (f"{WEIGHT}.ss=0",)),
    Variant("ssdkd", "without the relational terms", NO_RELATIONS),
    Variant("ssdkd", "without rotations", (f"{WEIGHT}.kd_rotated=0", f"{WEIGHT}.ss=0")),
    Variant(
        "mskd", "single-stage", (f"{WEIGHT}.intermediate=0", f"{WEIGHT}.logit=0.5", f"{WEIGHT}.classification=0.5")
    ),
    Variant("mskd", "without the exits' losses", (f"{WEIGHT}.intermediate=0",)),
    # the fusion of features is the rows mskd_features and hybrid_features
)
ABLATIONS = {
    "fine_tuned": (
        # the teachers are trained again for the ablations, so these two are too; of the others the archive has runs
        Variant("ssdkd", AS_CHOSEN),
        Variant("mskd", AS_CHOSEN),
        Variant("tsskd", "ratio 0.1", ("method.ratio=0.1",)),
        *SHARED,
        Variant("swskd", "each stage from the next", ("method.target_stage=next",)),
    ),
    # the published constants are ratio 0.1 and, ours, each stage from the next
    "scratch": (
        *SHARED,
        Variant("swskd", "each stage from the last", ("method.target_stage=last",)),
    ),
}

SHORT, LONGER = "trainer.max_epochs=2", "trainer.max_epochs=4"
TERMS = {"kd": 0.18, "kd_rotated": 0.54, "ss": 2, "rkd_distance": 5, "rkd_angle": 10, "channel_relation": 200}
FIFTH = tuple(f"{WEIGHT}.{term}={weight}" for term, weight in TERMS.items())
REMEDIES = (
    Variant("hybrid_supervised", AS_CHOSEN),
    Variant("hybrid_supervised", "fusion of features", (FEATURES,)),
    Variant("mskd", AS_CHOSEN),
    Variant("mskd", "fusion of features", (FEATURES,)),
    Variant("supervised", "2 epochs", (SHORT,)),
    Variant("supervised", "4 epochs", (LONGER,)),
    Variant("tsskd", "2 epochs", (SHORT,)),
    Variant("tsskd", "2 epochs, centred logits", (SHORT, "method.centre_logits=true")),
    Variant("tsskd", "2 epochs, ramp over both", (SHORT, "method.warmup_epochs=2")),
    Variant("tsskd", "4 epochs", (LONGER,)),
    Variant("kd", "2 epochs", (SHORT,)),
    Variant("kd", "2 epochs, standardised logits", (SHORT, "method.logit_standardization=true")),
    Variant("kd", "2 epochs, ramp over both", (SHORT, "method.warmup_epochs=2")),
    Variant("kd", "4 epochs", (LONGER,)),
    Variant("ssdkd", "2 epochs", (SHORT,)),
    Variant("ssdkd", "2 epochs, standardised logits", (SHORT, "method.logit_standardization=true")),
    Variant("ssdkd", "2 epochs, ramp over both", (SHORT, "method.warmup_epochs=2")),
    Variant("ssdkd", "2 epochs, a fifth of the weights", (SHORT, *FIFTH)),
    Variant("ssdkd", "4 epochs", (LONGER,)),
)

RAMP, TWICE = "method.warmup_epochs=8", "trainer.max_epochs=16"
FROM_SCRATCH = (
    Variant("supervised", "as in the regime"),
    Variant("supervised", "16 epochs", (TWICE,)),
    Variant("tsskd", "as in the regime"),
    Variant("tsskd", "centred logits", ("method.centre_logits=true",)),
    Variant("tsskd", "ramp over all epochs", (RAMP,)),
    Variant("tsskd", "a fifth of the weight", (f"{WEIGHT}.kd=0.2",)),
    Variant("tsskd", "16 epochs", (TWICE,)),
    Variant("swskd", "as in the regime"),
    Variant("swskd", "ramp over all epochs", (RAMP,)),
    Variant("swskd", "a fifth of the weights", (f"{WEIGHT}.frb=0.2", f"{WEIGHT}.lrb=0.1")),
    Variant("swskd", "16 epochs", (TWICE,)),
)

SETS = {
    "fine_tuned": {"ablations": ABLATIONS["fine_tuned"], "remedies": REMEDIES},
    "scratch": {"ablations": ABLATIONS["scratch"], "remedies": FROM_SCRATCH},
}
"""Regime -> verb -> variants."""

RESULTS = {name: Path(__file__).with_name(f"{name}.csv") for name in SETS["scratch"]}
ARCHIVES = {"fine_tuned": "ablations.tar.xz"}
"""Regime -> the committed archive of its ablations; those from scratch have not all run yet."""
SEEDS = {"fine_tuned": 1, "scratch": 0}
"""Regime -> the seed of its ablations: of fine-tuned rows, that in which all folds have one format (amendment 16)."""
SCORES = {"balanced_accuracy": "balanced accuracy", "auroc_macro": "AUROC", "accuracy": "accuracy"}


def make_variants(
    variants: Sequence[Variant], fold: int, seed: int, extra: Sequence[str], test: bool, regime: str
) -> dict[Variant, Job]:
    """The runs of variants on a fold with a seed; their teachers, those of the rows themselves, are in their ``needs``."""
    teachers: dict[str, Job] = {}
    found = {}
    for variant in variants:
        made = dict(teachers)
        # a variant changes the student, so its teacher has the row's own settings
        job = make_job(variant.row, fold, seed, made, extra, test=test, regime=regime, changes=variant.settings)
        job.label = f"{variant.row} ({variant.name}) fold {fold} seed {seed}"
        teachers |= {name: one for name, one in made.items() if name != variant.row}
        found[variant] = job
    return found


def with_teachers(jobs: Iterable[Job]) -> list[Job]:
    """Each job once, after those that it needs."""
    found: dict[Path, Job] = {}
    for job in jobs:
        found |= {one.folder: one for one in with_teachers(job.needs) if one.folder not in found}
        found.setdefault(job.folder, job)
    return list(found.values())


def teachers_first(jobs: Iterable[Job]) -> list[Job]:
    """Each job once, all teachers before all others, so that no student waits for its teacher at the end."""
    every = with_teachers(jobs)
    teachers = {need.folder for job in every for need in job.needs}
    return sorted(every, key=lambda job: job.folder not in teachers)


def scores_of(variant: Variant, job: Job, fold: int, seed: int, part: str, regime: str) -> dict[str, Any]:
    """A line of the table of results: a finished run's scores on ``part`` ("val", "test")."""
    metrics = RunFolder(job.folder).metrics()
    about = {"regime": regime, "row": variant.row, "variant": variant.name, "fold": fold, "seed": seed, "part": part}
    scores = {name: metrics[f"{part}/{name}"] for name in SCORES}
    return {**about, "epochs": metrics["epochs"], **scores, "folder": job.folder.name}


def stored(lines: Sequence[dict[str, Any]], file: Path) -> pd.DataFrame:
    """Add lines to a table of results, in which a run has one line; return the whole table."""
    keys = ["regime", "row", "variant", "fold", "seed"]
    new = pd.DataFrame(lines)
    table = pd.concat([pd.read_csv(file), new]) if file.exists() else new
    table = table.drop_duplicates(keys, keep="last").sort_values(keys, kind="stable")
    table.to_csv(file, index=False, float_format="%.6f")
    return table


def variant_table(table: pd.DataFrame) -> str:
    """Each variant's scores in one regime: the mean over its runs, of which the table says how many there are."""
    lines = []
    for (row, variant), runs in table.groupby(["row", "variant"], sort=False):
        cells = [f"{runs[name].mean():.3f}" for name in SCORES]
        lines.append([f"`{row}`", str(variant), str(len(runs)), *cells])
    return markdown(["row", "variant", "runs", *SCORES.values()], lines)
