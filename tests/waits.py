"""Finds, on a CPU, what would make a GPU's host wait."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class NoWait(TorchDispatchMode):
    """Fails on what makes a GPU's host wait: reading a value, a result whose shape depends on values, a number to be copied."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.name()
        # lift_fresh begins each torch.tensor(number), which is made by the host
        waits = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "aten::equal", "is_nonzero", "lift_fresh")
        assert not any(wait in name for wait in waits), name
        if name.startswith("aten::index"):
            indices = args[1] if isinstance(args[1], list | tuple) else []
            assert not any(index is not None and index.dtype == torch.bool for index in indices), name
        return function(*args, **(kwargs or {}))
