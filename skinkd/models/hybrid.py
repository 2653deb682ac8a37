"""The hybrid networks of MSKD: two branches, exits along the way, one classifier on both.

Pavel et al., Scientific Reports 15:39792 (2025), and its Keras code; where the sources leave a layer open, it is ours.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import register_model
from timm.models.convmixer import ConvMixer
from torch import Tensor, nn

from skinkd.errors import UserError, check_choice
from skinkd.models.backbone import Backbone, Features, Normalise
from skinkd.models.weights import fit_state, read_state


class HybridFeatures(NamedTuple):
    """Features of a batch, from one pass of a hybrid network: ``Features`` and the exits.

    Attributes:
        stages: feature maps (B, C_k, H_k, W_k) of the convolutional branch, shallow to deep.
        pooled: input of the final classifier, (B, D).
        logits: of the final classifier, (B, K).
        exits: logits (B, K) by the exit's name, in the order of ``exit_names``.
    """

    stages: tuple[Tensor, ...]
    pooled: Tensor
    logits: Tensor
    exits: dict[str, Tensor]


@register_model
def convmixer(pretrained: bool = False, **options: Any) -> ConvMixer:
    """timm's ConvMixer in any size; timm knows it by this name, so that ``Backbone`` does.

    timm's own entries fix their sizes. ``options`` are ``dim``, ``depth``, ``kernel_size``, ``patch_size``, and
    those that ``timm.create_model`` adds.

    Raises:
        RuntimeError: pretrained weights are asked for.
    """
    if pretrained:
        raise RuntimeError("there are none")
    factory = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
    model: Any = ConvMixer(**{key: value for key, value in options.items() if key not in factory})
    statistics = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
    model.pretrained_cfg = statistics | {"first_conv": "stem.0", "classifier": "head"}
    return model


class Exit(nn.Sequential):
    """Logits (B, K) of a map (B, C, H, W): global average pooling and a linear layer."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))


def fusion_head(in_features: int, num_classes: int, *, width: int, drop_rate: float) -> nn.Sequential:
    """Linear–ReLU–Dropout–Linear."""
    return nn.Sequential(nn.Linear(in_features, width), nn.ReLU(), nn.Dropout(drop_rate), nn.Linear(width, num_classes))


