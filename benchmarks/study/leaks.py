"""What a split by image adds to a score: the same images, predicted by networks that saw their lesion and that did not.

The runs are those of ``COMMANDS``. Each image that such a run tests is also tested by one of the five folds of ``supervised``,
whose training part holds no photograph of its lesion. So the comparison is paired by image: neither class nor difficulty of
the images differs.
"""

import pandas as pd

from skinkd.analysis.runs import Run
from skinkd.analysis.statistics import Difference, paired_bootstrap
from skinkd.scoring.metrics import evaluate

from .collect import Collected
from .rows import command_line
from .scores import BINS, LEVEL, REPLICATES, SEED

BY_IMAGE = (
    "protocol=image_level data.folds=null data.fold=null "
    "data.fractions.train=0.6 data.fractions.val=0.2 data.fractions.test=0.2"
)
COMMANDS = {
    regime: f"python -m skinkd.train {' '.join(command_line('supervised', regime))} {BY_IMAGE}{extra}"
    for regime, extra in {"fine_tuned": " precision=fp32", "memorised": ""}.items()
}
"""Regime -> command of its split by image."""
METRICS = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy"}
PARTS = {True: "another photograph of the lesion is in training", False: "no photograph of the lesion is in training"}

Effects = dict[bool, dict[str, tuple[float, float, Difference]]]
"""Whether the lesion is in training -> metric -> score of the split by lesion, of the split by image, and the difference."""


def honest_predictions(collected: Collected) -> pd.DataFrame:
    """The predictions of ``supervised`` for all images, each by the fold that tests it."""
    return pd.concat([run.test for run in collected.once("supervised")])


def parts_of(run: Run, honest: pd.DataFrame) -> dict[bool, tuple[pd.DataFrame, pd.DataFrame]]:
    """The run's test images whose lesion is in its training part, and the others: its predictions and the honest ones."""
    splits = pd.read_csv(run.folder / "splits.csv", dtype=str)
    seen = run.test["group"].isin(splits.loc[splits["split"] == "train", "group"]).to_numpy()
    again = honest.set_index("image_id").loc[run.test["image_id"]].reset_index()
    return {known: (run.test[seen == known], again[seen == known]) for known in PARTS}


def effects(run: Run, honest: pd.DataFrame) -> Effects:
    """What the split by image adds in each part, with 95 % intervals for other lesions."""
    found: Effects = {}
    for known, (leaky, fair) in parts_of(run, honest).items():
        values = [evaluate(table, run.classes, calibration_bins=BINS) for table in (fair, leaky)]
        rules = {"replicates": REPLICATES, "seed": SEED, "level": LEVEL, "calibration_bins": BINS}
        difference = paired_bootstrap([leaky], [fair], run.classes, **rules)
        found[known] = {name: (values[0][name], values[1][name], difference[name]) for name in METRICS}
    return found


def leak_table(found: Effects, sizes: dict[bool, int]) -> str:
    """The page's table: a line for each part and metric; ``sizes`` are the numbers of images."""
    lines = ["| test images | images | metric | split by lesion | split by image | difference |"]
    lines.append("| --- | ---: | --- | ---: | ---: | ---: |")
    for known, words in PARTS.items():
        for name, (fair, leaky, one) in found[known].items():
            said = f"{one.value:+.3f} ({one.low:+.3f} to {one.high:+.3f})".replace("-", "−")
            lines.append(f"| {words} | {sizes[known]:,} | {METRICS[name]} | {fair:.3f} | {leaky:.3f} | {said} |")
    return "\n".join(lines)
