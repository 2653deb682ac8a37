"""The range of every number in the configuration, in one table, checked before any data is read."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from skinkd.errors import UserError

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Range:
    """The values that a setting may have; of a list, each value.

    Attributes:
        low: the least number.
        high: the greatest number.
        whole: whether only whole numbers are allowed.
        above: whether ``low`` itself is not allowed.
        below: whether ``high`` itself is not allowed.
        null: whether the setting may be null.
    """

    low: float = -math.inf
    high: float = math.inf
    whole: bool = False
    above: bool = False
    below: bool = False
    null: bool = False

    def __contains__(self, value: Any) -> bool:
        """Return whether the setting may have this value."""
        if value is None:
            return self.null
        if isinstance(value, list):
            return all(one in self for one in value)
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        over = value > self.low if self.above else value >= self.low
        under = value < self.high if self.below else value <= self.high
        return math.isfinite(value) and over and under

    def __str__(self) -> str:
        """Return the range in words, to end a sentence."""
        kind = "a whole number" if self.whole else "a number"
        if self.low > -math.inf and self.high < math.inf and not (self.above or self.below):
            kind += f" between {self.low} and {self.high}"
        else:
            bounds = []
            if self.low > -math.inf:
                bounds.append(f"{'above' if self.above else 'of at least'} {self.low}")
            if self.high < math.inf:
                bounds.append(f"{'below' if self.below else 'of at most'} {self.high}")
            kind = " ".join([kind, " and ".join(bounds)]).strip()
        return f"{kind} or null" if self.null else kind


@dataclass(frozen=True)
class Part(Range):
    """How much of the batches or images: a share above 0 up to 1.0, or a whole number of batches of at least 1."""

    def __contains__(self, value: Any) -> bool:
        """Return whether the setting may have this value."""
        if isinstance(value, bool):
            return False
        return (isinstance(value, int) and value >= 1) or (isinstance(value, float) and 0 < value <= 1)

    def __str__(self) -> str:
        """Return the range in words, to end a sentence."""
        return "a share above 0 up to 1.0, or a whole number of batches of at least 1"


@dataclass(frozen=True)
class Devices(Range):
    """Which devices: their number, -1 or "auto" for all, or a list of the devices' numbers."""

    def __contains__(self, value: Any) -> bool:
        """Return whether the setting may have this value."""
        if isinstance(value, list):
            return bool(value) and len(set(value)) == len(value) and all(one in WHOLE_FROM_0 for one in value)
        return value in ("auto", -1) or value in PROCESSES

    def __str__(self) -> str:
        """Return the range in words, to end a sentence."""
        return f"a number of devices between 1 and {PROCESSES.high}, -1 or auto for all, or a list of devices such as [0,1]"


ANY_WHOLE = Range(whole=True)
COUNT = Range(1, whole=True)
COUNT_OR_NULL = Range(1, whole=True, null=True)
NUMBER_FROM_0 = Range(0)
WHOLE_FROM_0 = Range(0, whole=True)
POSITIVE = Range(0, above=True)
PROCESSES = Range(1, 256, whole=True)  # that one command starts at once; thousands would stop the machine
WORKERS = Range(0, 256, whole=True)
SEED = Range(0, 2**32 - 1, whole=True)
SHARE = Range(0, 1)
SHARE_BELOW_1 = Range(0, 1, below=True)
INSIDE_0_AND_1 = Range(0, 1, above=True, below=True)
PART = Part()

