"""Figures that others published, and ours for the same split: ResNet-18 on DermaMNIST (docs/study.md, amendment 19)."""

from collections.abc import Sequence
from pathlib import Path

from skinkd.analysis.runs import Run, read_runs
from skinkd.config.identity import run_path
from skinkd.config.resolve import resolved

from .archive import unpack
from .collect import HERE
from .jobs import Job
from .plan import composed
from .tables import markdown

ARCHIVE = "dermamnist.tar.xz"
EXPERIMENTS = {"supervised": "medmnist_dermamnist_resnet18", "tsskd": "tsskd_dermamnist_resnet18"}
SIZES = {28: (), 64: ("data.size=64", "backbone.small_input=false")}
"""Image size in px -> overrides of both experiments."""
REGIME = ("trainer.max_epochs=10", "precision=bf16", "channels_last=true", "strategy=cpu")
QUIET = ("logger=none", "data.num_workers=1", "trainer.enable_progress_bar=false")
FIGURES = {
    28: "0.735, 0.917: [Yang et al. 2023](https://doi.org/10.1038/s41597-022-01721-8), 100 epochs",
    64: "0.764, 0.917: [Doerrich et al. 2025](https://arxiv.org/abs/2404.15786), 100 epochs from ImageNet weights",
}
"""Image size in px -> accuracy and AUROC of plain training, and who published them."""


def make_jobs() -> list[Job]:
    """A run for each size and experiment; ``SKINKD_DATA_DIR`` has ``medmnist/``."""
    found = []
    for size, at in SIZES.items():
        for name, experiment in EXPERIMENTS.items():
            overrides = [f"experiment={experiment}", *REGIME, *QUIET, *at]
            folder = run_path(resolved(composed(overrides)))
            found.append(Job(f"{name} {size} px", overrides, folder, test=True, cores=2))
    return found


def read_published(folder: Path) -> tuple[Run, ...]:
    """The committed runs, unpacked below ``folder``."""
    place = folder / "published"
    unpack(HERE / ARCHIVE, place)
    return read_runs([place], output_dir=place).runs


def published_table(runs: Sequence[Run]) -> str:
    """Both scores of each run beside the published ones, with the 95 % interval over images."""
    lines = []
    for run in sorted(runs, key=lambda run: (run.config["data"]["size"], run.method)):
        size, scores = run.config["data"]["size"], run.metrics
        cells = [
            f"{scores[f'test/{name}']:.3f} ({scores[f'test/{name}_low']:.3f} to {scores[f'test/{name}_high']:.3f})"
            for name in ("accuracy", "auroc_macro")
        ]
        figure = FIGURES[size] if run.method == "supervised" else "–"
        lines.append([f"`{run.method}`", f"{size} px", figure, *cells, str(scores["best_epoch"])])
    return markdown(
        ["method", "images", "published accuracy, AUROC", "accuracy here", "AUROC here", "kept epoch"], lines
    )
