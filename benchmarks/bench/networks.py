"""Methods and networks from the configuration of a command, with random weights, and batches of random images for them."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from torch import Tensor

import skinkd.config.cli  # noqa: F401  (registers the launcher that the configuration names)
from skinkd.batch import Batch
from skinkd.build.formats import with_formats
from skinkd.build.objects import build_method, build_network
from skinkd.config.resolve import resolved
from skinkd.methods.base import Method
from skinkd.models.heads import Projector
from skinkd.models.teacher import Teacher

from .machine import ROOT

Config = dict[str, Any]

CLASSES = 7
IMAGES = 7000  # of a training part, which methods with a memory of each image need: about as many as HAM10000's
AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
VIEWS = {"one": 1, "four_rotations": 4}
"""Images of a training sample; all other kinds of views have two."""


def all_methods() -> list[str]:
    """The choices of ``method``: those of the four papers first, and the slowest at the end."""
    first, last = ["supervised", "swskd", "tsskd", "ssdkd"], ["mskd", "reviewkd", "mskd_teacher"]
    found = {path.stem for path in (ROOT / "conf" / "method").glob("*.yaml")}
    return [*first, *sorted(found - {*first, *last}), *last]


def configuration(*words: str) -> Config:
    """The resolved configuration of ``python -m skinkd.train`` with these words."""
    with initialize_config_module(version_base="1.3", config_module="skinkd.conf"):
        return resolved(compose("train", overrides=["logger=none", "backbone.pretrained=false", *words]))


def network_of(config: Config) -> Any:
    """The configured network, in the layout of the configuration."""
    torch.manual_seed(0)
    network = instantiate(config["backbone"], num_classes=CLASSES, _convert_="all")
    config = with_formats(config, network, teacher=None, begun=None)
    return network.to(memory_format=torch.channels_last) if config["channels_last"] else network


def teacher_of(config: Config, *, classes: int) -> tuple[Teacher, dict[str, Tensor]] | None:
    """The configured teacher and a self-supervision head, or None for a method without a teacher."""
    if "teacher" not in config["method"]:
        return None
    backbone = config["method"]["teacher"]["run"].get("backbone", config["backbone"])
    torch.manual_seed(1)
    network = instantiate(backbone, num_classes=classes, _convert_="all")
    projector = Projector(network.feature_dim, hidden_width=network.feature_dim, out_width=network.feature_dim)
    state = {f"projector.{name}": value for name, value in projector.state_dict().items()}
    return Teacher(network, image_size=backbone["image_size"], bf16=False), state


def method_of(config: Config, device: torch.device, data: Any = None) -> tuple[Any, Config]:
    """The configured method as a run builds it, in training mode on a device; and the configuration with the run's formats.

    ``data`` gives classes, counts and labels; by default those of a made-up training part.
    """
    labels = torch.arange(IMAGES) % CLASSES
    data = data or SimpleNamespace(
        classes=tuple("abcdefg"), class_counts=labels.bincount().tolist(), train_labels=labels.numpy()
    )
    taught = teacher_of(config, classes=len(data.classes))
    network = build_network(config, classes=data.classes)
    config = with_formats(config, network, teacher=taught and taught[0], begun=None)
    method = build_method(config, data, network, taught)
    if taught is not None:
        taught[0].to(device)
    return method.to(device).train(), config


@contextmanager
def alone(method: Any) -> Iterator[None]:
    """Let steps of a method run outside its trainer: a stand-in tells what steps ask the trainer for, and nothing is logged."""
    trainer = method._trainer
    method._trainer = SimpleNamespace(
        global_step=IMAGES, current_epoch=1, max_epochs=2, estimated_stepping_batches=IMAGES, log_every_n_steps=50
    )
    method.log_dict = lambda *_: None
    try:
        yield
    finally:
        method._trainer = trainer
        del method.log_dict


def batch_of(method: Method | type[Method], config: Config, device: torch.device) -> Batch:
    """A training batch of random bytes, as many images as ``data.batch_size``."""
    count, size = config["data"]["batch_size"], config["data"]["image_size"]
    generator = torch.Generator().manual_seed(0)
    shape = (count, VIEWS.get(method.views, 2), 3, size, size)
    image = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    batch = Batch(image, torch.randint(CLASSES, (count,), generator=generator), torch.arange(count))
    return Batch(*(part.to(device) for part in batch))


def precision_of(config: Config, device: torch.device) -> AbstractContextManager[Any]:
    """The number format in which Lightning would run the step."""
    kind = AUTOCAST.get(config["trainer"]["precision"])
    return torch.autocast(device.type, dtype=kind, cache_enabled=False) if kind else nullcontext()


def formats(config: Config) -> str:
    """Number format and layout in words."""
    words = [str(config["trainer"]["precision"]), *(["channels-last"] if config["channels_last"] else [])]
    if config["method"].get("teacher", {}).get("bf16"):
        words.append("teacher in bf16")
    return ", ".join(words)


def data_words(folder: Path, scratch: Path, *, quick: bool) -> Sequence[str]:
    """Words that choose HAM10000 if ``folder`` has it, else drawn images; runs and caches go to ``scratch``."""
    where = [f"paths.output_dir={scratch}"]
    if (folder / "ham10000").is_dir() and not quick:
        return ["data=ham10000", "data.image_size=64", *where]
    return ["data=synthetic", "data.image_size=64", *(["data.table.images=120"] if quick else []), *where]
