"""Folds batch normalisation into the convolution before it, also timm's BatchNormAct2d.

In eval mode a batch normalisation multiplies and shifts each channel by constants. A convolution before it can do this with
other weights and another bias (Jacob et al., CVPR 2018, section 3.2).
"""

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Network = TypeVar("Network", bound=nn.Module)

CONVOLUTIONS = ("aten::convolution",)
NORMS = ("aten::native_batch_norm", "aten::cudnn_batch_norm", "aten::_native_batch_norm_legit_no_training")


class CallRecorder(TorchDispatchMode):
    """Records the convolutions and batch normalisations of a forward pass, and how often each tensor is read.

    Attributes:
        convolved: the weight of the convolution that made a tensor, by the tensor's id.
        normed: (input, running mean) of each batch normalisation.
        reads: number of operations that read a tensor, by the tensor's id.
    """

    def __init__(self) -> None:
        super().__init__()
        self.convolved: dict[int, Tensor] = {}
        self.normed: list[tuple[Tensor, Tensor]] = []
        self.reads: Counter[int] = Counter()
        self._alive: list[Any] = []  # a tensor that is gone could leave its id to another

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and record it."""
        result = func(*args, **(kwargs or {}))
        self.reads.update({id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)})
        name = func.name().partition(".")[0]
        if name in CONVOLUTIONS:
            self.convolved[id(result)] = args[1]
        elif name in NORMS:
            self.normed.append((args[0], args[3]))
        self._alive += [args, result]
        return result


def record_calls(run: Callable[[Tensor], Any], image: Tensor) -> CallRecorder:
    """Record a pass of a network. What it returns counts as read."""
    with torch.no_grad(), CallRecorder() as recorder:
        returned = run(image)
    recorder.reads.update({id(leaf) for leaf in tree_leaves(returned)})
    return recorder


def fold_batch_norms(network: Network, image: Tensor, *, run: str = "forward") -> Network:
    """Return a copy of the network in which no batch normalisation follows a convolution.

    A batch normalisation is folded if it reads the output of a convolution that nothing else reads, and if both modules are
    called once. What a BatchNormAct2d does after its normalisation stays. Other batch normalisations stay.

    Args:
        network: in eval mode; it is not changed.
        image: a batch for the network.
        run: the network's method that the copy will run: ``forward``, or ``features`` where its maps are read too.
    """
    network = copy.deepcopy(network)
    recorder = record_calls(getattr(network, run), image)
    names = {id(module): name for name, module in network.named_modules()}
    by_weight = {id(module.weight): module for module in network.modules() if isinstance(module, nn.Conv2d)}
    norms = (module for module in network.modules() if isinstance(module, _BatchNorm))
    by_mean = {id(norm.running_mean): norm for norm in norms if norm.running_mean is not None}
    for entering, mean in recorder.normed:
        weight = recorder.convolved.get(id(entering))
        once = recorder.reads[id(entering)] == recorder.reads[id(mean)] == recorder.reads[id(weight)] == 1
        if weight is None or not once or id(weight) not in by_weight or id(mean) not in by_mean:
            continue
        convolution, norm = by_weight[id(weight)], by_mean[id(mean)]
        network.set_submodule(names[id(convolution)], fuse_conv_bn_eval(convolution, norm))
        network.set_submodule(names[id(norm)], _after_norm(norm))
    return network


def _after_norm(norm: Any) -> nn.Module:
    """Return what a module does after its normalisation: nothing, or the activation of timm's BatchNormAct2d."""
    activation, drop = getattr(norm, "act", None), getattr(norm, "drop", None)
    return nn.Sequential(*(part for part in (drop, activation) if isinstance(part, nn.Module)))
