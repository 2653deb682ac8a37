"""docs/results.md, from the archives of benchmarks/study/ alone: ``python -m benchmarks.study report``.

Nothing is trained, and neither data nor weights are needed.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import pandas as pd

from skinkd.analysis.runs import Run

from . import corruptions, leaks, placebo, published, subgroups, variants
from .ablations import Ablated, ablation_table, compared_ablations, read_ablations, trained_again
from .collect import APART, ARCHIVES, BASELINES, Collected, collect, listed, machines, row_of, stored_runs, times
from .figures import as_file, draw_ablations, draw_leak, draw_methods
from .scores import METRICS, REPLICATES
from .tables import (
    LEARNING,
    calibration_table,
    coverage_table,
    learning_table,
    pair_table,
    risk_table,
    score_table,
    secondary_table,
    verdict_table,
)
from .verdicts import FOLDS, PRIMARY, SIGNIFICANT, VERDICTS, Compared, compared, judged, verdict

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "results.md"
FIGURE = ROOT / "docs" / "images" / "study.svg"
ABLATION_FIGURE, LEAK_FIGURE = FIGURE.with_name("ablations.svg"), FIGURE.with_name("leak.svg")
TAUGHT = {"kd": "teacher", "ssdkd": "teacher", "mskd": "hybrid_teacher", "mskd_features": "hybrid_teacher"}
"""The teacher of each row that has one."""
SCRATCH_PAIRS = (
    *((row, "label_smoothing") for row in ("supervised", "kd", "byot", "swskd", "tsskd")),
    ("kd", "teacher"),
)
TEXT = Path(__file__).with_name("page.md")
"""The page's words, with a place for each figure and table."""


@dataclass(frozen=True)
class Results:
    """What the archives hold, compared.

    Attributes:
        archives: the rows' runs by regime.
        methods: of :func:`methods_of` in the fine-tuned regime.
        ablations: by regime.
        same_again: of :func:`trained_again`.
        published: the runs that have published figures.
        leak: of :func:`leak_of` after long training.
    """

    archives: Mapping[str, Collected]
    methods: list[Compared]
    ablations: Mapping[str, list[Ablated]]
    same_again: list[bool]
    published: Sequence[Run]
    leak: leaks.Effects

    @property
    def figures(self) -> dict[Path, str]:
        """The page's figures as SVG files."""
        return {
            FIGURE: as_file(draw_methods(self.methods)),
            ABLATION_FIGURE: as_file(draw_ablations(self.ablations["fine_tuned"])),
            LEAK_FIGURE: as_file(draw_leak(self.leak)),
        }


def write_page(*, wandb: bool) -> None:
    """Write the page and its figures; with ``wandb``, also make the report in W&B."""
    with tempfile.TemporaryDirectory() as folder:
        results = read_results(Path(folder))
        for file, drawn in (results.figures | {PAGE: page(results)}).items():
            file.write_text(drawn, encoding="utf-8")
        print(f"{PAGE} and its figures written", flush=True)
        if wandb:
            from .dashboard import publish_study  # wandb-workspaces, which nothing else needs

            collected, methods = results.archives["fine_tuned"], results.methods
            for name, url in publish_study(collected, methods, answer(methods)).items():
                print(f"W&B {name}: {url}")


def read_results(folder: Path) -> Results:
    """Everything of the page, from the archives unpacked below ``folder``."""
    archives = {regime: collect(stored_runs(folder / regime, regime)) for regime in ARCHIVES}
    ablated = {regime: read_ablations(folder, regime, archives[regime]) for regime in variants.ARCHIVES}
    return Results(
        archives,
        methods_of(archives["fine_tuned"]),
        {regime: compared_ablations(runs, regime) for regime, runs in ablated.items()},
        trained_again(ablated["fine_tuned"], archives["fine_tuned"]),
        published.read_published(folder),
        leak_of(archives["memorised"])[0],
    )


def methods_of(collected: Collected) -> list[Compared]:
    """The methods less their baselines, where both have two folds: those with most folds first, then those that add most.

    Rows that are compared apart from the six come last.
    """
    pairs = [pair for pair in (BASELINES | APART).items() if len(collected.folds(*pair)) > 1]
    found = [compared(collected, row, baseline) for row, baseline in pairs]
    return sorted(found, key=lambda one: (one.row in APART, -len(one.folds), -one.lesions[PRIMARY].value))


def leak_of(collected: Collected) -> tuple[leaks.Effects, dict[bool, int]]:
    """What the split by image adds, and the number of images of each part."""
    (run,) = collected.leaky
    honest = leaks.honest_predictions(collected)
    return leaks.effects(run, honest), {known: len(part) for known, (part, _) in leaks.parts_of(run, honest).items()}


