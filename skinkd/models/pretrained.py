"""Building timm networks by name and filling them: downloads, files, stems for small images."""

import difflib
import logging
import re
import ssl
from collections.abc import Callable
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import huggingface_hub  # timm's own dependency
import timm
import torch
from torch import nn

from skinkd.errors import UserError, check_range

log = logging.getLogger(__name__)

# where the families that have one keep the max-pool after the stem convolution
STEM_POOLS = ("maxpool", "features.pool0", "stem.pool")

# options of timm that read files, or fetch them, and unpickle whatever these hold
_OF_FILES = (
    "pretrained",
    "checkpoint_path",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "pretrained_model_args",
    "cache_dir",
)

# what PyTorch and timm raise for an image that a layer cannot take
_SIZE_ERRORS = (AssertionError, RuntimeError, ValueError, ZeroDivisionError)

# activations whose gradient needs their input. In place they save nothing: autograd copies the input first
_INPUT_NEEDED = (nn.Hardtanh, nn.SiLU, nn.Hardswish)


def create_network(
    name: str,
    *,
    num_classes: int,
    image_size: int,
    pretrained: bool,
    small_input: bool,
    options: dict[str, Any],
) -> Any:
    """Build a timm network for square images of ``image_size``, with timm's pretrained weights if asked.

    The rules for the size: an image is at least as large as the stride of the network's last map, so that
    this map has a cell that is not mostly padding; patches leave out no border; and the network can run an
    image of this size. ``options`` are passed on to timm.

    Raises:
        UserError: an unknown name, tag or option, weights that cannot be fetched, a size that the network
            cannot take, or ``small_input`` for a network that has no strided convolution as its stem.
    """
    name = without_hub(name)
    check_name(name)
    check_range("image_size", image_size, low=1)
    for option in _OF_FILES:
        if option in options:
            raise UserError(
                f"backbone.options.{option} would read files that nobody checks; use backbone.weights or backbone.pretrained"
            )

    def build(*, pretrained: bool) -> Any:
        model = _create(name, num_classes=num_classes, image_size=image_size, pretrained=pretrained, **options)
        if small_input:
            use_small_stem(model, name=name)
        for module in model.modules():
            if isinstance(module, _INPUT_NEEDED):
                module.inplace = False
        return model

    try:
        model = build(pretrained=False)
        broken = _broken_rule(model, image_size)
        if not broken:
            _run_once(model, image_size)
    except TypeError as error:
        raise UserError(
            f"backbone.options={options} does not suit backbone.name={name} ({first_line(error)}); leave "
            "out what timm does not know for this network"
        ) from error
    except _SIZE_ERRORS as error:
        broken = first_line(error), f"give {_native_size(name)}, the size it was made for, or choose another network"
    if broken:
        reason, advice = broken
        raise UserError(f"image_size={image_size} does not suit backbone.name={name} ({reason}); {advice}")
    # the size is checked first, so that nothing is downloaded in vain
    return _fetched(name, lambda: build(pretrained=True)) if pretrained else model


def without_hub(name: str) -> str:
    """Return timm's own name of a network that is named by its repository on the hub: ``hf-hub:timm/resnet18.a1_in1k``.

    Raises:
        UserError: a repository that is not timm's.
    """
    found = re.fullmatch(r"hf[-_]hub:(?P<owner>[^/]*)/?(?P<name>.*)", name)
    if found is None:
        return name
    if found["owner"] != "timm":
        raise UserError(
            f"backbone.name={name} is a repository that is not timm's; download its weights, and give the name of the network "
            "with backbone.name=<name> and the file with backbone.weights=<file>"
        )
    return found["name"]


def check_name(name: str) -> None:
    """Raise UserError, naming the nearest, unless timm has this network (and the tag of weights, if any)."""
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models(), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise UserError(
            f"backbone.name={name} is no network of timm {timm.__version__}; {hint}`python -c 'import timm; "
            "print(timm.list_models())'` names them all"
        )
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        valid = f"one of {', '.join(sorted(tags))}" if tags else "no tag"
        raise UserError(f"backbone.name={name}: timm has no weights {tag!r} of {architecture}; give {valid}")


