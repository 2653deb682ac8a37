"""The choice of a row's settings from its trials, and the page that lists the trials (docs/study_trials.md)."""

from typing import Any

import pandas as pd


def equal_trials(tables: dict[str, pd.DataFrame]) -> int:
    """How many of the first trials have ended, well or not, in every row: the budget that all rows have alike."""

    def ended(table: pd.DataFrame) -> int:
        over = table["state"].isin(["complete", "failed"]).to_numpy()
        return len(over) if over.all() else int(over.argmin())

    return min(ended(table) for table in tables.values())


def best_trial(table: pd.DataFrame, budget: int) -> pd.Series:
    """The trial of the highest value among the first ``budget``; of equal values, the earlier.

    Raises:
        SystemExit: none of them is complete.
    """
    complete = table[(table["number"] <= budget) & (table["state"] == "complete")]
    if complete.empty:
        raise SystemExit(f"none of the first {budget} trials of a row is complete: no settings can be chosen")
    return complete.sort_values(["value", "number"], ascending=[False, True], kind="stable").iloc[0]


def settings_of(table: pd.DataFrame, trial: pd.Series) -> dict[str, Any]:
    """The searched settings of a trial, numbers rounded to three significant digits."""
    names = [name for name in table.columns if name not in ("number", "state", "value", "epochs", "seconds", "folder")]
    plain = {name: trial[name].item() if hasattr(trial[name], "item") else trial[name] for name in names}
    return {name: float(f"{value:.3g}") if isinstance(value, float) else value for name, value in plain.items()}


def trials_page(tables: dict[str, pd.DataFrame], budget: int) -> str:
    """docs/study_trials.md: every trial of every row."""
    parts = [
        "# The trials of the study of fine-tuned networks\n\nWritten by `python -m benchmarks.study choose`. "
        "[study.md](study.md) is the design. A trial trains on fold 0 for two epochs. Its value is the balanced accuracy of "
        "the better epoch on the validation part; no trial scored the test part. Each row chooses the trial with the highest "
        f"value (in bold) among its first {budget} trials, which is how many every row has."
    ]
    for name, table in tables.items():
        names = list(settings_of(table, table.iloc[0]))
        best = best_trial(table, budget)["number"]
        lines = ["| trial | " + " | ".join(f"`{one}`" for one in names) + " | state | value |"]
        lines.append("| ---: |" + " ---: |" * len(names) + " --- | ---: |")
        for _, trial in table[table["number"] <= budget].iterrows():
            cells = [f"{value}" for value in settings_of(table, trial).values()]
            value = f"{trial['value']:.4f}" if trial["state"] == "complete" else ""
            shown = f"**{value}**" if trial["number"] == best else value
            lines.append(f"| {trial['number']} | {' | '.join(cells)} | {trial['state']} | {shown} |")
        parts.append(f"## {name}\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"
