"""From the resolved configuration to objects: data, network, method, trainer. Every verb uses it. Nothing is trained here."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from skinkd.build.construct import build, find_class
from skinkd.config.trainer_arguments import image_limits
from skinkd.data.cache import cached
from skinkd.data.datamodule import SkinDataModule
from skinkd.data.device import DeviceAugmentation
from skinkd.data.mixing import MIXES, Mix
from skinkd.data.table import ImageTable
from skinkd.data.transforms import eval_pipeline, train_pipeline
from skinkd.data.views import PAIRS
from skinkd.errors import UserError, check_choice
from skinkd.methods.base import Method
from skinkd.methods.criterion import build_criterion, class_weights
from skinkd.models.backbone import Backbone
from skinkd.models.teacher import Teacher

Config = dict[str, Any]


def check_before_data(config: Config) -> None:
    """Build what needs no data, and throw it away: the optimizer, the schedule, the augmentation, and a batch of one.

    Raises:
        UserError: a constructor refuses its arguments, or the network cannot be trained with ``data.batch_size=1``.
    """
    train_pipeline(build(config["augment"]["train"], place="augment.train"), image_size=config["data"]["image_size"])
    optim = config["optim"]
    try:
        optimizer = build(optim["optimizer"], place="optim.optimizer")([nn.Parameter(torch.zeros(2, 2))])
        build(optim["schedule"], place="optim.schedule")(optimizer, epochs=10, steps_per_epoch=10)
    except (TypeError, ValueError) as error:
        raise UserError(f"optim cannot be built: {str(error).strip().splitlines()[0]}; correct or leave out") from error
    if config["data"]["batch_size"] == 1:
        _check_batch_of_one({**config["backbone"], "pretrained": False, "weights": None}, config["data"]["image_size"])


def _check_batch_of_one(backbone: Config, image_size: int) -> None:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        network = build(backbone, place="backbone", num_classes=2).train()
        try:
            network(torch.zeros(1, 3, image_size, image_size, dtype=torch.uint8))
        except ValueError as error:  # BatchNorm with one value for each channel
            raise UserError(
                f"data.batch_size=1 gives {backbone['name']} one value to normalise for each channel "
                f"({str(error).strip().splitlines()[0]}); set data.batch_size to 2 or more"
            ) from error


def build_data(config: Config, table: ImageTable, parts: pd.Series) -> SkinDataModule:
    """Build the loaders; the method's class says which views of an image make a training sample.

    Raises:
        UserError: the network's image size differs from the data's, or a term of the method cannot take mixed batches.
    """
    data = config["data"]
    if config["backbone"]["image_size"] != data["image_size"]:
        raise UserError(
            f"backbone.image_size={config['backbone']['image_size']} differs from data.image_size={data['image_size']}; "
            "leave backbone.image_size out: it follows data.image_size"
        )
    train = train_pipeline(build(config["augment"]["train"], place="augment.train"), image_size=data["image_size"])
    method = find_method(config)
    mix = build_mix(config, method, num_classes=len(table.classes))
    on_device = build_device_augmentation(config, train, views=method.views)
    if mix is not None and on_device is not None:
        raise UserError(
            f"augment.mix={config['augment']['mix']} mixes batches in the loading processes, but data.augment_on=device makes "
            "batches on the device; set data.augment_on=cpu or augment.mix=none"
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
        views=method.views,
        batch_size=data["batch_size"],
        eval_batch_size=data["eval_batch_size"],
        num_workers=data["num_workers"],
        seed=config["seed"],
        sampler=config["sampler"],
        sampler_target=config["sampler_target"],
        mix=mix,
        on_device=on_device,
        limits=image_limits(config["trainer"]),
    )


def build_device_augmentation(
    config: Config, pipeline: Any, *, views: str
) -> Callable[[Sequence[str]], DeviceAugmentation] | None:
    """Return a function from the training images' paths to the augmentation on the device; None on the CPU.

    Raises:
        UserError: the images are not cached, or a sample of the method has two images.
    """
    data = config["data"]
    # stored runs may be older than the setting
    if check_choice("data.augment_on", data.get("augment_on", "cpu"), ("cpu", "device")) == "cpu":
        return None
    if data["cache"] == "off":
        raise UserError(
            "data.augment_on=device keeps decoded images on the device; set data.cache=ram or data.cache=disk"
        )
    if views in PAIRS:
        raise UserError(
            f"data.augment_on=device augments the images of one batch, but a training sample of method="
            f"{config['method']['name']} has a second image; set data.augment_on=cpu"
        )
    return partial(DeviceAugmentation, pipeline=pipeline, views=views, seed=config["seed"], compiled=config["compile"])


def build_mix(config: Config, method: type[Method], *, num_classes: int) -> Mix | None:
    """Build the mixing of training batches, or None for ``augment.mix=none``.

    Raises:
        UserError: a value is out of range, or a term of the method needs one class for each image.
    """
    augment = config["augment"]
    kind = check_choice("augment.mix", augment.get("mix", "none"), MIXES)  # stored runs may be older than the setting
    if kind == "none":
        return None
    weights = config["method"]["loss_weights"]
    hard = [term for term in method.hard_label_terms if weights.get(term)]
    if hard:
        raise UserError(
            f"augment.mix={kind} gives an image shares of two classes, and the term {hard[0]} of method="
            f"{config['method']['name']} needs one class for each image; set augment.mix=none, or "
            f"method.loss_weights.{hard[0]}=0"
        )
    return Mix(kind, alpha=augment["mix_alpha"], prob=augment["mix_prob"], num_classes=num_classes)


def find_method(config: Config) -> type[Method]:
    """Return the class of the method.

    Raises:
        UserError: it is no subclass of ``Method``, or has no ``training_step``.
    """
    target = config["method"]["_target_"]
    found = find_class(target, place="method")
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise UserError(
            f"method._target_={target} is no method; name a subclass of skinkd.methods.base.Method as method._target_"
        )
    if found.training_step is Method.training_step:
        raise UserError(f"{target} has no training_step; write def training_step(self, batch, batch_idx) in the class")
    return found


def build_network(config: Config, *, classes: Sequence[str]) -> Backbone:
    """Build the network that is trained; its initial weights follow from ``seed``."""
    L.seed_everything(config["seed"], verbose=False)
    network: Backbone = build(config["backbone"], place="backbone", num_classes=len(classes))
    _check_network(network, config, classes=len(classes))
    return network


def _check_network(network: Any, config: Config, *, classes: int) -> None:
    """Raise UserError unless a network of the user's own gives logits of the right shape for two images."""
    target, size = config["backbone"]["_target_"], config["backbone"]["image_size"]
    if not isinstance(network, nn.Module):
        raise UserError(
            f"backbone._target_={target} gives a {type(network).__name__}; name a subclass of torch.nn.Module"
        )
    if type(network).__module__.startswith("skinkd.models."):
        return
    with torch.no_grad():
        logits = network.eval()(torch.zeros(2, 3, size, size, dtype=torch.uint8))
    network.train()
    if not isinstance(logits, Tensor) or logits.shape != (2, classes):
        given = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(
            f"forward of {target} gives {given} for two images of {classes} classes; it must return the logits, (2, {classes})"
        )


