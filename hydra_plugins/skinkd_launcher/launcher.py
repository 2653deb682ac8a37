"""A Hydra launcher that gives each job of a multirun a fresh process, on this machine or on a cluster.

A sweep job that starts its own ranks would, inside Hydra's process, start the whole sweep again in each of them; and what
one job leaves behind (an experiment tracker's run, an initialised process group) would reach the next. A fresh process
running ``python -m skinkd.train <overrides>`` is the very command a user could type, and lands in the same run folder.

Kept light: Hydra imports it at every start, so that of this project only ``launch`` imports anything.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict


@dataclass
class FreshProcessLauncherConf:
    """``hydra/launcher=skinkd``: its target alone; conf/hydra/launcher/ has those for clusters."""

    _target_: str = "hydra_plugins.skinkd_launcher.launcher.FreshProcessLauncher"


ConfigStore.instance().store(group="hydra/launcher", name="skinkd", node=FreshProcessLauncherConf, provider="skinkd")


class FreshProcessLauncher(Launcher):
    """Runs each job in a process of its own; a failed one does not stop the others.

    Args:
        **queue: what each job asks of a cluster, for ``hydra/launcher=submitit_slurm`` or ``submitit_local``; with
            ``hydra/launcher=skinkd`` the jobs run here, on the devices of ``sweep.devices``.
    """

    def __init__(self, **queue: Any) -> None:
        self.queue: dict[str, Any] = {
            name: OmegaConf.to_object(one) if OmegaConf.is_config(one) else one for name, one in queue.items()
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what ``launch`` needs."""
        self.config, self.loader = config, hydra_context.config_loader
        _, _, self.cluster = config.hydra.runtime.choices["hydra/launcher"].partition("submitit_")

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run every job, show how far they are, print their results; end the process with code 1 if any failed."""
        from skinkd.cli import sentences
        from skinkd.runs.processes import LocalProcesses
        from skinkd.runs.sweep import distinct, group_name
        from skinkd.sweeps import find_places, run_sweep

        with sentences():
            every = [list(filter_overrides(overrides)) for overrides in job_overrides]
            given = [self._job(list(overrides)) for overrides in job_overrides]
            devices = self._devices([job.config for job in given])
            jobs = distinct(given)
            group = self.config.group or group_name(every)
            output = Path(self.config.paths.output_dir)
            about = {"group": group, "output": output, "metric": jobs[0].config["monitor"]["metric"]}
            configs = [job.config for job in jobs]
            if not self.cluster:
                places = find_places(devices, configs, gpus=_visible_gpus(), cores=_cores())
                with LocalProcesses() as processes:
                    failed = run_sweep(jobs, places=places, start=processes.start, **about)
            else:
                failed = self._on_cluster(self.cluster, jobs, devices, **about)
            if failed:
                sys.exit(1)
        return [JobReturn(overrides=overrides, status=JobStatus.COMPLETED) for overrides in every]

    def _job(self, overrides: list[str]) -> Any:
        """The job with its configuration, and so the run folders that it trains."""
        from skinkd.errors import UserError
        from skinkd.runs.folder import run_path
        from skinkd.runs.sweep import Job, stage_of
        from skinkd.teachers import resolved, teacher_config
        from skinkd.train import stored_settings

        if self.config.hydra.job.config_name != "train":
            verb = self.config.hydra.job.config_name
            raise UserError(f"python -m skinkd.{verb} has no -m; give it one command for each value")
        settings = self.loader.load_sweep_config(self.config, overrides)
        with open_dict(settings):
            del settings["hydra"]  # as Hydra does before it calls the verb
        settings = stored_settings(settings)
        config = resolved(settings)
        teachers: list[Any] = []
        student = config
        while "teacher" in student["method"] and student["method"]["teacher"]["ckpt"] == "auto":
            student = teacher_config(OmegaConf.create(student))
            teachers.insert(0, stage_of(run_path(student), student))
        return Job(list(filter_overrides(overrides)), config, stage_of(run_path(config), config), teachers)

    def _devices(self, configs: list[dict[str, Any]]) -> Any:
        from skinkd.errors import UserError

        devices = configs[0]["sweep"]["devices"]
        if any(config["sweep"]["devices"] != devices for config in configs):
            given = ",".join(dict.fromkeys(str(config["sweep"]["devices"]) for config in configs))
            raise UserError(f"sweep.devices={given} runs each job once for each value; write 'sweep.devices=[{given}]'")
        return devices

    def _on_cluster(self, name: str, jobs: list[Any], devices: Any, **about: Any) -> int:
        from skinkd.cluster import Cluster
        from skinkd.sweeps import find_places, run_sweep

        at_once = len(jobs) if devices == "auto" else devices
        places = find_places(at_once, [], gpus=[], cores=1)
        cluster = Cluster(name, about["output"] / "sweeps" / ".submitit", **self.queue)
        return run_sweep(jobs, places=places, start=cluster.start, **about)


def _visible_gpus() -> list[str]:
    """The GPUs that CUDA shows this process, by the names that CUDA_VISIBLE_DEVICES gives them."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(number) for number in range(count)]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
