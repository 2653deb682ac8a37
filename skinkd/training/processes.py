"""How many processes a run trains in, and whether this process may be one of them."""

import os
from typing import Any

import torch

from skinkd.errors import UserError
from skinkd.runs.console import given_rank


def in_one_process(trainer: dict[str, Any]) -> bool:
    """Return whether Lightning trains in a single process with these settings of ``trainer``."""
    devices = trainer["devices"]
    count = len(devices) if isinstance(devices, list) else devices
    if count in ("auto", -1, "-1"):
        count = torch.cuda.device_count() if trainer["accelerator"] in ("auto", "gpu", "cuda") else 1
    return trainer.get("num_nodes", 1) == 1 and count in (0, 1, "1")


def check_rank(trainer: dict[str, Any]) -> None:
    """Refuse a second process, which torchrun or SLURM started, where the run trains in a single one.

    It would train in the same folder as the first process.

    Raises:
        UserError: the environment gives this process a rank above 0, and ``trainer`` has one process. Or SLURM started several
            processes and does not say how many each node has. Or there are several nodes, and nothing started a process on
            each, so that the first would wait for the others.
    """
    name, rank = given_rank()
    nodes = trainer.get("num_nodes", 1)
    if nodes > 1 and not name and "NODE_RANK" not in os.environ:
        raise UserError(
            f"trainer.num_nodes={nodes} needs a command that starts a process on each node, and this one was started alone; "
            "start it with srun or torchrun, or leave trainer.num_nodes out"
        )
    if name == "SLURM_PROCID" and not in_one_process(trainer):
        tasks = int(os.environ.get("SLURM_NTASKS", 1))
        if tasks > 1 and "SLURM_NTASKS_PER_NODE" not in os.environ:
            raise UserError(
                f"srun started {tasks} processes and does not say how many each node has; give srun or sbatch "
                "--ntasks-per-node=<processes of a node> in place of --ntasks, and trainer.devices the same number"
            )
    if rank > 0 and in_one_process(trainer):
        raise UserError(
            f"{name}={rank} in the environment makes this process one of several of a run, but its strategy trains in one; "
            "start the command once, or set strategy=ddp (ddp_cpu without a GPU) and trainer.devices to the number of processes"
        )
