"""One training run: audit the split, fit, select on validation, test once, and write the run folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig

from skinkd.build.checkpoints import read_cards
from skinkd.build.formats import check_formats, formats_in_words, formats_sentence, plain, with_formats
from skinkd.build.objects import build_data, build_method, build_network, check_before_data
from skinkd.build.tables import load_split
from skinkd.build.teachers import find_teacher, load_teacher, teacher_scores
from skinkd.config.identity import with_derived
from skinkd.data.audit import audit_numbers, audit_sentence, audit_split
from skinkd.data.splits import measure_leak
from skinkd.data.table import ImageTable
from skinkd.methods.base import Method
from skinkd.runs.checkpoints import find_last, mend_best
from skinkd.runs.console import is_main_process, quieten, say
from skinkd.runs.environment import describe_environment
from skinkd.runs.folder import RunFolder
from skinkd.runs.tables import next_commands
from skinkd.runs.tracking import RunInfo, check_tracker, failure_is_a_warning, open_tracker
from skinkd.training.processes import check_rank
from skinkd.training.scores import score_and_report
from skinkd.training.trainer import bound_training, build_trainer, check_monitor, fit_callbacks


def run_training(settings: DictConfig, config: dict[str, Any], folder: RunFolder) -> None:
    """Train to the end, going on from the last checkpoint if the run folder has one.

    Args:
        settings: the unresolved configuration, from which the teacher's configuration follows.
        config: the resolved configuration.
        folder: the run folder; nothing is written to it before all input is checked.
    """
    quieten()
    check_rank(config["trainer"])
    check_monitor(config["monitor"])
    # before an image is read: what this machine cannot do, and arguments that a library refuses
    check_formats(config)
    build_trainer(plain(config), callbacks=[], logger=None)
    check_before_data(config)
    check_tracker(config["logger"])
    table, parts = load_split(config)
    leak = measure_leak(table.frame, parts)
    if leak.shared_groups:
        say(f"warning: protocol={config['protocol']} leaks: {leak.sentence(table.classes)}")
    data = build_data(config, table, parts)
    taught = None
    sources = [config["backbone"]["weights"], config["backbone"].get("conv_weights")]
    extra_metrics: dict[str, float] = {}
    if "teacher" in config["method"]:
        checkpoint = find_teacher(settings)
        taught, extra_metrics = load_teacher(config, checkpoint, table, parts), teacher_scores(checkpoint)
        sources.append(checkpoint)
    network = build_network(config, classes=data.classes)
    begun = None if config["force"] else folder.begun(config)
    config = with_formats(config, network, teacher=taught and taught[0], begun=begun)
    if chosen := formats_sentence(config):
        say(chosen)
    method = build_method(config, data, network, taught)
    config = as_run(config, method)
    callbacks = fit_callbacks(config, folder, data, card(config, table, parts, read_cards(sources)))
    trainer = build_trainer(config, callbacks=callbacks, logger=None)
    bound_training(trainer, config["trainer"], data)
    if is_main_process():
        # before the folder is written: the audit reads every image, and finds damage that the quick check misses
        audit = audit_split(
            table,
            parts,
            leak,
            near_duplicate_bits=config["data"]["near_duplicate_bits"],
            memory=Path(config["paths"]["cache_dir"]),
        )
        say(audit_sentence(audit))
        extra_metrics |= audit_numbers(audit)
        folder.open(config, table.frame[["image_id", "group"]].assign(split=parts), force=config["force"])
        folder.write_json("splits_report.json", audit)
        folder.write_text("environment.txt", describe_environment(formats=formats_in_words(config)))
    tracker = open_tracker(config["logger"], run_info(config, folder), folder)
    finished = False
    try:
        trainer.logger = tracker.logger
        resume = find_last(folder.checkpoints)
        if is_main_process():
            mend_best(folder.checkpoints, **config["monitor"])
        say(f"{'going on' if resume else 'training'} in {folder.path}")
        trainer.fit(method, datamodule=data, ckpt_path=resume)
        score_and_report(config, folder, data, method, tracker, extra_metrics=extra_metrics)
        finished = True
    finally:
        if not finished:
            say(f"stopped before the end; the same command goes on from the last checkpoint in {folder.path}")
        with failure_is_a_warning():
            tracker.finish(failed=not finished)
    say(next_commands(folder.path, tested=config["evaluation"]["test"]))


def as_run(config: dict[str, Any], method: Method) -> dict[str, Any]:
    """Return the configuration with the loss weights that the method derived from the given weights."""
    weights = config["method"]["loss_weights"]
    derived = {name: weight for name, weight in method.loss_weights.items() if weight != weights[name]}
    return with_derived(config, {f"method.loss_weights.{name}": weight for name, weight in derived.items()})


def card(
    config: dict[str, Any], table: ImageTable, parts: pd.Series, before: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    """Return what a checkpoint records: its network, its classes, and the images it was trained and selected on.

    ``before`` are the cards of its teacher and of the weights that it starts from. Their images count as seen too, so that
    a chain of runs hides no image from later checks.
    """
    frame = {part: table.frame[(parts == part).to_numpy()] for part in ("train", "val")}

    def seen(kind: str, part: str, names: list[str]) -> list[str]:
        return list(dict.fromkeys([*names, *(name for earlier in before for name in earlier[kind][part])]))

    return {
        "classes": list(table.classes),
        "backbone": config["backbone"],
        "images": {part: seen("images", part, rows["image_id"].tolist()) for part, rows in frame.items()},
        "groups": {part: sorted(seen("groups", part, rows["group"].tolist())) for part, rows in frame.items()},
    }


def run_info(config: dict[str, Any], folder: RunFolder) -> RunInfo:
    """Return the name, tags, group and kind of this run in the tracker."""
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