RANGES: dict[str, Range] = {
    "seed": SEED,
    "effective_number_beta": SHARE_BELOW_1,
    "loss.focal_gamma": NUMBER_FROM_0,
    "loss.logit_tau": POSITIVE,
    "loss.label_smoothing": SHARE_BELOW_1,
    "sampler_target": COUNT_OR_NULL,
    "data.image_size": COUNT,
    "data.batch_size": COUNT,
    "data.eval_batch_size": COUNT,
    "data.num_workers": WORKERS,
    "data.split_seed": ANY_WHOLE,
    "data.fractions.*": INSIDE_0_AND_1,
    "data.fold": Range(0, whole=True, null=True),
    "data.folds": Range(3, whole=True, null=True),
    "data.max_pixels": COUNT,
    "data.near_duplicate_bits": Range(0, 256, whole=True, null=True),
    "data.cache_size": COUNT_OR_NULL,
    "data.size": COUNT,
    "data.table.size": COUNT,
    "data.table.images": COUNT,
    "data.table.height": COUNT,
    "data.table.width": COUNT,
    "data.table.seed": SEED,
    "data.table.near_duplicate_bits": Range(0, 256, whole=True, null=True),
    "augment.mix_alpha": POSITIVE,
    "augment.mix_prob": SHARE,
    "backbone.image_size": COUNT,
    "backbone.drop_rate": SHARE_BELOW_1,
    "backbone.head_widths": COUNT,
    "backbone.cnn_widths": COUNT,
    "backbone.fusion_width": COUNT,
    "backbone.small_vit.patch_size": COUNT,
    "backbone.small_vit.depth": COUNT,
    "backbone.small_vit.embed_dim": COUNT,
    "backbone.small_vit.num_heads": COUNT,
    "backbone.small_vit.mlp_ratio": POSITIVE,
    "backbone.convmixer.*": COUNT,
    "method.temperature": POSITIVE,
    "method.temperature_rotated": POSITIVE,
    "method.temperature_ss": POSITIVE,
    "method.keep_wrong_rotated": SHARE,
    "method.keep_wrong_ss": SHARE,
    "method.projector_width": COUNT_OR_NULL,
    "method.ratio": POSITIVE,
    "method.stage": COUNT,
    "method.alpha": NUMBER_FROM_0,
    "method.beta": NUMBER_FROM_0,
    "method.gate_reduction": COUNT,
    "method.gate_kernel": COUNT,
    "method.simam_lambda": POSITIVE,
    "method.head_reduction": COUNT,
    "method.correct_probability": INSIDE_0_AND_1,
    "method.width": COUNT,
    "method.negatives": COUNT,
    "method.momentum": SHARE_BELOW_1,
    "method.warmup_epochs": NUMBER_FROM_0,
    "method.loss_weights.*": NUMBER_FROM_0,
    "optim.lr": POSITIVE,
    "optim.weight_decay": NUMBER_FROM_0,
    "optim.optimizer.lr": POSITIVE,
    "optim.optimizer.weight_decay": NUMBER_FROM_0,
    "optim.optimizer.momentum": SHARE_BELOW_1,
    "optim.optimizer.betas": SHARE_BELOW_1,
    "optim.optimizer.eps": NUMBER_FROM_0,
    "optim.schedule.warmup_fraction": SHARE_BELOW_1,
    "optim.schedule.at": INSIDE_0_AND_1,
    "optim.schedule.factor": POSITIVE,
    "optim.schedule.patience": WHOLE_FROM_0,
    "optim.schedule.min_lr": NUMBER_FROM_0,
    "optim.schedule.power": POSITIVE,
    "optim.schedule.every": COUNT,
    "checkpoint.every_minutes": POSITIVE,
    "sweep.stall_minutes": POSITIVE,
    "early_stopping.patience": Range(0, whole=True, null=True),
    "distributed.timeout_minutes": POSITIVE,
    "ema.decay": Range(0, 1, below=True, null=True),
    "evaluation.calibration_bins": Range(1, 10_000, whole=True),
    "evaluation.bootstrap_replicates": Range(1, 1_000_000, whole=True),
    "evaluation.interval": INSIDE_0_AND_1,
    "evaluation.early_exit_thresholds": NUMBER_FROM_0,
    "trainer.accumulate_grad_batches": COUNT,
    "trainer.check_val_every_n_epoch": COUNT,
    "trainer.devices": Devices(),
    "trainer.gradient_clip_val": Range(0, null=True),
    "trainer.limit_test_batches": PART,
    "trainer.limit_train_batches": PART,
    "trainer.limit_val_batches": PART,
    "trainer.log_every_n_steps": COUNT,
    "trainer.max_epochs": COUNT,
    "trainer.max_steps": COUNT,
    "trainer.num_nodes": COUNT,
    "trainer.overfit_batches": PART,
    "logger.example_images": WHOLE_FROM_0,
    "conformal_level": INSIDE_0_AND_1,
    "early_exit_threshold": NUMBER_FROM_0,
    "int8.calibration_images": COUNT,
    "int8.calibration_seed": SEED,
    "limits.agreement": SHARE,
    "limits.balanced_accuracy_loss": SHARE,
    "limits.probability": NUMBER_FROM_0,
    "limits.logit": NUMBER_FROM_0,
    "limits.megabytes": POSITIVE,
    "limits.upload_seconds": POSITIVE,
    "limits.seconds": POSITIVE,
    "limits.memory_mb": COUNT,
    "limits.waiting": COUNT,
    "latency.threads": COUNT,
    "latency.batch_sizes": COUNT,
    "latency.rounds": COUNT,
    "latency.seconds": POSITIVE,
    "port": Range(0, 65535, whole=True),
    "max_pixels": COUNT,
    "top": COUNT,
    "num_workers": WORKERS,
    "set_level": INSIDE_0_AND_1,
    "explanation.cells": COUNT,
    "explanation.occlusion.window": Range(0, 1, above=True),
    "explanation.occlusion.stride": Range(0, 1, above=True),
    "explanation.occlusion.blur": POSITIVE,
    "explanation.occlusion.batch": COUNT,
    "images": COUNT,
    "layer_cells": COUNT,
    "blur": POSITIVE,
    "batch": COUNT,
    "scorecam.channels": COUNT,
    "ig.steps": COUNT,
    "occlusion.window": Range(0, 1, above=True),
    "occlusion.stride": Range(0, 1, above=True),
    "lime.samples": COUNT,
    "lime.superpixels": COUNT,
    "lime.compactness": POSITIVE,
    "lime.kernel_width": POSITIVE,
    "lime.ridge": NUMBER_FROM_0,
    "nulls.blob": POSITIVE,
    "nulls.centre": POSITIVE,
    "nulls.mean_mask_images": COUNT,
    "faithfulness.steps": COUNT,
    "off_centre.crop": Range(0, 1, above=True),
    "vignette.dark": SHARE,
    "sanity.images": COUNT,
    "sanity.levels": COUNT,
    "sanity.limit": SHARE,
    "sheet.rows": COUNT,
    "sheet.opacity": SHARE,
    "sheet.images_of_class": COUNT,
    "sheet.images": COUNT,
    "sheet.copies": COUNT,
    "sheet.inches": POSITIVE,
    "download.attempts": COUNT,
    "download.timeout": POSITIVE,
    "download.pause": NUMBER_FROM_0,
    "tune.trials": COUNT,
    "tune.max_failures": COUNT,
    "tune.poll_seconds": POSITIVE,
    "tune.stop_seconds": POSITIVE,
    "tune.sampler.startup_trials": WHOLE_FROM_0,
    "tune.pruner.startup_trials": WHOLE_FROM_0,
    "tune.pruner.min_epochs": COUNT,
    "tune.pruner.reduction_factor": Range(2, whole=True),
}
"""Dotted name -> range; ``*`` stands for one name. The constructor that takes a setting may be stricter."""

