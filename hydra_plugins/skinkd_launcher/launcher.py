"""A Hydra launcher that gives each job of a multirun a fresh process.

A sweep job that starts its own ranks would, inside Hydra's process, start the whole sweep again in each of them; and what
one job leaves behind (an experiment tracker's run, an initialised process group) would reach the next. A fresh process
running ``python -m skinkd.train <overrides>`` is the very command a user could type, and lands in the same run folder.

Kept light: Hydra imports it at every start.
"""

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class FreshProcessLauncherConf:
    """``hydra/launcher=skinkd``: its target alone."""

    _target_: str = "hydra_plugins.skinkd_launcher.launcher.FreshProcessLauncher"


ConfigStore.instance().store(group="hydra/launcher", name="skinkd", node=FreshProcessLauncherConf, provider="skinkd")


class FreshProcessLauncher(Launcher):
    """Runs jobs one after another, each in its own process; a failed one does not stop the others."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what ``launch`` needs."""
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run every job and print one line for each; end the process with code 1 if any failed."""
        jobs = [list(filter_overrides(overrides)) for overrides in job_overrides]
        group = self.config.group or _group_name(jobs)
        codes = []
        for number, overrides in enumerate(jobs, start=1):
            print(f"\njob {number} of {len(jobs)}: {' '.join(overrides)}", flush=True)
            extra = [] if self.config.group else [f"group={group}"]
            command = [sys.executable, "-m", "skinkd.train", *overrides, *extra, "hydra.mode=RUN"]
            codes.append(subprocess.run(command, check=False).returncode)
        failed = [(overrides, code) for overrides, code in zip(jobs, codes, strict=True) if code]
        print(f"\n{len(jobs) - len(failed)} of {len(jobs)} jobs finished; group {group}", flush=True)
        for overrides, code in failed:
            print(f"failed with exit code {code}: python -m skinkd.train {' '.join(overrides)}", flush=True)
        if failed:
            sys.exit(1)
        return [JobReturn(overrides=overrides, status=JobStatus.COMPLETED) for overrides in jobs]


def _group_name(jobs: list[list[str]]) -> str:
    """A name that the same sweep always gets, so that a repeated sweep is the same group."""
    text = "\n".join(" ".join(job) for job in jobs)
    return f"sweep-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
