"""The main verb: ``python -m skinkd.train method=swskd data=ham10000``.

Trains, selects on validation, tests once, and leaves a run folder that every other verb reads.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf

from skinkd import cli
from skinkd.build import build_data, build_method, build_trainer, fit_callbacks, load_split
from skinkd.checkpoints import read_cards
from skinkd.data.audit import audit_numbers, audit_sentence, audit_split
from skinkd.data.splits import measure_leak
from skinkd.data.table import ImageTable
from skinkd.errors import UserError
from skinkd.runs.console import is_main_process, quieten, say
from skinkd.runs.environment import describe_environment
from skinkd.runs.folder import RunFolder, run_path
from skinkd.runs.tables import next_commands
from skinkd.runs.tracking import RunInfo, check_tracker, open_tracker
from skinkd.scoring import score_and_report
from skinkd.teachers import find_teacher, load_teacher, resolved, teacher_scores


def train(settings: DictConfig) -> None:
    """Run, resume or recognise one training run."""
    settings = stored_settings(settings)
    config = resolved(settings)
    folder = RunFolder(run_path(config))
    if folder.finished_with(test=config["evaluation"]["test"]) and not config["force"]:
        folder.check_owner(config)
        say(f"this run has finished already; force=true runs it again\n{folder.path}")
        return
    quieten()
    table, parts = load_split(config)
    leak = measure_leak(table.frame, parts)
    if leak.shared_groups:
        say(f"warning: protocol={config['protocol']} leaks: {leak.sentence(table.classes)}")
    data = build_data(config, table, parts)
    taught = None
    sources = [config["backbone"]["weights"]]
    beside: dict[str, float] = {}
    if "teacher" in config["method"]:
        checkpoint = find_teacher(settings)
        taught, beside = load_teacher(config, checkpoint, table, parts), teacher_scores(checkpoint)
        sources.append(checkpoint)
    method = build_method(config, data, taught)
    method.card = card(config, table, parts, read_cards(sources))
    callbacks = fit_callbacks(config, folder)
    # both refuse what cannot be done here while nothing is written yet
    check_tracker(config["logger"])
    build_trainer(config, callbacks=[], logger=None)
    if is_main_process():
        # before the folder is begun: it reads every image, and so finds what the quick check of the files cannot
        audit = audit_split(
            table,
            parts,
            near_duplicate_bits=config["data"]["near_duplicate_bits"],
            memory=Path(config["paths"]["cache_dir"]),
        )
        say(audit_sentence(audit))
        beside |= audit_numbers(audit)
        folder.open(config, table.frame[["image_id", "group"]].assign(split=parts), force=config["force"])
        folder.write_json("splits_report.json", audit)
        folder.write_text("environment.txt", describe_environment())
    tracker = open_tracker(config["logger"], run_info(config, folder), folder)
    finished = False
    try:
        trainer = build_trainer(config, callbacks=callbacks, logger=tracker.logger)
        resume = folder.last_checkpoint
        say(f"{'going on' if resume else 'training'} in {folder.path}")
        trainer.fit(method, datamodule=data, ckpt_path=resume)
        score_and_report(config, folder, data, method, tracker, beside=beside)
        finished = True
    finally:
        if not finished:
            say(f"stopped before the end; the same command goes on from the last whole epoch in {folder.path}")
        tracker.finish(failed=not finished)
    say(next_commands(folder.path, tested=config["evaluation"]["test"]))


def stored_settings(settings: DictConfig) -> DictConfig:
    """The configuration to run: with ``config=<file>``, the one stored there."""
    if settings.config is None:
        return settings
    path = Path(settings.config)
    if not path.is_file():
        raise UserError(f"config={path} is no file; give the config.yaml of a run folder")
    stored = OmegaConf.load(path)
    stored.force = settings.force
    return stored  # type: ignore[return-value]


def card(
    config: dict[str, Any], table: ImageTable, parts: pd.Series, before: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    """What a checkpoint says of itself: its network, its classes, and the images it was trained and selected on.

    ``before`` are the cards of what it learns or starts from. What these have seen it has seen too, so that a chain of runs
    hides nothing from the check of the next one.
    """
    frame = {part: table.frame[(parts == part).to_numpy()] for part in ("train", "val")}

    def seen(kind: str, part: str, own: list[str]) -> list[str]:
        return list(dict.fromkeys([*own, *(name for one in before for name in one[kind][part])]))

    return {
        "classes": list(table.classes),
        "backbone": config["backbone"],
        "images": {part: seen("images", part, rows["image_id"].tolist()) for part, rows in frame.items()},
        "groups": {part: sorted(seen("groups", part, rows["group"].tolist())) for part, rows in frame.items()},
    }


def run_info(config: dict[str, Any], folder: RunFolder) -> RunInfo:
    """How this run is found among others in the tracker."""
    method = config["method"]["name"]
    tags = [config["data"]["name"], method, config["backbone"]["name"], f"seed={config['seed']}"]
    if config["data"]["fold"] is not None:
        tags.append(f"fold={config['data']['fold']}")
    return RunInfo(
        name=folder.path.name,
        tags=tags,
        group=config["group"],
        job_type=config["job_type"] or ("baseline" if method == "supervised" else "student"),
        config=config,
    )


if __name__ == "__main__":
    cli.main(train, "train")