def page(results: Results) -> str:
    """docs/results.md."""
    archives, methods = results.archives, results.methods
    collected = archives["fine_tuned"]
    began, scored, ended = times(collected.every)
    whole = [row for row in collected.runs if len(collected.folds(row)) == FOLDS]
    first = [row for row in whole if collected.once(row)]
    smoothed = [one.row for one in methods if one.other == "supervised"]
    grouped, corrupted = pd.read_csv(subgroups.RESULTS), pd.read_csv(corruptions.RESULTS)
    return TEXT.read_text(encoding="utf-8").format(
        answer=answer(methods),
        secondary_answer=secondary_answer(methods),
        **beyond_the_mean(grouped, corrupted),
        **placebo_words(placebo.against_itself(collected)),
        leak_score=leak_words(collected),
        leak_loss=f"{collected.leaky[0].history['train/loss'].iloc[-1]:.2f}",
        **scratch_words(archives["scratch"]),
        **memorised_words(archives["memorised"]),
        **{f"{regime}_ablations": ablation_table(found) for regime, found in results.ablations.items()},
        trained_again=len(results.same_again),
        same_again=sum(results.same_again),
        published=published.published_table(results.published),
        runs=len(collected.every),
        seeds=f"seed{'s' if len(collected.seeds) > 1 else ''} {listed(collected.seeds)}",
        waiting=listed([f"`{row_of(run)}` on fold {run.place[0]}" for run in collected.waiting] or ["none"]),
        left_out=listed([f"`{row_of(run)}` on fold {run.place[0]}" for run in collected.left_out] or ["none"]),
        machines=machines(collected),
        began=began,
        scored=scored,
        ended=ended,
        coverage=coverage_table(collected),
        scores=score_table(collected),
        verdicts=verdict_table(methods),
        secondary=secondary_table(methods),
        smoothing=pair_table([compared(collected, row, "label_smoothing") for row in ("supervised", *smoothed)]),
        teachers=pair_table([compared(collected, row, teacher) for row, teacher in TAUGHT.items()]),
        calibration=calibration_table(collected, first),
        risk=risk_table(collected, whole),
        learning=learning_table(collected, LEARNING, (0, 1)),
        subgroups=subgroups.subgroup_table(grouped),
        corruptions=corruptions.corruption_table(corrupted),
        corrupted_images=f"{corrupted['images'].iloc[0]:,}",
        leaks=leaks.leak_table(*leak_of(collected)),
        leak_command=leaks.COMMANDS["fine_tuned"],
        **remedy_words(pd.read_csv(variants.RESULTS["remedies"])),
        **{f"{row}_score": balanced(collected, row) for row in ("supervised", *TAUGHT, "teacher", "hybrid_features")},
        replicates=REPLICATES,
        folds=FOLDS,
    )


def answer(methods: list[Compared]) -> str:
    """A line for each verdict with the methods that have it, one for each row apart, and one for methods without a verdict."""
    p = judged(methods, PRIMARY)
    found: dict[str, list[str]] = {said: [] for said in VERDICTS}
    apart = []
    for one in methods:
        if one.row in p:
            said, words = verdict(one, p[one.row]), f"`{one.row}` {interval_words(*_bounds(one, PRIMARY))}"
            if one.row in BASELINES:
                found[said].append(words)
            else:
                apart.append(f"- Apart from the six, against `{one.other}`: {words}, **{said}**.")
    lines = [f"- **{said.capitalize()}**: {'; '.join(rows)}." for said, rows in found.items() if rows]
    short = [f"`{one.row}` ({len(one.folds)})" for one in methods if one.row not in p]
    if short:
        lines.append(f"- No verdict yet, because fewer than {FOLDS} folds are trained: {listed(short)}.")
    return "\n".join([*lines, *apart])


def secondary_answer(methods: list[Compared]) -> str:
    """By method, which differences in the other metrics are below 0.05 after the correction."""
    p = {name: judged(methods, name) for name in METRICS if name != PRIMARY}
    said = []
    for one in methods:
        found = [name for name in p if p[name].get(one.row, 1) < SIGNIFICANT]
        points_of = [f"{METRICS[name]} {interval_words(*_bounds(one, name))}" for name in found]
        if found:
            said.append(f"    - `{one.row}`: {', '.join(points_of)}.")
    return "\n".join(said) or "    - none."


