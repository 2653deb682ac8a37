"""Any timm network as a backbone: stages, pooled features and logits from one pass."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from skinkd.errors import UserError, check_choice, check_range
from skinkd.models.pretrained import create_network, first_line
from skinkd.models.weights import fit_state, read_state

STAGES = 4


class Features(NamedTuple):
    """Features of a batch, from one pass of a network.

    Attributes:
        stages: feature maps (B, C_k, H_k, W_k), shallow to deep. If the head pools a map, the last stage is that
            map.
        pooled: input of the classifier, (B, D).
        logits: (B, K).
    """

    stages: tuple[Tensor, ...]
    pooled: Tensor
    logits: Tensor


class Normalise(nn.Module):
    """Normalise stored images for a network: ``(image - mean) / std`` of RGB in [0, 1].

    The statistics are timm's for the network. The state dict leaves them out, because the name implies them.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W), uint8 or float in [0, 1], to the same shape in the network's own dtype.

        Raises:
            TypeError: another dtype.
        """
        if image.dtype == torch.uint8:
            image = image.to(self.mean.dtype) / 255
        elif not image.is_floating_point():
            raise TypeError(f"images are uint8 or float in [0, 1], not {image.dtype}")
        return (image.to(self.mean.dtype) - self.mean) / self.std


def mlp_head(in_features: int, num_classes: int, *, widths: Sequence[int]) -> nn.Sequential:
    """Linear to ``widths[0]``, then Linear–BN–ReLU for each further width and Linear, these without biases.

    With widths 128, 128 this is the head of the code of TSS-KD (Liu et al., Neurocomputing 638:130115, 2025).

    Raises:
        UserError: fewer than two widths, or one below 1.
    """
    if len(widths) < 2 or min(widths) < 1:
        raise UserError(
            f"backbone.head_widths={list(widths)} does not suit backbone.head=mlp; give at least two "
            "positive widths, e.g. [128,128]"
        )
    layers: list[nn.Module] = [nn.Linear(in_features, widths[0])]
    for before, width in pairwise(widths):
        layers += [nn.Linear(before, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], num_classes, bias=False))


def choose_stages(strides: Sequence[int]) -> list[int]:
    """Choose the stages among a network's intermediate maps, by the stride of each map, shallow to deep.

    The stages are the last map of each stride, or the deepest four of them. A network with a single stride (ViT,
    ConvMixer) has four evenly spaced blocks as stages, up to the last block, or all blocks if it has fewer.
    """
    if len(set(strides)) == 1:
        count = min(STAGES, len(strides))
        return [len(strides) * (k + 1) // count - 1 for k in range(count)]
    last = {stride: index for index, stride in enumerate(strides)}
    return sorted(last.values())[-STAGES:]


class Backbone(nn.Module):
    """A timm classification network with its normalisation inside.

    Images are (B, 3, H, W), uint8 or float in [0, 1], and need no preparation.

    Args:
        name: timm's name of the network, with a tag of pretrained weights or without.
        num_classes: K.
        image_size: height and width of the images; networks with a fixed grid (ViT, Swin) are built for it.
        pretrained: start from timm's weights, from its cache or downloaded.
        weights: file to start from instead (nothing is downloaded then): a state dict in timm's naming, or
            a checkpoint of a run. A classifier of another shape stays at its random start, and so does the
            stem that ``small_input`` replaces; anything else must fit.
        small_input: a stem for images of 28–64 px: the first convolution becomes 3×3 with stride 1, and a
            max-pool after it is left out (as in the code of TSS-KD).
        head: ``linear`` (timm's own classifier) or ``mlp`` (see ``mlp_head``).
        head_widths: widths of the ``mlp`` head; unused by ``linear``.
        drop_rate: probability of dropout on the pooled features, before the head.
        options: further arguments of timm for this network, such as ``drop_path_rate``.

    Attributes:
        model: the timm network.
        num_classes: K.
        feature_dim: D, the width of the pooled features.
        stage_shapes: (C, H, W) of each stage at ``image_size``.

    Raises:
        UserError: a setting is wrong; the sentence names it and says how to fix it.
    """

    model: Any  # timm networks have more methods than nn.Module states

    def __init__(
        self,
        *,
        name: str,
        num_classes: int,
        image_size: int,
        pretrained: bool,
        weights: str | None,
        small_input: bool,
        head: str,
        head_widths: Sequence[int],
        drop_rate: float,
        options: Mapping[str, Any],
    ) -> None:
        super().__init__()
        check_choice("backbone.head", head, ("linear", "mlp"))
        check_range("num_classes", num_classes, low=1)
        if not 0 <= drop_rate < 1:
            raise UserError(f"backbone.drop_rate={drop_rate} is out of range; it must be at least 0 and below 1")
        self.name = name
        self.num_classes = num_classes
        self.model = create_network(
            name,
            num_classes=num_classes if head == "linear" else 0,
            image_size=image_size,
            pretrained=pretrained and weights is None,
            small_input=small_input,
            options=dict(options),
        )
        config = self.model.pretrained_cfg
        self.normalise = Normalise(mean=config["mean"], std=config["std"])
        self.dropout = nn.Dropout(drop_rate)
        widths = tuple(head_widths)
        self.head = (
            nn.Identity() if head == "linear" else mlp_head(self.model.head_hidden_size, num_classes, widths=widths)
        )
        self._stages: list[int] | None = None
        self._measure(image_size)
        if weights is not None:
            fit_state(self, read_state(weights), file=weights, free=self._free_keys(small_input))

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, K) of images (B, 3, H, W)."""
        return self.classify(self.pool(image))

    def pool(self, image: Tensor) -> Tensor:
        """Pooled features (B, D) of images (B, 3, H, W)."""
        return self.model.forward_head(self.model.forward_features(self.normalise(image)), pre_logits=True)

    def features(self, image: Tensor) -> Features:
        """Stages, pooled features and logits of images (B, 3, H, W), in one pass."""
        final, maps = self.model.forward_intermediates(self.normalise(image), indices=self._stages, output_fmt="NCHW")
        if final.ndim == 4:
            # after a last convolution or norm (MobileNet, EfficientNet, Swin) this is the map that is pooled
            channels_last = getattr(self.model, "output_fmt", "NCHW") == "NHWC"
            maps[-1] = final.permute(0, 3, 1, 2) if channels_last else final
        pooled = self.model.forward_head(final, pre_logits=True)
        return Features(stages=tuple(maps), pooled=pooled, logits=self.classify(pooled))

    def classify(self, pooled: Tensor) -> Tensor:
        """Logits (B, K) of pooled features (B, D)."""
        pooled = self.dropout(pooled)
        if not isinstance(self.head, nn.Identity):
            return self.head(pooled)
        classifier = self.model.get_classifier()
        if isinstance(classifier, nn.Conv2d):  # BiT's classifier is a 1×1 convolution
            return classifier(pooled[:, :, None, None]).flatten(1)
        return classifier(pooled)

    @torch.no_grad()
    def _measure(self, image_size: int) -> None:
        """Choose the stages and measure all shapes with one blank image, in eval mode, which changes no statistics."""
        if not isinstance(self.model.get_classifier(), nn.Module):
            raise self._unusable("it has several classifiers")
        self.eval()
        image = torch.zeros(1, 3, image_size, image_size)
        try:
            found = self.features(image)
            strides = [info["reduction"] for info in self.model.feature_info]
            if len(strides) != len(found.stages):  # timm's table of this network lacks maps
                strides = [image_size // stage.shape[-1] for stage in found.stages]
            one_pass = torch.allclose(found.logits, self(image), rtol=1e-3, atol=1e-4)
        except (AttributeError, TypeError, NotImplementedError, KeyError, RuntimeError) as error:
            raise self._unusable(first_line(error)) from error
        if found.pooled.ndim != 2 or found.logits.shape != (1, self.num_classes) or not one_pass:
            raise self._unusable("its classifier does not follow its pooled features")
        self._stages = choose_stages(strides)
        self.stage_shapes = tuple(
            (stage.shape[1], stage.shape[2], stage.shape[3]) for stage in (found.stages[k] for k in self._stages)
        )
        self.feature_dim = found.pooled.shape[1]
        self.train()

    @property
    def stage_modules(self) -> tuple[Any, ...]:
        """The module of ``model`` that ends each stage, from timm's table; empty for a network whose table lacks maps."""
        named, info = dict(self.model.named_modules()), self.model.feature_info
        chosen = self._stages or []
        names = [info[k]["module"] for k in chosen if k < len(info)]
        found = tuple(named[name] for name in names if name in named)
        return found if len(found) == len(chosen) else ()

    def _unusable(self, reason: str) -> UserError:
        return UserError(
            f"backbone.name={self.name} cannot be a backbone, since timm gives no stages, pooled features "
            f"and logits for it in one pass ({reason}); choose another network"
        )

    def _free_keys(self, small_input: bool) -> tuple[str, ...]:
        """Prefixes of the parameters that may stay at their random start when a file does not fit them."""
        config = self.model.pretrained_cfg
        classifier = config.get("classifier") or ()
        names = [classifier] if isinstance(classifier, str) else list(classifier)
        return (
            "head.",
            *(f"model.{name}." for name in names),
            *((f"model.{config['first_conv']}.",) if small_input else ()),
        )