class HybridTeacher(nn.Module):
    """An attention and a convolutional branch, an exit after each stage of each, and a combined classifier.

    The published branches, a small ViT and a ConvMixer (the paper's text says ConvNeXt), are timm's networks
    with other sizes; any timm network can take their place. Up to four blocks are a stage each; deeper
    networks have four stages (``choose_stages``).

    Args:
        name: for messages and the run's name.
        num_classes: K.
        image_size: height and width of the images.
        attention_branch: ``small_vit``, or timm's name of a network.
        conv_branch: ``convmixer``, or timm's name of a network.
        small_vit: sizes of the small ViT, arguments of timm's ``VisionTransformer``.
        convmixer: sizes of the ConvMixer, arguments of timm's ``ConvMixer``.
        pretrained: start branches given by timm's name from timm's weights; the two others have none.
        weights: a run's checkpoint to start from, or None.
        conv_weights: a file to start the convolutional branch from, as ``weights`` of ``Backbone``, or None; unused with
            ``weights``. Networks stored before this argument came have none.
        fusion_width: width of the combined classifier.
        drop_rate: dropout in the combined classifier.

    Attributes:
        exit_names: ``attention_exit_1`` …, ``attention_branch``, ``conv_exit_1`` …, ``conv_branch``.
        feature_dim: D, the widths of both branches' pooled features together.
        stage_shapes: (C, H, W) of the convolutional branch's stages.
    """

    def __init__(
        self,
        *,
        name: str,
        num_classes: int,
        image_size: int,
        attention_branch: str,
        conv_branch: str,
        small_vit: Mapping[str, Any],
        convmixer: Mapping[str, Any],
        pretrained: bool,
        weights: str | None,
        fusion_width: int,
        drop_rate: float,
        conv_weights: str | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.num_classes = num_classes

        def branch(
            chosen: str, own_name: str, base: str, sizes: Mapping[str, Any], file: str | None = None
        ) -> Backbone:
            own = chosen == own_name
            return plain_backbone(
                base if own else chosen,
                num_classes=num_classes,
                image_size=image_size,
                pretrained=pretrained and weights is None and not own,
                weights=file if weights is None else None,
                options=sizes if own else {},
            )

        self.attention = branch(attention_branch, "small_vit", "vit_tiny_patch16_224", small_vit)
        self.conv = branch(conv_branch, "convmixer", "convmixer", convmixer, conv_weights)
        self.attention_exits = nn.ModuleList(Exit(c, num_classes) for c, *_ in self.attention.stage_shapes)
        self.conv_exits = nn.ModuleList(Exit(c, num_classes) for c, *_ in self.conv.stage_shapes)
        self.feature_dim = self.attention.feature_dim + self.conv.feature_dim
        self.stage_shapes = self.conv.stage_shapes
        self.classifier = fusion_head(self.feature_dim, num_classes, width=fusion_width, drop_rate=drop_rate)
        self.exit_names = (
            *(f"attention_exit_{k}" for k in range(1, len(self.attention_exits) + 1)),
            "attention_branch",
            *(f"conv_exit_{k}" for k in range(1, len(self.conv_exits) + 1)),
            "conv_branch",
        )
        if weights is not None:
            fit_state(self, read_state(weights), file=weights, free=())

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, K) of the combined classifier, of images (B, 3, H, W)."""
        return self.classifier(torch.cat([self.attention.pool(image), self.conv.pool(image)], dim=1))

    def features(self, image: Tensor) -> HybridFeatures:
        """Stages, pooled features, logits and exits of images (B, 3, H, W), in one pass."""
        attention, conv = self.attention.features(image), self.conv.features(image)
        exits = [
            *(head(stage) for head, stage in zip(self.attention_exits, attention.stages, strict=True)),
            attention.logits,
            *(head(stage) for head, stage in zip(self.conv_exits, conv.stages, strict=True)),
            conv.logits,
        ]
        pooled = torch.cat([attention.pooled, conv.pooled], dim=1)
        return HybridFeatures(
            stages=conv.stages,
            pooled=pooled,
            logits=self.classifier(pooled),
            exits=dict(zip(self.exit_names, exits, strict=True)),
        )

    def freeze_exits(self) -> None:
        """Freeze all exits, for losses on the combined classifier alone, which does not depend on the exits."""
        classifiers = (branch.model.get_classifier() for branch in (self.attention, self.conv))
        for module in (self.attention_exits, self.conv_exits, *classifiers):
            module.requires_grad_(False)


class HybridStudent(nn.Module):
    """A small CNN (exit 1) and a timm branch (exit 2), fused into the final classifier.

    Exit 1: 3×3 convolution–BN–ReLU–max-pool for each width, then ``Exit``. Exit 2: the branch's pooled
    features, BN, and the branch's own classifier.

    Fusion ``logits`` (the code's): the final classifier sees the two exits' probabilities, concatenated.
    Fusion ``features`` (ours, after the paper's words "layer fusion"): it sees the average-pooled maps of
    every block of the CNN and of every stage of the branch but the last, and the branch's normed pooled
    features.

    Args:
        name: for messages and the run's name.
        num_classes: K.
        image_size: height and width of the images.
        cnn_widths: channels of the CNN's convolutions.
        conv_branch: timm's name of the second branch.
        fusion: ``logits`` or ``features``.
        pretrained: start the timm branch from timm's weights.
        weights: a run's checkpoint to start from, or None.
        conv_weights: a file to start the convolutional branch from, as ``weights`` of ``Backbone``, or None; unused with
            ``weights``. Networks stored before this argument came have none.
        fusion_width: width of the final classifier.
        drop_rate: dropout in the final classifier.

    Attributes:
        exit_names: ``exit_1``, ``exit_2``.
        feature_dim: D, the width of what the final classifier sees.
        stage_shapes: (C, H, W) of the timm branch's stages.
    """

    exit_names = ("exit_1", "exit_2")

    def __init__(
        self,
        *,
        name: str,
        num_classes: int,
        image_size: int,
        cnn_widths: Sequence[int],
        conv_branch: str,
        fusion: str,
        pretrained: bool,
        weights: str | None,
        fusion_width: int,
        drop_rate: float,
        conv_weights: str | None = None,
    ) -> None:
        super().__init__()
        self.fusion = check_choice("backbone.fusion", fusion, ("logits", "features"))
        self.name = name
        self.num_classes = num_classes
        widths = tuple(cnn_widths)
        if not widths or min(widths) < 1 or image_size < 2 ** len(widths):
            raise UserError(
                f"backbone.cnn_widths={list(widths)} does not suit image_size={image_size}; give one to "
                f"{image_size.bit_length() - 1} positive widths, each of which halves the image, e.g. [32,64]"
            )
        self.conv = plain_backbone(
            conv_branch,
            num_classes=num_classes,
            image_size=image_size,
            pretrained=pretrained and weights is None,
            weights=conv_weights if weights is None else None,
            options={},
        )
        self.normalise: Normalise = self.conv.normalise
        self.cnn = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.MaxPool2d(2),
            )
            for before, width in zip((3, *widths), widths, strict=False)
        )
        self.exit_1 = Exit(widths[-1], num_classes)
        self.conv_norm = nn.BatchNorm1d(self.conv.feature_dim)
        self.stage_shapes = self.conv.stage_shapes
        shallow = sum(widths) + sum(channels for channels, *_ in self.stage_shapes[:-1])
        self.feature_dim = 2 * num_classes if fusion == "logits" else shallow + self.conv.feature_dim
        self.classifier = fusion_head(self.feature_dim, num_classes, width=fusion_width, drop_rate=drop_rate)
        if weights is not None:
            fit_state(self, read_state(weights), file=weights, free=())

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, K) of the final classifier, of images (B, 3, H, W)."""
        return self.features(image).logits

    def features(self, image: Tensor) -> HybridFeatures:
        """Stages, pooled features, logits and exits of images (B, 3, H, W), in one pass."""
        maps = [self.normalise(image)]
        for block in self.cnn:
            maps.append(block(maps[-1]))
        return self.fuse(maps, self.conv.features(image))

    def fuse(self, maps: Sequence[Tensor], conv: Features) -> HybridFeatures:
        """The exits and the final classifier, of the CNN's maps (its input first) and the branch's features."""
        normed = self.conv_norm(conv.pooled)
        exits = {"exit_1": self.exit_1(maps[-1]), "exit_2": self.conv.classify(normed)}
        if self.fusion == "logits":
            pooled = torch.cat([logits.float().softmax(dim=1) for logits in exits.values()], dim=1)
        else:
            shallow = [map.mean(dim=(2, 3)) for map in (*maps[1:], *conv.stages[:-1])]
            pooled = torch.cat([*shallow, normed], dim=1)
        return HybridFeatures(stages=conv.stages, pooled=pooled, logits=self.classifier(pooled), exits=exits)

    def freeze_exits(self) -> None:
        """Freeze the exits that the final classifier does not depend on, for losses on that classifier alone."""
        if self.fusion == "features":
            self.exit_1.requires_grad_(False)
            self.conv.model.get_classifier().requires_grad_(False)


def plain_backbone(
    name: str,
    *,
    num_classes: int,
    image_size: int,
    pretrained: bool,
    weights: str | None,
    options: Mapping[str, Any],
) -> Backbone:
    """A branch: a timm network with its own stem and linear classifier, without dropout."""
    return Backbone(
        name=name,
        num_classes=num_classes,
        image_size=image_size,
        pretrained=pretrained,
        weights=weights,
        small_input=False,
        head="linear",
        head_widths=(),
        drop_rate=0.0,
        options=options,
    )