def build_method(
    config: Config,
    data: SkinDataModule,
    network: Backbone,
    taught: tuple[Teacher, dict[str, Tensor]] | None = None,
) -> Method:
    """Build the training method of a network; the initial weights of its other modules follow from ``seed`` too.

    Args:
        config: the resolved configuration, with its formats chosen (:mod:`skinkd.build.formats`).
        data: gives the classes and their counts.
        network: as :func:`build_network` has just built it.
        taught: the teacher and the training-only weights of its checkpoint, for methods with a teacher.
    """
    if config["channels_last"]:
        network = network.to(memory_format=torch.channels_last)
    weights = class_weights(config["class_weights"], data.class_counts, beta=config["effective_number_beta"])
    arguments = {name: value for name, value in config["method"].items() if name not in ("name", "teacher")}
    if taught is not None:
        arguments["teacher"], arguments["teacher_state"] = taught
    if find_method(config).keeps_memory:
        arguments["image_labels"] = torch.tensor(data.train_labels)
    method = build(
        arguments,
        network,
        place="method",
        criterion=build_criterion(
            config["loss"]["name"],
            data.class_counts,
            weight=weights,
            focal_gamma=config["loss"]["focal_gamma"],
            logit_tau=config["loss"]["logit_tau"],
            label_smoothing=config["loss"]["label_smoothing"],
        ),
        optimizer=fused_on_cuda(build(config["optim"]["optimizer"], place="optim.optimizer"), config["trainer"]),
        schedule=build(config["optim"]["schedule"], place="optim.schedule"),
    )
    if "loss_weights" not in vars(method):
        raise UserError(
            f"__init__ of {config['method']['_target_']} does not call super().__init__(network, **protocol); call it first"
        )
    if taught is not None:  # after the method, which may read the teacher's weights
        _set_formats(taught[0], config["method"]["teacher"])
    if config["compile"]:
        network.features = torch.compile(network.features)  # type: ignore[method-assign]
        network.forward = torch.compile(network.forward)  # type: ignore[method-assign]
    return method


def _set_formats(teacher: Teacher, settings: Config) -> None:
    if settings["bf16"]:
        teacher.use_bf16()
    if settings.get("channels_last", False):  # stored runs may be older than the setting
        teacher.to(memory_format=torch.channels_last)
    if settings["compile"]:
        teacher.network.features = torch.compile(teacher.network.features)  # type: ignore[method-assign]


def fused_on_cuda(make: partial[Optimizer], trainer: Config) -> Callable[[Iterable[nn.Parameter]], Optimizer]:
    """Let PyTorch's SGD, Adam and AdamW update all parameters in one kernel if the parameters are on a CUDA device.

    ``+optim.optimizer.fused=false`` switches this off. It is also off with fp16 and gradient clipping: a fused optimizer
    divides the gradients by the loss scale in its step, and the clipping, which comes before, needs the divided gradients.

    Args:
        make: ``(parameters) -> Optimizer``, as the configuration has it.
        trainer: the settings ``trainer``.
    """
    scaled = trainer.get("precision") == "16-mixed"
    unscaled_before = scaled and (trainer["gradient_clip_val"] is not None or make.keywords.get("dampening"))
    if make.func not in (SGD, Adam, AdamW) or "fused" in make.keywords or unscaled_before:
        return make

    def build(parameters: Iterable[nn.Parameter]) -> Optimizer:
        listed = list(parameters)
        if not listed or any(parameter.device.type != "cuda" for parameter in listed):
            return make(listed)
        optimizer = make(listed, fused=True)
        if scaled and isinstance(optimizer, SGD):
            begin_momentum(optimizer)
        return optimizer

    return build


def begin_momentum(optimizer: SGD) -> None:
    """Begin the momentum at zero.

    PyTorch's fused SGD allocates it in the first step, and does not fill it if that step is left out because the gradients
    overflow in fp16; the second step would then add to whatever was in the memory.
    """
    for group in optimizer.param_groups:
        if group["momentum"] != 0:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
