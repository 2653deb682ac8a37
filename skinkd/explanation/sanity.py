"""Does a map depend on what the network has learned? The network is replaced by an untrained one, part by part."""

import copy
from collections.abc import Iterator
from typing import Any

from torch import nn

HEAD = "head"
"""Name of the step that replaces the classifier alone."""


def untrained_from_the_top(trained: Any, fresh: nn.Module, *, output: str, levels: int) -> Iterator[tuple[str, Any]]:
    """Yield networks with ever fewer trained weights, and how much of them is untrained.

    The first has a new classifier (``head``), and the last is wholly untrained (``1.00``): the cascading randomisation of
    Adebayo et al. (NeurIPS 2018). Untrained weights come from a network of the same kind, with the start values that training
    would have given it, and so do the statistics of its normalisations. The steps between are equal shares of the tensors.

    Args:
        trained: the network; it stays as it is.
        fresh: an untrained network of the same kind.
        output: name of the output that is explained, which decides what its classifier is.
        levels: steps after the first.
    """
    state, start = trained.state_dict(), fresh.state_dict()
    head = [name for name in state if name.startswith(head_prefixes(trained, output))]
    rest = [name for name in state if name not in set(head)][::-1]  # from the top down
    for level in range(levels + 1):
        replaced = {*head, *rest[: round(len(rest) * level / levels)]}
        network = copy.deepcopy(trained)
        network.load_state_dict({name: start[name] if name in replaced else state[name] for name in state})
        yield HEAD if level == 0 else f"{level / levels:.2f}", network.eval()


def head_prefixes(network: Any, output: str) -> tuple[str, ...]:
    """Return the beginnings of the names of the weights that turn features into the logits of an output."""
    if not hasattr(network, "exit_names"):
        return ("head.", *_classifier(network, "model."))
    if output == "final":
        return ("classifier.",)
    for branch in ("attention", "conv"):
        if output.startswith(f"{branch}_exit_"):
            return (f"{branch}_exits.{int(output.rpartition('_')[2]) - 1}.",)
        if output == f"{branch}_branch":
            return _classifier(getattr(network, branch), f"{branch}.model.")
    return ("exit_1.",) if output == "exit_1" else _classifier(network.conv, "conv.model.")


def _classifier(network: Any, prefix: str) -> tuple[str, ...]:
    wanted = network.model.get_classifier()
    return tuple(f"{prefix}{name}." for name, module in network.model.named_modules() if module is wanted)