def _bounds(one: Compared, name: str) -> tuple[float, float, float]:
    outer = one.trained[name]
    return outer.value, outer.low, outer.high


def beyond_the_mean(grouped: pd.DataFrame, corrupted: pd.DataFrame) -> dict[str, str]:
    """What the answer says of subgroups and corruptions: of ``swskd``, and of plain training."""
    added = grouped.dropna(subset=["swskd_balanced_accuracy"])
    worst = (
        corrupted[(corrupted["row"] == "swskd") & (corrupted["metric"] == "accuracy")].sort_values("severity").iloc[-1]
    )
    confirmed = grouped[grouped["property"] == "confirmed by"].set_index("value")["accuracy"]
    return {
        "subgroups_all": str(len(added)),
        "subgroups_above": str((added["swskd_balanced_accuracy"] > 0).sum()),
        "subgroups_sure": str((added["swskd_balanced_accuracy_low"] > 0).sum()),
        "worst": interval_words(worst["difference"], worst["difference_low"], worst["difference_high"]),
        "follow_up": f"{100 * confirmed['follow_up']:.1f}",
        "histopathology": f"{100 * confirmed['histo']:.1f}",
    }


def placebo_words(found: placebo.Found) -> dict[str, str]:
    """How often a row differs from itself, by both intervals."""
    return {
        "placebo": placebo.placebo_table(found),
        "placebo_comparisons": str(found.comparisons),
        "placebo_rows": listed([f"`{row}`" for row in found.rows]),
        "placebo_lesions": f"{100 * found.lesions[PRIMARY]:.0f}",
        "placebo_trained": f"{100 * found.trained[PRIMARY]:.1f}",
    }


def scratch_words(collected: Collected) -> dict[str, str]:
    """The tables of the regime from scratch, and its verdicts in a sentence."""
    methods = methods_of(collected)
    p = judged(methods, PRIMARY)
    said = [
        f"`{one.row}` {interval_words(*_bounds(one, PRIMARY))}, **{verdict(one, p.get(one.row))}**" for one in methods
    ]
    return {
        "scratch_answer": "; ".join(said),
        "scratch_runs": str(len(collected.every)),
        "scratch_machines": machines(collected),
        "scratch_verdicts": verdict_table(methods),
        "scratch_scores": score_table(collected),
        "scratch_pairs": pair_table([compared(collected, *pair) for pair in SCRATCH_PAIRS]),
    }


def memorised_words(collected: Collected) -> dict[str, str]:
    """What a split by image adds after long training."""
    (by_image,), by_lesion = collected.leaky, collected.every
    last = [float(run.history["train/loss"].iloc[-1]) for run in (by_image, *by_lesion)]
    kept, loss = kept_epoch(by_image)
    epochs, losses = zip(*map(kept_epoch, by_lesion), strict=True)
    return {
        "memorised_score": leak_words(collected),
        "memorised_leaks": leaks.leak_table(*leak_of(collected)),
        "memorised_command": leaks.COMMANDS["memorised"],
        "memorised_last": f"{max(last):.3f}",
        "memorised_kept": f"{kept} ({loss:.2f})",
        "memorised_folds": f"{min(epochs)} to {max(epochs)} ({min(losses):.2f} to {max(losses):.2f})",
    }


def kept_epoch(run: Run) -> tuple[int, float]:
    """The epoch that validation chose, and the cross-entropy in training then."""
    epoch = run.metrics["best_epoch"]
    return epoch, float(run.history["train/loss"].iloc[epoch - 1])


def leak_words(collected: Collected) -> str:
    """What the split by image adds in accuracy where another photograph of the lesion is in training."""
    one = leak_of(collected)[0][True]["accuracy"][2]
    return interval_words(one.value, one.low, one.high)


def remedy_words(remedies: pd.DataFrame) -> dict[str, str]:
    """The table of remedies in each regime."""
    tables = {regime: variants.variant_table(remedies[remedies["regime"] == regime]) for regime in variants.SETS}
    return {"remedies": tables["fine_tuned"], "scratch_remedies": tables["scratch"]}


def balanced(collected: Collected, row: str) -> str:
    """A row's balanced accuracy on test, the mean over trainings."""
    return f"{fmean(run.metrics[f'test/{PRIMARY}'] for run in collected.runs[row].values()):.3f}"


def interval_words(value: float, low: float, high: float) -> str:
    """A difference with its interval, in points."""
    return f"{points(value)} points ({points(low)} to {points(high)})"


def points(value: float) -> str:
    """A difference in percentage points, with its sign."""
    return f"{100 * value:+.1f}".replace("-", "−")
