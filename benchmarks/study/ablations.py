"""The ablations against their row as chosen and against its baseline, from the committed archives alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import pandas as pd

from skinkd.analysis.runs import Run, read_runs

from .archive import unpack
from .collect import BASELINES, HERE, Collected
from .scores import METRICS, scores
from .tables import intervals, markdown
from .variants import ABLATIONS, ARCHIVES, AS_CHOSEN, RESULTS, Variant
from .verdicts import PRIMARY, Compared, compared


@dataclass(frozen=True)
class Ablated:
    """A row as chosen, or one of its ablations.

    Attributes:
        row: of docs/study.md.
        settings: "as chosen", or what differs.
        trainings: how many runs.
        means: of each metric over them.
        less_chosen: less the row as chosen; None for the row as chosen.
        less_baseline: less the row's baseline.
    """

    row: str
    settings: str
    trainings: int
    means: dict[str, float]
    less_chosen: Compared | None
    less_baseline: Compared


def read_ablations(folder: Path, regime: str, rows: Collected) -> Collected:
    """A regime's ablations, unpacked below ``folder``, with the rows that they are compared with (``rows``)."""
    place = folder / "ablations" / regime
    unpack(HERE / ARCHIVES[regime], place)
    found = read_runs([place], output_dir=place)
    if found.skipped:
        raise ValueError(f"the archive has runs that cannot be read: {found.skipped}")
    table = pd.read_csv(RESULTS["ablations"])
    return joined(found.runs, table[table["regime"] == regime], rows)


def joined(runs: Sequence[Run], table: pd.DataFrame, rows: Collected) -> Collected:
    """Rows and ablations together, an ablation as a row with the name of :func:`name_of`.

    Args:
        runs: of the archive of ablations.
        table: their lines of ``ablations.csv``, which say what each run is.
        rows: the runs of the rows. A run of a row as chosen that is in the archive of ablations takes the place of the row's
            own, because it had the same teacher as the ablations.
    """
    lines = table.set_index("folder")
    found: dict[str, dict[tuple[int, int], Run]] = {}
    for run in runs:
        line = lines.loc[run.folder.name]
        name = line["row"] if line["variant"] == AS_CHOSEN else name_of(Variant(line["row"], line["variant"]))
        found.setdefault(name, {})[run.place] = run
    places = {place for of in found.values() for place in of}
    changed = set(table["row"])
    for name in changed | {BASELINES[row] for row in changed}:
        own = {place: run for place, run in rows.runs[name].items() if place in places}
        found[name] = own | found.get(name, {})
    return Collected(found, (), (), ())


def trained_again(ablated: Collected, rows: Collected) -> list[bool]:
    """Whether each run that was trained a second time, for the ablations, has the predictions of the first time.

    A run that is in both archives was trained once, and ended at one time.
    """
    second = [(row, place, run) for row in BASELINES for place, run in ablated.runs.get(row, {}).items()]
    pairs = [(rows.runs[row][place], run) for row, place, run in second]
    return [one.test.equals(other.test) for one, other in pairs if _ended(one) != _ended(other)]


def _ended(run: Run) -> float:
    return (run.folder / "metrics.json").stat().st_mtime


def name_of(variant: Variant) -> str:
    """The name of an ablation among the rows."""
    return f"{variant.row}: {variant.name}"


def compared_ablations(collected: Collected, regime: str) -> list[Ablated]:
    """Each row as chosen, then its ablations that have run on two folds at least."""
    every = [one for one in ABLATIONS[regime] if len(collected.runs.get(name_of(one), ())) > 1]
    found = []
    for row in dict.fromkeys(one.row for one in every):
        found.append(_ablated(collected, row, AS_CHOSEN, row, None))
        for one in every:
            if one.row == row:
                name = name_of(one)
                found.append(_ablated(collected, row, one.name, name, compared(collected, name, row)))
    return found


def _ablated(collected: Collected, row: str, settings: str, name: str, less_chosen: Compared | None) -> Ablated:
    values = [scores(run) for run in collected.runs[name].values()]
    return Ablated(
        *(row, settings, len(values)),
        {metric: fmean(one[metric] for one in values) for metric in METRICS},
        less_chosen,
        compared(collected, name, BASELINES[row]),
    )


def ablation_table(found: Sequence[Ablated]) -> str:
    """A line for each, with both intervals of each difference."""
    lines = []
    for one in found:
        means = [f"{one.means[name]:.3f}" for name in (PRIMARY, "auroc_macro")]
        chosen = intervals(one.less_chosen) if one.less_chosen else ["", ""]
        lines.append([f"`{one.row}`", one.settings, str(one.trainings), *means, *chosen, *intervals(one.less_baseline)])
    less = [f"less {what} (other lesions)" for what in ("as chosen", "the baseline")]
    both = [less[0], "(other trainings too)", less[1], "(other trainings too)"]
    return markdown(["row", "settings", "trainings", "balanced accuracy", "AUROC", *both], lines)
