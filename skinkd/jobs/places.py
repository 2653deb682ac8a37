"""The places where jobs of a sweep run: the devices that each job sees."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from skinkd.errors import UserError

Environment = dict[str, str]
"""Environment variables that a job gets in addition to this process's."""


@dataclass(frozen=True)
class Places:
    """The places where jobs run. Each place runs one job at a time."""

    places: list[Environment]  # the environment variables of each place
    whole: Environment  # those of a job that uses all devices of the machine, and so runs alone
    gpus: bool  # whether the machine has visible GPUs


def find_places(devices: Any, configs: Sequence[dict[str, Any]], *, gpus: Sequence[str], cores: int) -> Places:
    """Read ``sweep.devices``.

    Args:
        devices: "auto", the number of jobs at once, or a list of GPU numbers, counted among the visible GPUs.
        configs: the jobs' configurations; "auto" is one job on each GPU if any job uses a single GPU, else one at a time.
        gpus: the visible GPUs, as CUDA_VISIBLE_DEVICES names them.
        cores: number of this machine's cores, divided among the jobs that run at once.

    Raises:
        UserError: ``devices`` is none of these, or names a GPU that is not visible.
    """
    if isinstance(devices, list) and devices and all(type(number) is int for number in devices):
        if bad := [number for number in devices if not 0 <= number < len(gpus)]:
            raise UserError(
                f"sweep.devices={devices} names GPU {bad[0]}, but {len(gpus) or 'no'} GPUs are visible, counted from 0; "
                "give numbers of visible GPUs, or how many jobs to run at once, such as sweep.devices=2"
            )
        chosen = [gpus[number] for number in devices]
        whole = {"CUDA_VISIBLE_DEVICES": ",".join(dict.fromkeys(chosen))}
        return Places([{"CUDA_VISIBLE_DEVICES": gpu} for gpu in chosen], whole, True)
    on_one_gpu = any(uses_gpu(config, gpus) and not uses_all(config, gpus) for config in configs)
    if devices == "auto":
        places = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus] if gpus and on_one_gpu else [{}]
        return Places(places, {}, bool(gpus))
    if type(devices) is int and devices > 0:
        threads = {"OMP_NUM_THREADS": str(max(1, cores // devices))} if devices > 1 else {}
        places = [
            threads | ({"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {}) for number in range(devices)
        ]
        return Places(places, {}, bool(gpus))
    raise UserError(
        f"sweep.devices={devices} is not a valid value; write auto, how many jobs to run at once, such as sweep.devices=2, "
        "or GPU numbers, such as 'sweep.devices=[0,1]'"
    )


def visible_gpus() -> list[str]:
    """Return the GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(number) for number in range(count)]


def uses_gpu(config: dict[str, Any], gpus: Sequence[str]) -> bool:
    """Return whether a run uses GPUs if some are visible."""
    return config["trainer"]["accelerator"] in ("gpu", "cuda", *(["auto"] if gpus else []))


def uses_all(config: dict[str, Any], gpus: Sequence[str]) -> bool:
    """Return whether a run uses several GPUs, or chooses its GPUs itself."""
    return uses_gpu(config, gpus) and config["trainer"]["devices"] != 1
