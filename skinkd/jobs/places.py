"""Where the jobs of a sweep run: which devices each of them sees."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from skinkd.errors import UserError

Environment = dict[str, str]
"""What a job's environment has besides this process's."""


@dataclass(frozen=True)
class Places:
    """Where jobs run: one on each place at a time."""

    places: list[Environment]  # what a job's environment has other, at each
    whole: Environment  # the same, of a job that uses all devices of the machine and so runs alone
    gpus: bool  # whether there are any


def find_places(devices: Any, configs: Sequence[dict[str, Any]], *, gpus: Sequence[str], cores: int) -> Places:
    """Read ``sweep.devices``.

    Args:
        devices: "auto", how many jobs at once, or a list of GPU numbers, counted among the visible ones.
        configs: of the jobs; "auto" is one job on each GPU if any of them uses one GPU, else one at a time.
        gpus: the visible GPUs, by what CUDA_VISIBLE_DEVICES calls them.
        cores: of this machine, divided among several jobs at once.

    Raises:
        UserError: ``devices`` is nothing of this, or names a GPU that there is not.
    """
    if isinstance(devices, list) and devices and all(type(number) is int for number in devices):
        if bad := [number for number in devices if not 0 <= number < len(gpus)]:
            raise UserError(
                f"sweep.devices={devices} names GPU {bad[0]} and {len(gpus) or 'no'} GPUs are visible, counted from 0; "
                "give numbers of these, or how many jobs to run at once, such as sweep.devices=2"
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


def uses_gpu(config: dict[str, Any], gpus: Sequence[str]) -> bool:
    """Whether a run uses GPUs where these are visible."""
    return config["trainer"]["accelerator"] in ("gpu", "cuda", *(["auto"] if gpus else []))


def uses_all(config: dict[str, Any], gpus: Sequence[str]) -> bool:
    """Whether a run uses several GPUs, or chooses them itself."""
    return uses_gpu(config, gpus) and config["trainer"]["devices"] != 1
