"""Jobs of a sweep as jobs of a SLURM cluster, through submitit."""

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Any

from skinkd.errors import UserError

# those that submitit knows on every kind of cluster; the others are SLURM's
_COMMON = ("timeout_min", "nodes", "tasks_per_node", "gpus_per_node", "cpus_per_task", "mem_gb")
# what hydra-submitit-launcher adds to our settings where it is installed too, and we decide
_OURS = ("submitit_folder", "name", "stderr_to_stdout")


class Cluster:
    """Submits commands.

    Args:
        cluster: "slurm", or "local" for processes of this machine.
        folder: where submitit keeps its files; every machine must see it.
        max_num_timeout: how often a job that ran out of time, or was preempted, is queued again.
        **queue: what is asked of the cluster for each job, None for its default.

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
        """Submit a command that appends what it prints to ``log``; its environment is the cluster's."""
        self.executor.update_parameters(name=name)
        return ClusterJob(self.executor.submit(Command(command, log.absolute(), Path.cwd())))


class Command:
    """Runs a command on the machine that the cluster chose; begins again, in the same run folder, when it is queued again."""

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
        """What is queued again after a timeout or preemption."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


class ClusterJob:
    """A submitted command."""

    def __init__(self, job: Any) -> None:
        self.job = job

    @property
    def started(self) -> bool:
        """Whether it has left the queue."""
        return self.job.state not in ("PENDING", "REQUEUED", "UNKNOWN")

    def poll(self) -> int | None:
        """Its exit code, the worst of its tasks'; 1 if the cluster ended it."""
        if not self.job.done():
            return None
        try:
            return max(self.job.results(), key=abs)
        except Exception as error:  # submitit's own for each way to end without a result
            print(f"{self.job.job_id}: {str(error).strip().splitlines()[0]}", file=sys.stderr)
            return 1

    def stop(self, *, kill: bool) -> None:
        """Cancel it."""
        with contextlib.suppress(subprocess.CalledProcessError, ProcessLookupError):
            self.job.cancel(check=False)
