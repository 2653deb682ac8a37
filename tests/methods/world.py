"""Methods built from their own YAML around tiny networks, and one training step of each, without any data on disk.

A network of settings that came before is a copy of the first one; building it takes half the time of a step.
"""

import copy
import json
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import skinkd.conf
import torch
import yaml
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.data import DataLoader

from skinkd.batch import Batch
from skinkd.build.objects import build_method, build_network
from skinkd.config.resolve import resolved
from skinkd.methods.base import Method
from skinkd.models.heads import Projector
from skinkd.models.teacher import Teacher

METHOD_FILES = Path(skinkd.conf.__file__).parent / "method"

torch.set_num_threads(1)  # more only contend over networks this small
CLASSES, SIZE = 5, 64
TINY = ["data=synthetic", "data.image_size=64", "backbone.pretrained=false", "precision=fp32", "channels_last=false"]
SMALL_NETWORK = ["backbone=timm", "backbone.name=test_resnet.r160_in1k"]
SMALL_TEACHER = ["method.teacher.run.backbone.name=test_efficientnet.r160_in1k"]
MSKD_STUDENT = [
    "backbone.conv_branch=test_efficientnet.r160_in1k",
    "backbone.cnn_widths=[4,8]",
    "backbone.fusion_width=8",
]
MSKD_TEACHER = [
    "small_vit={patch_size:8,depth:2,embed_dim:16,num_heads:2,mlp_ratio:2,class_token:false,global_pool:avg}",
    "convmixer={patch_size:4,depth:2,dim:16,kernel_size:3}",
    "fusion_width=8",
]


def networks_of(name: str) -> list[str]:
    """Overrides that give a method tiny networks."""
    if name == "mskd":
        return MSKD_STUDENT + [f"method.teacher.run.backbone.{text}" for text in MSKD_TEACHER]
    if name == "mskd_teacher":
        return [f"backbone.{text}" for text in MSKD_TEACHER]
    taught = "/teacher@teacher" in (METHOD_FILES / f"{name}.yaml").read_text()
    has_teacher_network = taught and name not in ("tf_kd_self", "ssdkd_projection")  # whose teacher has the student's
    return SMALL_NETWORK + (SMALL_TEACHER if has_teacher_network else [])


PLAIN = (
    "method.loss_weights.",
    "+method.loss_weights.",
    "method.warmup_epochs=",
    "method.teacher.bf16=",
    "class_weights=",
    "seed=",
)
"""Settings that no other follows from: they are set in a configuration that is composed already, which takes no time."""


def config_of(name: str, *overrides: str) -> dict[str, Any]:
    config = copy.deepcopy(_composed(name, tuple(text for text in overrides if not text.startswith(PLAIN))))
    for key, value in (text.split("=") for text in overrides if text.startswith(PLAIN)):
        *groups, last = key.removeprefix("+").split(".")
        node = config
        for group in groups:
            node = node[group]
        assert key.startswith("+") or last in node, key
        node[last] = yaml.safe_load(value)
    return config


@cache
def _composed(name: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    with initialize_config_module(version_base="1.3", config_module="skinkd.conf"):
        settings = compose("train", overrides=[f"method={name}", *TINY, *networks_of(name), *overrides])
    config = resolved(settings)
    if "teacher" in config["method"]:
        config["method"]["teacher"]["bf16"] = False
    return config


def make_teacher(config: dict[str, Any], *, seed: int = 7) -> tuple[Teacher, dict[str, Tensor]]:
    """A teacher of random weights whose BatchNorm statistics are not those of the start, and a projector's weights."""
    backbone = config["method"]["teacher"]["run"].get("backbone", config["backbone"])
    network, state = _teacher_network(json.dumps(backbone), seed)
    torch.manual_seed(seed)  # whether the network was made before or not
    return Teacher(network, image_size=backbone["image_size"], bf16=False), copy.deepcopy(state)


@cache
def _teacher_network(backbone: str, seed: int) -> tuple[Any, dict[str, Tensor]]:
    """A network of these settings, which all teachers share, as they are frozen, and a projector's weights."""
    torch.manual_seed(seed)
    settings = json.loads(backbone)
    network = instantiate(settings, num_classes=CLASSES, _convert_="all")
    for _ in range(3):
        network(torch.rand(4, 3, settings["image_size"], settings["image_size"]))
    projector = Projector(network.feature_dim, hidden_width=6, out_width=4)
    return network, {f"projector.{key}": value for key, value in projector.state_dict().items()}


def make_method(name: str, *overrides: str, counts: tuple[int, ...] = (5, 4, 3, 2, 1)) -> Method:
    config = config_of(name, *overrides)
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    data = SimpleNamespace(classes=tuple("abcde"), class_counts=list(counts), train_labels=labels)
    taught = make_teacher(config) if "teacher" in config["method"] else None
    network = make_network(config, classes=data.classes)
    return build_method(config, data, network, taught)  # type: ignore[arg-type]


def make_network(config: dict[str, Any], *, classes: tuple[str, ...]) -> Any:
    """What ``build_network`` gives, and leaves of the random state."""
    key = json.dumps({name: config[name] for name in ("backbone", "seed")})
    network, state = _network(key, classes)
    L.seed_everything(config["seed"], verbose=False)
    torch.set_rng_state(state)
    return copy.deepcopy(network)


@cache
def _network(config: str, classes: tuple[str, ...]) -> tuple[Any, Tensor]:
    """A network for reading only, and the random state behind it."""
    return build_network(json.loads(config), classes=classes), torch.get_rng_state()


def make_batch(method: Method, *, size: int = 4, label: list[int] | None = None, seed: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    views = {"one": 1, "four_rotations": 4}.get(method.views, 2)
    image = torch.randint(0, 256, (size, views, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    labels = torch.tensor(label) if label is not None else torch.arange(size) % CLASSES
    return Batch(image=image, label=labels, index=torch.arange(size))


class KeepGradients(Callback):
    """Keeps every parameter's gradient of the last step, None where there is none."""

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.gradients = {
            name: None if parameter.grad is None else parameter.grad.clone()
            for name, parameter in pl_module.named_parameters()
            if parameter.requires_grad
        }


def one_step(
    method: Method, *batches: Batch, precision: Any = "32-true"
) -> tuple[dict[str, float], dict[str, Tensor | None]]:
    """A step of Lightning's own loop for each batch: the means of the unweighted terms and ``loss``, the last gradients."""
    keep = KeepGradients()
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        precision=precision,
        callbacks=[keep],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    method.train()
    trainer.fit(method, DataLoader(list(batches), batch_size=None))
    return method.terms.means(), keep.gradients


def passes(method: Any, image: Tensor) -> tuple[Any, Any]:
    """What the student, as training runs it, and the teacher, as scoring does, give for images; the method stays as it is."""
    student = copy.deepcopy(method.network).train()
    with torch.no_grad():
        found = student.features(image)
        taught = copy.deepcopy(method.teacher.network).eval().features(image)
    return found, taught
