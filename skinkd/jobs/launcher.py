"""A Hydra launcher that gives each job of a multirun a fresh process, on this machine or on a cluster.

Inside Hydra's process, a job that starts further ranks would start the whole sweep again in each rank. A job would also
find leftovers of the previous job, such as a tracker's run or a process group. A fresh process runs
``python -m skinkd.train <overrides>``, the command that a user could type, and writes the same run folder.

Every verb imports this module at its start. So that this is fast, only ``launch`` imports other parts of the project.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict


class FreshProcessLauncher(Launcher):
    """Runs each job in a separate process; a failed job does not stop the others.

    Args:
        **queue: the resources of a job on a cluster, for ``hydra/launcher=submitit_slurm`` or ``submitit_local``. With
            ``hydra/launcher=skinkd`` the jobs run on this machine, on the devices of ``sweep.devices``.
    """

    # the module name under which register_launcher registers the class with Hydra
    __module__ = "hydra_plugins.skinkd"

    def __init__(self, **queue: Any) -> None:
        self.queue: dict[str, Any] = {
            name: OmegaConf.to_object(value) if OmegaConf.is_config(value) else value for name, value in queue.items()
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what ``launch`` needs."""
        self.config, self.loader = config, hydra_context.config_loader
        _, _, self.cluster = config.hydra.runtime.choices["hydra/launcher"].partition("submitit_")

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run every job, show their progress and print their results; end the process with code 1 if a job failed."""
        from skinkd.config.targets import allowed_words
        from skinkd.config.user_errors import user_errors
        from skinkd.jobs.places import Places, find_places, visible_gpus
        from skinkd.jobs.pool import run_sweep
        from skinkd.jobs.processes import LocalProcesses
        from skinkd.jobs.sweep import distinct, group_name

        with user_errors():
            every = [list(filter_overrides(overrides)) for overrides in job_overrides]
            given = [self._job(list(overrides)) for overrides in job_overrides]
            devices = self._devices([job.config for job in given])
            jobs = distinct(given)
            group = self.config.group or group_name(every)
            output = Path(self.config.paths.output_dir)
            about = {"group": group, "output": output, "metric": jobs[0].config["monitor"]["metric"]}
            sweep = jobs[0].config["sweep"]
            about |= {
                name: sweep.get(name) for name in ("stall_minutes", "end_stalled")
            }  # a stored config may lack them
            about["flags"] = [
                f"--config-dir={one.path}"
                for one in self.config.hydra.runtime.config_sources
                if one.provider == "command-line"
            ] + allowed_words()
            configs = [job.config for job in jobs]
            if not self.cluster:
                places = Places([{}], {}, False)
                if not all(job.done for job in jobs):  # otherwise neither a place nor torch, slow to import, is needed
                    places = find_places(devices, configs, gpus=visible_gpus(), cores=_cores())
                with LocalProcesses() as processes:
                    failed = run_sweep(jobs, places=places, start=processes.start, **about)
            else:
                failed = self._on_cluster(self.cluster, jobs, devices, **about)
            if failed:
                sys.exit(1)
        return [JobReturn(overrides=overrides, status=JobStatus.COMPLETED) for overrides in every]

    def _job(self, overrides: list[str]) -> Any:
        """Return the job of these overrides, with its configuration and the run folders that it trains."""
        from skinkd.config.identity import run_path
        from skinkd.config.resolve import resolved, stored_settings, teacher_config
        from skinkd.errors import UserError
        from skinkd.jobs.sweep import Job, stage_of

        if self.config.hydra.job.config_name != "train":
            verb = self.config.hydra.job.config_name
            raise UserError(f"python -m skinkd.{verb} has no -m; give one command for each value")
        settings = self.loader.load_sweep_config(self.config, overrides)
        with open_dict(settings):
            del settings["hydra"]  # Hydra does the same before it calls the verb
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
        from skinkd.jobs.cluster import Cluster
        from skinkd.jobs.places import find_places
        from skinkd.jobs.pool import run_sweep

        at_once = len(jobs) if devices == "auto" else devices
        places = find_places(at_once, [], gpus=[], cores=1)
        cluster = Cluster(name, about["output"] / "sweeps" / ".submitit", **self.queue)
        return run_sweep(jobs, places=places, start=cluster.start, **about)


def register_launcher() -> None:
    """Register the launcher and a sweeper with Hydra under the name ``hydra_plugins.skinkd``.

    The sweeper is Hydra's basic sweeper without its check. The check composes every job, and the launcher does the same
    before it starts the first job. So a mistake is reported as early and in the same words.

    Hydra accepts only plugins of the package ``hydra_plugins``, looks them up by name, and does not find those of an
    editable installation. So this module is also entered in ``sys.modules`` under that name.
    """
    try:
        import hydra_plugins
    except ImportError:
        hydra_plugins = sys.modules["hydra_plugins"] = ModuleType("hydra_plugins")
        hydra_plugins.__path__ = []
    hydra_plugins.skinkd = sys.modules["hydra_plugins.skinkd"] = sys.modules[__name__]
    plugins = Plugins.instance()
    basic: Any = next(kind for kind in plugins.discover(Sweeper) if kind.__name__ == "BasicSweeper")
    unchecked = {"__module__": "hydra_plugins.skinkd", "validate_batch_is_legal": lambda self, batch: None}
    sweeper = type("UncheckedSweeper", (basic,), unchecked)
    hydra_plugins.skinkd.UncheckedSweeper = sweeper
    plugins.register(FreshProcessLauncher)
    plugins.register(sweeper)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