def use_small_stem(model: Any, *, name: str) -> None:
    """Give ``model``, in place, a 3×3 stride-1 first convolution and no max-pool after it.

    A first convolution of 3×3 keeps its weights. A larger one is replaced and starts at random (He, fan-out),
    and the log says so.

    Raises:
        UserError: the first layer is no convolution of stride 2 (patch embeddings and their like).
    """
    path = model.pretrained_cfg.get("first_conv")
    conv = model.get_submodule(path) if isinstance(path, str) else None
    if not isinstance(conv, nn.Conv2d) or conv.stride != (2, 2) or conv.kernel_size[0] < 3:
        raise UserError(
            f"backbone.small_input=true does not suit {name}, whose first layer is no stride-2 convolution; "
            "choose a ResNet, DenseNet, MobileNet, EfficientNet or RegNet, or set backbone.small_input=false"
        )
    if conv.kernel_size == (3, 3):
        conv.stride = (1, 1)
    else:
        parent, _, leaf = path.rpartition(".")
        smaller = nn.Conv2d(conv.in_channels, conv.out_channels, 3, padding=1, bias=conv.bias is not None)
        nn.init.kaiming_normal_(smaller.weight, mode="fan_out", nonlinearity="relu")
        setattr(model.get_submodule(parent), leaf, smaller)
        log.info("%s: the %s of small_input starts at random", name, path)
    model.small_input_factor = 2
    children = dict(model.named_modules())
    for pool in STEM_POOLS:
        if pool in children and not isinstance(children[pool], nn.Identity):
            parent, _, leaf = pool.rpartition(".")
            setattr(model.get_submodule(parent), leaf, nn.Identity())
            model.small_input_factor = 4


def _native_size(name: str) -> int:
    config = timm.get_pretrained_cfg(name)
    return int(config.input_size[-1]) if config is not None else 224


def _create(name: str, *, num_classes: int, image_size: int, pretrained: bool, **options: Any) -> Any:
    config = timm.get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size and image_size != config.input_size[-1]:
        try:
            return timm.create_model(
                name, pretrained=pretrained, num_classes=num_classes, img_size=image_size, **options
            )
        except TypeError:  # a grid that timm cannot change: _run_once raises
            pass
    return timm.create_model(name, pretrained=pretrained, num_classes=num_classes, **options)


def _fetched(name: str, build: Callable[[], Any]) -> Any:
    try:
        _reach_hub(name)
        return build()
    except Exception as error:  # sockets, HTTP, hub and cache errors share no class
        raise UserError(
            f"the pretrained weights of {name} cannot be fetched ({first_line(error)}); set "
            "backbone.pretrained=false to start at random, or backbone.weights=<file> to start from a file"
        ) from error


def _reach_hub(name: str) -> None:
    """Raise OSError if the hub is needed and cannot be reached. The hub's client would retry for a minute."""
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id or huggingface_hub.constants.HF_HUB_OFFLINE:
        return
    repository = config.hf_hub_id.split("@")[0]
    files = [config.hf_hub_filename] if config.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    if any(isinstance(huggingface_hub.try_to_load_from_cache(repository, file), str) for file in files):
        return
    try:
        urlopen(Request(huggingface_hub.constants.ENDPOINT, method="HEAD"), timeout=10).close()
    except HTTPError:  # an answer
        return
    except URLError as error:
        if not isinstance(error.reason, ssl.SSLError):  # the client has certificates of its own
            raise


def _broken_rule(model: Any, image_size: int) -> tuple[str, str] | None:
    """The rule of ``create_network`` that this size breaks, and the sizes that keep it; None if it keeps all rules."""
    stride = int(model.feature_info[-1]["reduction"]) // getattr(model, "small_input_factor", 1)
    if image_size < stride:
        return f"its last map has stride {stride}", f"give at least {stride}"
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if patch is not None and image_size % patch[0]:
        return f"its patches of {patch[0]} pixels would leave out the image's border", f"give a multiple of {patch[0]}"
    return None


@torch.no_grad()
def _run_once(model: Any, image_size: int) -> None:
    """Run a blank image through the network; it raises one of ``_SIZE_ERRORS`` if a layer cannot take the size."""
    model.eval()
    model(torch.zeros(1, 3, image_size, image_size))
    model.train()


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its class where it has none."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
