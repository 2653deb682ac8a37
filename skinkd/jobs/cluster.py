"""Runs the jobs of a sweep on a SLURM cluster, through submitit."""

import contextlib
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from skinkd.errors import UserError

# settings that submitit has for every kind of cluster; all others are SLURM's
_COMMON = ("timeout_min", "nodes", "tasks_per_node", "gpus_per_node", "cpus_per_task", "mem_gb")
# settings that hydra-submitit-launcher adds if it is installed; we set them ourselves
_OURS = ("submitit_folder", "name", "stderr_to_stdout")
# exit codes of a run that was asked to stop: it says so itself, or it had not yet begun to listen
_ASKED_TO_STOP = (128 + signal.SIGTERM, -signal.SIGTERM)
_LOOK = 5.0  # s between two looks at SLURM's queue
_WAITS = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT")
_ENDED = (
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "TIMEOUT",
)
_GONE = "no longer in the queue"


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
        self.queue = Queue() if cluster == "slurm" else None
        try:
            self.executor = submitit.AutoExecutor(folder=folder, cluster=cluster, **limit)
            self.executor.update_parameters(**given)
        except RuntimeError as error:
            raise UserError(
                f"hydra/launcher=submitit_{cluster}: {error}; submit on a machine that has sbatch, or try submitit_local"
            ) from None

    def start(self, command: list[str], log: Path, environment: dict[str, str], name: str) -> "ClusterJob":
        """Submit a command that appends its output to ``log``. Its environment is the cluster's, without ``environment``."""
        self.executor.update_parameters(name=name)
        job = self.executor.submit(Command(command, log.absolute(), Path.cwd()))
        return SlurmJob(job, self.queue, log) if self.queue else ClusterJob(job)


class Command:
    """Runs a command on a machine of the cluster. If it is queued again, it goes on in the same run folder.

    SLURM sends SIGTERM to all processes of a job that is preempted or cancelled, and then queues or ends it by itself. So a run
    that was asked to stop has no result. At the job's limit of time SLURM sends the signal with which submitit queues the job
    again, here SIGUSR2. The run must not see it, because it would die without its checkpoint.
    """

    def __init__(self, command: list[str], log: Path, folder: Path) -> None:
        self.command, self.log, self.folder = command, log, folder

    def __call__(self) -> int:
        with self.log.open("a") as file:
            process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                preexec_fn=_ignore_requeue_signal,
            )
            try:
                code = process.wait()
            finally:
                process.terminate()
                process.wait()  # SLURM kills what a task leaves behind, also a run that is writing its checkpoint
        if code in _ASKED_TO_STOP:
            raise SystemExit(128 + signal.SIGTERM)  # submitit stores no result then
        return code

    def checkpoint(self) -> Any:
        """Return the command to queue again after a timeout or preemption."""
        import submitit

        # scontrol, which submitit starts next, inherits this. SLURM would end it together with the job
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return submitit.helpers.DelayedSubmission(self)


def _ignore_requeue_signal() -> None:
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


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
        return self._result() if self.job.done() else None

    def _result(self) -> int:
        try:
            return max(self.job.results(), key=abs)
        except Exception as error:  # submitit raises a different error for each way to end without a result
            lines = str(error).strip().splitlines()
            raised = [line for line in lines if re.match(r"[\w.]+(Error|Exception): ", line)]
            self._note(raised[-1].partition(": ")[2] if raised else lines[0])
            return 1

    def _note(self, reason: str) -> None:
        print(f"{self.job.job_id}: {reason}", file=sys.stderr)

    def stop(self, *, kill: bool) -> None:
        """Cancel the job."""
        with contextlib.suppress(subprocess.CalledProcessError, ProcessLookupError):
            self.job.cancel(check=False)


class Queue:
    """SLURM's queue, which knows the states of jobs also on a cluster without accounting (``sacct``)."""

    def __init__(self) -> None:
        self.states: dict[str, list[str]] = {}  # of each job, at the last two looks
        self._looked = 0.0

    def watch(self, job: str) -> None:
        """Look at the state of a job from now on."""
        self.states[job] = []

    def look(self) -> None:
        """Ask SLURM for the states of all jobs, unless it was asked a moment ago."""
        if time.monotonic() - self._looked < _LOOK:
            return
        self._looked = time.monotonic()
        command = ["squeue", "--noheader", "--states=all", "--format=%i %T", f"--jobs={','.join(self.states)}"]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        except subprocess.TimeoutExpired:
            return
        # the error of a single job that the queue has forgotten; of several, it lists the others
        if answer.returncode and "Invalid job id" not in answer.stderr:
            return  # the queue does not answer: that says nothing about a job
        now = dict(line.split() for line in answer.stdout.splitlines())
        for job, seen in self.states.items():
            self.states[job] = [*seen[-1:], now.get(job, _GONE)]

    def state(self, job: str) -> str:
        """Return the state of a job at the last look; "PENDING" before the first."""
        return (self.states[job] or ["PENDING"])[-1]

    def ended(self, job: str) -> bool:
        """Return whether a job has ended.

        One look is not enough: a job that is queued again passes through such a state, and the file with its result may arrive
        later than the state, on a disk that machines share.
        """
        seen = self.states[job]
        return len(seen) == 2 and all(state in (*_ENDED, _GONE) for state in seen)


class SlurmJob(ClusterJob):
    """A command submitted to SLURM; it has ended if there are results, or if the queue says so twice."""

    def __init__(self, job: Any, queue: Queue, log: Path) -> None:
        super().__init__(job)
        self.queue, self.log = queue, log
        queue.watch(job.job_id)

    @property
    def started(self) -> bool:
        """Whether the job has left the queue."""
        return self.queue.state(self.job.job_id) not in _WAITS

    def poll(self) -> int | None:
        """Return the worst exit code of the job's tasks, 1 if SLURM ended it, and None before the end."""
        tasks = [self.job.task(number) for number in range(self.job.num_tasks)]
        if all(task.paths.result_pickle.exists() for task in tasks):
            return self._result()
        self.queue.look()
        if not self.queue.ended(self.job.job_id):
            return None
        self._note(f"SLURM ended the job; its state is {self.queue.state(self.job.job_id)}")
        return 1

    def _note(self, reason: str) -> None:
        with self.log.open("a") as file:
            file.write(f"error: job {self.job.job_id} of the cluster: {reason}\n")
