"""Runs the jobs of a sweep on a SLURM cluster, through submitit."""

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Any

from skinkd.errors import UserError

# settings that submitit has for every kind of cluster; all others are SLURM's
_COMMON = ("timeout_min", "nodes", "tasks_per_node", "gpus_per_node", "cpus_per_task", "mem_gb")
# settings that hydra-submitit-launcher adds if it is installed; we set them ourselves
_OURS = ("submitit_folder", "name", "stderr_to_stdout")


class Cluster:
    """Submits commands.

    Args:
        cluster: "slurm", or "local" for processes of this machine.
        folder: where submitit keeps its files; every machine must see it.
        max_num_timeout: how often a job is queued again after it ran out of time or was preempted.
        **queue: the resources to ask for each job; None is the cluster's default.

    Raises:
        UserError: submitit is not installed, or this machine has no SLURM.
    """

    def __init__(self, cluster: str, folder: Path, *, max_num_timeout: int = 0, **queue: Any) -> None:
        try:
            import submitit
        except ImportError:
            raise UserError(
                f"hydra/launcher=submitit_{cluster} needs submitit, which is not installed; pip install 'skinkd[submitit]'"
            ) from None
        wanted = {name: value for name, value in queue.items() if value is not None and name not in _OURS}
        given = {name if name in _COMMON else f"{cluster}_{name}": value for name, value in wanted.items()}
        limit = {f"{cluster}_max_num_timeout": max_num_timeout}
        try:
            self.executor = submitit.AutoExecutor(folder=folder / "%j", cluster=cluster, **limit)
            self.executor.update_parameters(**given)
        except RuntimeError as error:
            raise UserError(
                f"hydra/launcher=submitit_{cluster}: {error}; submit on a machine that has sbatch, or try submitit_local"
            ) from None

    def start(self, command: list[str], log: Path, environment: dict[str, str], name: str) -> "ClusterJob":
        """Submit a command that appends its output to ``log``. Its environment is the cluster's, without ``environment``."""
        self.executor.update_parameters(name=name)
        return ClusterJob(self.executor.submit(Command(command, log.absolute(), Path.cwd())))


class Command:
    """Runs a command on a machine of the cluster. If it is queued again, it goes on in the same run folder."""

    def __init__(self, command: list[str], log: Path, folder: Path) -> None:
        self.command, self.log, self.folder = command, log, folder

    def __call__(self) -> int:
        with self.log.open("a") as file:
            process = subprocess.Popen(
                self.command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
            )
            try:
                return process.wait()
            finally:
                process.terminate()

    def checkpoint(self) -> Any:
        """Return the command to queue again after a timeout or preemption."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


class ClusterJob:
    """A submitted command."""

    def __init__(self, job: Any) -> None:
        self.job = job

    @property
    def started(self) -> bool:
        """Whether the job has left the queue."""
        return self.job.state not in ("PENDING", "REQUEUED", "UNKNOWN")

    def poll(self) -> int | None:
        """Return the worst exit code of the job's tasks, 1 if the cluster ended it, and None before the end."""
        if not self.job.done():
            return None
        try:
            return max(self.job.results(), key=abs)
        except Exception as error:  # submitit raises a different error for each way to end without a result
            print(f"{self.job.job_id}: {str(error).strip().splitlines()[0]}", file=sys.stderr)
            return 1

    def stop(self, *, kill: bool) -> None:
        """Cancel the job."""
        with contextlib.suppress(subprocess.CalledProcessError, ProcessLookupError):
            self.job.cancel(check=False)