_OURS = ("skinkd.", "torch.", "albumentations.")


def check_ranges(config: Config) -> None:
    """Raise UserError for the first setting of a resolved configuration that is out of its range.

    Settings that the configuration lacks are left out, and so are the arguments of constructors of other packages, and the
    recipe of a teacher, which is checked as the configuration of the teacher's run.
    """
    for name, value in _settings(config, ""):
        check_value(name, value)


def check_value(name: str, value: Any) -> None:
    """Raise UserError if the setting has a range and the value is outside it."""
    allowed = range_of(name)
    if allowed is not None and value not in allowed:
        raise UserError(f"{name}={_shown(value)} is out of range; it must be {allowed}")


@cache
def range_of(name: str) -> Range | None:
    """Return the range of a setting, or None if it has none."""
    if name in RANGES:
        return RANGES[name]
    for pattern, allowed in RANGES.items():
        if "*" in pattern and re.fullmatch(re.escape(pattern).replace(r"\*", r"[^.]+"), name):
            return allowed
    return None


def _settings(node: Config, prefix: str) -> Iterator[tuple[str, Any]]:
    target = node.get("_target_")
    if isinstance(target, str) and not target.startswith(_OURS):
        return
    for key, value in node.items():
        name = f"{prefix}{key}"
        if name == "method.teacher":
            continue
        if isinstance(value, Mapping):
            yield from _settings(value, f"{name}.")
        else:
            yield name, value


def _shown(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
