"""The study in Weights & Biases, from the archive alone: its runs, a report and a workspace (``… study report --wandb``).

A run keeps its id, so that the command given again adds no second copy of it.
"""

from typing import Any

import requests
import wandb
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from skinkd.analysis.runs import Run
from skinkd.analysis.wandb_report import bars, curves, selected
from skinkd.config.user_errors import first_line
from skinkd.runs.folder import RunFolder
from skinkd.runs.tracking import Report, WandbTracker
from skinkd.scoring.metrics import per_class
from skinkd.training.run import run_info

from .collect import Collected
from .scores import LEVEL
from .tables import score_table, secondary_table, verdict_table
from .verdicts import Compared

PROJECT = "skinkd-study"
TITLE = "What distillation adds to a network that one would deploy"
METRICS = ("balanced_accuracy", "accuracy", "auroc_macro", "ece")
GROUP = "config.row"


def publish_study(collected: Collected, methods: list[Compared], answer: str) -> dict[str, str]:
    """Log the runs that count, save report and workspace; return the addresses of both.

    Raises:
        SystemExit: W&B cannot be reached, or refuses.
    """
    try:
        ids = [log_run(run, row) for row, runs in collected.runs.items() for run in runs.values()]
        entity = str(wandb.Api().default_entity)
        report = build_report(collected, methods, answer, entity=entity, ids=ids)
        report.save()
        workspace = build_workspace(entity=entity, ids=ids)
        workspace.save()
    except (wandb.errors.Error, requests.RequestException) as error:
        raise SystemExit(f"W&B did not take the study ({first_line(error)}); give the command again") from None
    return {"report": str(report.url), "workspace": str(workspace.url)}


def log_run(run: Run, row: str) -> str:
    """Log an archived run: its configuration with its row, its epochs, its scores. Return its id."""
    folder, config = RunFolder(run.folder), {**run.config, "row": row}
    folder.write_text("wandb_run_id", f"study-{run.folder.name.rpartition('-')[2]}\n")
    logger = {"project": PROJECT, "entity": None, "log_checkpoint": False}
    tracker = WandbTracker(logger, run_info(config, folder), folder)
    if tracker.offline:
        tracker.finish(failed=True)
        raise SystemExit("W&B cannot be reached, or has no account here; run wandb login once, or set WANDB_API_KEY")
    tracker.run.define_metric("*", step_metric="epoch")  # the archive has no steps
    try:
        if tracker.run.summary.get("test/accuracy") is None:  # new, or its earlier upload was cut off
            for epoch in run.history.to_dict("records"):
                tracker.run.log({str(name): value for name, value in epoch.items()})
            by_class = per_class(run.test, run.classes, level=LEVEL)
            tracker.report(Report(run.metrics, "test", run.test, run.classes, by_class, ()))
    finally:
        tracker.finish(failed=False)
    return str(tracker.run.id)


def build_report(
    collected: Collected, methods: list[Compared], answer: str, *, entity: str, ids: list[str]
) -> wr.Report:
    """The answer and the main tables of docs/results.md, then bars and curves of the runs by row."""
    runset = wr.Runset(entity=entity, project=PROJECT, name="runs by row", filters=selected(ids), groupby=[GROUP])
    blocks: list[Any] = [wr.TableOfContents(), wr.MarkdownBlock(text=answer)]
    for title, table in (
        ("The verdicts", verdict_table(methods)),
        ("Other metrics", secondary_table(methods)),
        ("Scores on test", score_table(collected)),
    ):
        blocks += [wr.H2(text=title), wr.MarkdownBlock(text=table)]
    blocks += [wr.H2(text="Panels"), wr.P(text="Means over the folds of a row, with their standard deviation.")]
    blocks.append(wr.PanelGrid(runsets=[runset], panels=[*bars(METRICS), *curves("epoch")]))
    return wr.Report(entity=entity, project=PROJECT, title=TITLE, width="fluid", blocks=blocks)


def build_workspace(*, entity: str, ids: list[str]) -> ws.Workspace:
    """The same panels as a view of the project."""
    sections = [
        ws.Section(name="Test metrics", panels=bars(METRICS), is_open=True),
        ws.Section(name="Training curves", panels=curves("epoch"), is_open=True),
    ]
    shown = ws.RunsetSettings(filters=selected(ids), groupby=[ws.Config("row")])
    return ws.Workspace(entity=entity, project=PROJECT, name=TITLE, sections=sections, runset_settings=shown)
