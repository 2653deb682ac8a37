"""The same comparison in Weights & Biases: a report and a saved workspace, built from code.

Both select the runs by their ids and group them by the settings that tell the rows apart, so that bars and bands are means
and spreads over seeds. W&B cannot compute intervals by lesion and paired tests; the report has them as tables.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any
from unicodedata import category

from skinkd.analysis.aggregate import CURVES, METRICS
from skinkd.analysis.comparison import Comparison
from skinkd.analysis.report import markdown_tables, remarks
from skinkd.analysis.rows import Row, telling_settings
from skinkd.errors import UserError

_IN_REPORT = {"scores": "Test metrics", "tests": "Differences", "calibration": "Calibration", "cost": "Cost"}
_COSTS = {"macs": "MACs of one image", "parameters": "parameters"}
_LONGEST_TITLE = 120


def check_wandb() -> None:
    """Raise UserError unless wandb-workspaces is installed and there is a W&B account to write to."""
    if find_spec("wandb_workspaces") is None:
        raise UserError("--wandb needs the package wandb-workspaces; run pip install 'skinkd[report]'")
    import wandb

    try:
        known = wandb.login(prompt=False)
    except wandb.errors.Error as error:
        raise UserError(f"--wandb: W&B cannot be reached ({_line(error)}); check the network and the key") from None
    if not known:
        raise UserError("--wandb needs a W&B account; run wandb login once, or set WANDB_API_KEY")


def logged_runs(comparison: Comparison) -> tuple[str | None, str, list[str]]:
    """Return entity (None: the account's default), project and W&B ids of the runs, in their order.

    Raises:
        UserError: a run was not logged to W&B to its end, or the runs are in several projects.
    """
    ids, places, missing = [], set(), []
    for run in (run for row in comparison.rows for run in row.runs):
        path, logger = run.folder / "wandb_run_id", run.config["logger"]
        # a run that was resumed with another logger has no scores in W&B
        if path.exists() and logger.get("kind") == "wandb":
            ids.append(path.read_text(encoding="utf-8").strip())
            places.add((logger.get("entity"), logger.get("project")))
        else:
            missing.append(run.folder.name)
    if not ids:
        raise UserError(
            "--wandb: none of these runs was logged to W&B to its end; train them again with logger=wandb force=true"
        )
    if missing:
        raise UserError(
            f"--wandb: {len(missing)} of {len(missing) + len(ids)} runs were not logged to W&B to their end "
            f"({', '.join(missing)}); leave them out, or train them again with logger=wandb force=true"
        )
    if len(places) > 1:
        named = ", ".join(sorted(f"{entity or 'own'}/{project}" for entity, project in places))
        raise UserError(f"--wandb: the runs are in several W&B projects ({named}); compare runs of one project")
    entity, project = places.pop()
    return entity, project, ids


def grouping(rows: Sequence[Row]) -> list[str]:
    """Return the method's name and a few settings that tell the rows apart.

    Rows that differ only in their teachers' seeds stay together: no single setting of their runs tells them apart.
    """
    return telling_settings([row.settings for row in rows], start=["method.name"])


def build_report(comparison: Comparison, *, entity: str, project: str, ids: list[str]) -> Any:
    """Return a ``wandb_workspaces.reports.v2.Report``: tables, then bars, curves and cost of the runs, and their table."""
    import wandb_workspaces.reports.v2 as wr

    runset = wr.Runset(
        entity=entity,
        project=project,
        name="runs by row",
        filters=selected(ids),
        groupby=[f"config.{name}" for name in grouping(comparison.rows)],
        pinned_columns=_columns(comparison),
    )
    tables = markdown_tables(comparison)
    blocks: list[Any] = [wr.TableOfContents()]
    if notes := remarks(comparison, []):
        blocks.append(wr.UnorderedList(items=list(notes)))
    for name, title in _IN_REPORT.items():
        if name in tables:
            blocks += [wr.H2(text=title), wr.MarkdownBlock(text=tables[name])]
    blocks += [
        wr.H2(text="Panels"),
        wr.P(
            text=f"Means over the runs with the same {', '.join(grouping(comparison.rows))}. The intervals by lesion are in "
            "the tables above."
        ),
        wr.PanelGrid(runsets=[runset], panels=[*bars(comparison.metrics), *curves(), *_costs()]),
    ]
    return wr.Report(entity=entity, project=project, title=_title(comparison), width="fluid", blocks=blocks)


def build_workspace(comparison: Comparison, *, entity: str, project: str, ids: list[str]) -> Any:
    """Return a ``wandb_workspaces.workspaces.Workspace``: the same panels as a view of the project."""
    import wandb_workspaces.workspaces as ws

    return ws.Workspace(
        entity=entity,
        project=project,
        name=_view_name(comparison),
        sections=[
            ws.Section(name="Test metrics", panels=bars(comparison.metrics), is_open=True),
            ws.Section(name="Training curves", panels=curves(), is_open=True),
            ws.Section(name="Cost", panels=_costs(), is_open=True),
        ],
        runset_settings=ws.RunsetSettings(
            filters=selected(ids),
            groupby=[ws.Config(name) for name in grouping(comparison.rows)],
            pinned_columns=_columns(comparison),
        ),
    )


def publish(comparison: Comparison) -> dict[str, str]:
    """Save report and workspace in W&B; return their addresses by name.

    Raises:
        UserError: the runs are not in one W&B project, or W&B refuses or cannot be reached.
    """
    import requests
    import wandb

    entity, project, ids = logged_runs(comparison)
    try:
        entity = entity or str(wandb.Api().default_entity)
        report = build_report(comparison, entity=entity, project=project, ids=ids)
        report.save()
        workspace = build_workspace(comparison, entity=entity, project=project, ids=ids)
        workspace.save()
    except (wandb.errors.Error, requests.RequestException) as error:
        raise UserError(
            f"--wandb: W&B did not save the report ({_line(error)}); the files on disk are complete, give the command again"
        ) from None
    return {"report": str(report.url), "workspace": str(workspace.url)}


def _title(comparison: Comparison) -> str:
    title = f"Comparison: {', '.join(row.label for row in comparison.rows)}"
    return title if len(title) <= _LONGEST_TITLE else f"{title[: _LONGEST_TITLE - 1]}…"


def _view_name(comparison: Comparison) -> str:
    """Return the title without symbols: W&B takes each symbol, even the = of ``ratio=0.5``, for an emoji and refuses it."""
    return "".join(" " if category(letter).startswith(("S", "C")) else letter for letter in _title(comparison))


def selected(ids: list[str]) -> str:
    """Return W&B's filter for runs by their ids."""
    return f"Metric('ID') in {sorted(ids)!r}"


def _columns(comparison: Comparison) -> list[str]:
    names = [f"summary:test/{name}" for name in comparison.metrics]
    settings = [name.partition(".") for name in [*grouping(comparison.rows), "seed"]]
    return [
        *(f"config:{top}.value{dot}{rest}" for top, dot, rest in settings),
        *names,
        "summary:parameters",
        "summary:macs",
    ]


def bars(metrics: Sequence[str]) -> list[Any]:
    """Return bars of test metrics, one for each group of the runset.

    A ``groupby`` of the panel would replace the runset's and takes only one setting.
    """
    import wandb_workspaces.reports.v2 as wr

    return [
        wr.BarPlot(
            title=f"test {METRICS[name]}",
            metrics=[wr.SummaryMetric(f"test/{name}")],
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
        )
        for name in metrics
    ]


def curves(x: str = "trainer/global_step") -> list[Any]:
    """Return curves of validation over ``x``, a mean and a band for each group of the runset."""
    import wandb_workspaces.reports.v2 as wr

    return [
        wr.LinePlot(
            title=f"validation {words}",
            x=x,
            y=[name],
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
        )
        for name, words in CURVES.items()
    ]


def _costs() -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    return [
        wr.ScatterPlot(
            title=f"balanced accuracy against {words}",
            x=wr.SummaryMetric(name),
            y=wr.SummaryMetric("test/balanced_accuracy"),
        )
        for name, words in _COSTS.items()
    ]


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
