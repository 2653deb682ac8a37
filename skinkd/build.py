"""From the resolved configuration to objects: data, network, method, trainer. Used by every verb; fits nothing."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd
import torch
from hydra.utils import get_class, instantiate
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    EMAWeightAveraging,
    ModelCheckpoint,
)
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from skinkd.data.cache import cached
from skinkd.data.datamodule import SkinDataModule
from skinkd.data.device import DeviceAugmentation
from skinkd.data.splits import make_split, protocol_images
from skinkd.data.table import ImageTable
from skinkd.data.transforms import eval_pipeline, train_pipeline
from skinkd.errors import UserError, check_choice
from skinkd.methods.base import Method
from skinkd.methods.criterion import build_criterion, class_weights
from skinkd.models.teacher import Teacher
from skinkd.runs.callbacks import DivergenceCheck, EpochLine, EpochSeed, History, MonitorCheck, Progress
from skinkd.runs.folder import RunFolder

Config = dict[str, Any]


def load_split(config: Config) -> tuple[ImageTable, pd.Series]:
    """Load the images that the protocol splits, and the part of each."""
    data = config["data"]
    table = protocol_images(instantiate(data["table"], _convert_="all"), config["protocol"])
    parts = make_split(
        table,
        protocol=config["protocol"],
        fractions=data["fractions"],
        seed=data["split_seed"],
        fold=data["fold"],
        folds=data["folds"],
    )
    return table, parts


def build_data(config: Config, table: ImageTable, parts: pd.Series) -> SkinDataModule:
    """Build the loaders; the method's class says what a training sample is.

    Raises:
        UserError: the network is made for images of another size than the loaders give.
    """
    data = config["data"]
    if config["backbone"]["image_size"] != data["image_size"]:
        raise UserError(
            f"backbone.image_size={config['backbone']['image_size']} is not data.image_size={data['image_size']}, the size of "
            "the images; leave backbone.image_size out: it follows data.image_size"
        )
    transforms = instantiate(config["augment"]["train"], _convert_="all")
    train = train_pipeline(transforms, image_size=data["image_size"])
    views = get_class(config["method"]["_target_"]).views  # type: ignore[attr-defined]
    on_device = None
    # a run of before this setting has none
    if check_choice("data.augment_on", data.get("augment_on", "cpu"), ("cpu", "device")) == "device":
        if data["cache"] == "off":
            raise UserError(
                "data.augment_on=device keeps decoded images on the device; set data.cache=ram or data.cache=disk"
            )
        on_device = partial(
            DeviceAugmentation, pipeline=train, views=views, seed=config["seed"], compiled=config["compile"]
        )
    table = cached(
        table,
        mode=data["cache"],
        size=data["cache_size"],
        image_size=data["image_size"],
        folder=Path(config["paths"]["cache_dir"]),
    )
    return SkinDataModule(
        table=table,
        parts=parts,
        train_pipeline=train,
        eval_pipeline=eval_pipeline(image_size=data["image_size"]),
        views=views,
        batch_size=data["batch_size"],
        eval_batch_size=data["eval_batch_size"],
        num_workers=data["num_workers"],
        seed=config["seed"],
        sampler=config["sampler"],
        sampler_target=config["sampler_target"],
        on_device=on_device,
    )


def build_method(
    config: Config, data: SkinDataModule, taught: tuple[Teacher, dict[str, Tensor]] | None = None
) -> Method:
    """Build the network and the method around it; initial weights follow from ``seed``.

    Args:
        config: the resolved configuration.
        data: gives the classes and their counts.
        taught: the teacher and the further weights of its checkpoint, for methods that have one.
    """
    L.seed_everything(config["seed"], verbose=False)
    network = instantiate(config["backbone"], num_classes=len(data.classes))
    if config["channels_last"]:
        network = network.to(memory_format=torch.channels_last)
    weights = class_weights(config["class_weights"], data.class_counts, beta=config["effective_number_beta"])
    own = {name: value for name, value in config["method"].items() if name not in ("name", "teacher")}
    if taught is not None:
        own["teacher"], own["teacher_state"] = taught
    method = instantiate(
        own,
        network,
        criterion=build_criterion(
            config["loss"]["name"],
            data.class_counts,
            weight=weights,
            focal_gamma=config["loss"]["focal_gamma"],
            logit_tau=config["loss"]["logit_tau"],
            label_smoothing=config["loss"]["label_smoothing"],
        ),
        optimizer=fused_on_cuda(instantiate(config["optim"]["optimizer"]), config["trainer"]),
        schedule=instantiate(config["optim"]["schedule"], _convert_="all"),
        calibration_bins=config["evaluation"]["calibration_bins"],
        _convert_="all",
    )
    if config["compile"]:
        network.features = torch.compile(network.features)
        network.forward = torch.compile(network.forward)
    return method


def fused_on_cuda(make: partial[Optimizer], trainer: Config) -> Callable[[Iterable[nn.Parameter]], Optimizer]:
    """Let PyTorch's own optimizers update all parameters in one kernel where these are on a CUDA device.

    ``+optim.optimizer.fused=false`` keeps them from it. With fp16 and gradient clipping they are not fused either: a fused
    optimizer divides the gradients by the loss scale itself, which is too late for the clipping.

    Args:
        make: ``(parameters) -> Optimizer``, as the configuration has it.
        trainer: the settings ``trainer``.
    """
    clips_scaled = trainer["gradient_clip_val"] is not None and trainer.get("precision") == "16-mixed"
    if make.func not in (SGD, Adam, AdamW) or "fused" in make.keywords or clips_scaled:
        return make

    def build(parameters: Iterable[nn.Parameter]) -> Optimizer:
        listed = list(parameters)
        on_cuda = bool(listed) and all(parameter.device.type == "cuda" for parameter in listed)
        return make(listed, fused=True) if on_cuda else make(listed)

    return build


def fit_callbacks(config: Config, folder: RunFolder) -> list[Callback]:
    """Everything that goes on during fit, in the order in which it must happen."""
    monitor, mode = (
        config["monitor"]["metric"],
        check_choice("monitor.mode", config["monitor"]["mode"], ("min", "max")),
    )
    history = History(folder)
    callbacks: list[Callback] = [EpochSeed(config["seed"]), DivergenceCheck(), MonitorCheck(monitor)]
    callbacks += [history, EpochLine(history)]
    if config["trainer"]["enable_progress_bar"]:
        callbacks.append(Progress())
    if config["ema"]["decay"] is not None:
        callbacks.append(EMAWeightAveraging(decay=config["ema"]["decay"]))
    if config["early_stopping"]["patience"] is not None:
        callbacks.append(EarlyStopping(monitor, mode=mode, patience=config["early_stopping"]["patience"]))

    def keep(name: str, **choice: Any) -> ModelCheckpoint:
        return ModelCheckpoint(
            dirpath=folder.checkpoints,
            filename=name,
            enable_version_counter=False,
            save_on_train_epoch_end=True,
            **choice,
        )

    # a callback of its own for the last epoch: save_last=True writes only when the best one is written. It comes second,
    # so that what it holds knows of this epoch's best
    return [*callbacks, keep("best", monitor=monitor, mode=mode), keep("last")]


def build_trainer(config: Config, *, callbacks: list[Callback], logger: Any) -> L.Trainer:
    """Build Lightning's trainer from ``trainer``; for scoring, give no callbacks and no logger."""
    settings = dict(config["trainer"])
    if settings["accelerator"] == "gpu" and not torch.cuda.is_available():
        raise UserError("strategy needs a CUDA GPU and this machine has none; use strategy=cpu, ddp_cpu or auto")
    if settings["precision"] == "16-mixed" and not torch.cuda.is_available():
        raise UserError("precision=fp16 needs a CUDA GPU and this machine has none; use precision=bf16 or fp32")
    if not callbacks:
        settings["enable_progress_bar"] = False
    trainer = L.Trainer(
        **settings,
        callbacks=callbacks,
        logger=logger or False,
        enable_checkpointing=bool(callbacks),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    # deterministic algorithms fill all new memory, a pass over it, against reads of what was never written: there are none
    torch.utils.deterministic.fill_uninitialized_memory = False
    return trainer
