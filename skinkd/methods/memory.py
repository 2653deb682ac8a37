"""What the methods with a memory of the training images share."""

import torch
import torch.distributed as dist
from torch import Tensor


def of_all_processes(rows: Tensor) -> Tensor:
    """The rows (B, …) of each process, process 0 first: (P·B, …). Every process has as many rows, and gets all.

    So each process keeps the same memory, as if it had seen the whole batch.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return rows
    gathered = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, rows.contiguous())
    return torch.cat(gathered)
