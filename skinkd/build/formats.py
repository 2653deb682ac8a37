"""Chooses the number format and the memory layout where the configuration says ``auto``.

The choice depends on the network and on the device. The rules follow the tables of docs/performance.md, which
``benchmarks/formats.py`` makes.
"""

from typing import Any, NamedTuple

import torch
from torch import nn

from skinkd.config.identity import FORMATS, get_setting, with_derived
from skinkd.errors import check_choice

AUTO = "auto"
Config = dict[str, Any]


class Choice(NamedTuple):
    """The fastest formats of a network on a device.

    Attributes:
        train_bf16: whether its training steps run in bfloat16 autocast.
        pass_bf16: whether its passes without gradients do, as a teacher's.
        channels_last: whether its weights and maps lie in the channels-last layout.
    """

    train_bf16: bool
    pass_bf16: bool
    channels_last: bool


class Device(NamedTuple):
    """A device to train on.

    Attributes:
        kind: ``cpu``, ``cuda`` or ``mps``.
        multiplies_bf16: whether it has units that multiply matrices of bfloat16: AMX, or those of GPUs since Ampere.
    """

    kind: str
    multiplies_bf16: bool


def device_of(trainer: Config) -> Device:
    """Return the device on which the settings ``trainer`` train."""
    kind = trainer["accelerator"]
    if kind in ("gpu", "auto"):
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if kind == "cuda":
        return Device(kind, multiplies_bf16=torch.cuda.is_bf16_supported(including_emulation=False))
    # every processor that has AMX multiplies bfloat16. PyTorch has no public question for it
    return Device(kind, multiplies_bf16=kind == "cpu" and torch.cpu._is_amx_tile_supported())


def fastest(network: nn.Module, device: Device) -> Choice:
    """Return the fastest formats of a network on a device."""
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    # a transformer has one convolution, which cuts the image into patches
    convolves = len(convolutions) > 1
    depthwise = any(convolution.groups > 1 for convolution in convolutions)
    bf16 = device.multiplies_bf16
    return Choice(
        train_bf16=bf16 and (device.kind == "cuda" or (convolves and not depthwise)),
        pass_bf16=bf16,
        channels_last=convolves and device.kind in ("cpu", "cuda"),
    )


def check_formats(config: Config) -> None:
    """Raise UserError for a format that is neither ``auto`` nor a value."""
    for name in FORMATS[1:]:  # the words of trainer.precision are checked with the other arguments of the trainer
        value = get_setting(config, name)
        if not (value is None or isinstance(value, bool)):
            check_choice(name, value, (AUTO, "true", "false"))


def plain(config: Config) -> Config:
    """Return the configuration with ``precision=fp32`` in place of ``auto``, to be checked before there is a network."""
    trainer = config["trainer"]
    return config if trainer["precision"] != AUTO else config | {"trainer": trainer | {"precision": "32-true"}}


def with_formats(config: Config, network: nn.Module, teacher: nn.Module | None, begun: Config | None) -> Config:
    """Return the configuration with a choice in place of each ``auto``; ``given`` keeps the ``auto``.

    Args:
        config: the resolved configuration.
        network: the network that is trained.
        teacher: the teacher's network, for methods with a teacher.
        begun: the configuration that the run stored when it began, if it has begun. Its choices stay, on any machine.
    """
    asked = [name for name in FORMATS if get_setting(config, name) == AUTO]
    if begun is not None:
        return with_derived(config, {name: get_setting(begun, name) for name in asked})
    if not asked:
        return config
    device = device_of(config["trainer"])
    student = fastest(network, device)
    taught = student if teacher is None else fastest(teacher, device)
    # channels_last=false asks for the plain layout, in which bfloat16 gains less: training then stays in float32
    train_bf16 = student.train_bf16 and config["channels_last"] is not False
    fast = {
        "trainer.precision": "bf16-mixed" if train_bf16 else "32-true",
        "channels_last": student.channels_last,
        "method.teacher.bf16": taught.pass_bf16,
        "method.teacher.channels_last": taught.channels_last,
    }
    return with_derived(config, {name: fast[name] for name in asked})


def formats_in_words(config: Config) -> list[str]:
    """Return a line for each format of a run, with ``auto`` where skinkd has chosen it."""
    given = config.get("given") or {}
    values = {name: get_setting(config, name) for name in FORMATS}
    return [
        f"{name} {str(value).lower()}{' (auto)' if given.get(name) == AUTO else ''}"
        for name, value in values.items()
        if value is not None
    ]


def formats_sentence(config: Config) -> str:
    """Return what skinkd has chosen for the training of the network, and how to choose otherwise; "" for plain formats."""
    given, words = config.get("given") or {}, []
    if given.get("trainer.precision") == AUTO and config["trainer"]["precision"] == "bf16-mixed":
        words.append("bfloat16")
    if given.get("channels_last") == AUTO and config["channels_last"]:
        words.append("channels-last")
    if not words:
        return ""
    chosen = " and ".join(words)
    return f"training in {chosen}, chosen for this network; precision=fp32 channels_last=false trains in neither"
