"""A real SLURM of two nodes on this machine; ``slurm.sh`` starts and stops it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

SCRIPT = Path(__file__).parent / "slurm.sh"
WAIT = 900  # s that a test waits for something of a cluster that shares the machine with other work


class Slurm:
    """The commands of SLURM, and a working folder for each test's processes."""

    def __init__(self, folder: Path) -> None:
        root = folder / "root" / "usr"
        libraries = root / "lib" / "x86_64-linux-gnu"
        self.environment = os.environ | {
            "PATH": f"{root / 'bin'}:{os.environ['PATH']}",
            "LD_LIBRARY_PATH": f"{libraries}:{libraries / 'slurm-wlm'}",
            "SLURM_CONF": str(folder / "slurm.conf"),
            "OMP_NUM_THREADS": "1",
            "MASTER_ADDR": "127.0.0.1",  # no name server knows n1 and n2
        }
        self._sweeps: list[subprocess.Popen[str]] = []

    def end(self) -> None:
        """End the sweeps that a test which failed, or was interrupted, left behind."""
        for sweep in self._sweeps:
            sweep.kill()
            sweep.wait()

    def run(self, *command: str, folder: Path | None = None, timeout: float = WAIT) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, whatever its exit code."""
        return subprocess.run(
            command, env=self.environment, cwd=folder, capture_output=True, text=True, timeout=timeout, check=False
        )

    def sweep(self, overrides: Sequence[str], folder: Path) -> "subprocess.Popen[str]":
        """Start a sweep whose jobs go to this cluster; its output goes to ``folder/sweep.txt``."""
        folder.mkdir(exist_ok=True)
        launcher = [
            "-m",
            "hydra/launcher=submitit_slurm",
            "hydra.launcher.partition=low",
            "hydra.launcher.cpus_per_task=2",
        ]
        with (folder / "sweep.txt").open("w") as file:
            sweep = subprocess.Popen(
                [sys.executable, "-m", "skinkd.train", *launcher, *overrides],
                env=self.environment,
                cwd=folder,
                stdout=file,
                stderr=subprocess.STDOUT,
                text=True,
            )
        self._sweeps.append(sweep)
        return sweep

    def jobs(self, name: str = "") -> dict[str, dict[str, str]]:
        """Return the fields of all jobs that the cluster knows, by id; only those with a name, if one is given."""
        lines = self.run("scontrol", "show", "job", "--oneliner").stdout.splitlines()
        of_jobs = [line.split() for line in lines if line.startswith("JobId")]
        fields = [dict(word.split("=", 1) for word in words if "=" in word) for words in of_jobs]
        return {job["JobId"]: job for job in fields if name in job["JobName"]}


def until(true: Callable[[], object], what: str, seconds: float = WAIT) -> None:
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.3)


def script(verb: str, folder: Path) -> None:
    """Run ``slurm.sh``."""
    result = subprocess.run(
        ["sh", str(SCRIPT), verb, str(folder)], capture_output=True, text=True, check=False, timeout=WAIT
    )
    assert result.returncode == 0, f"slurm.sh {verb}: {result.stdout}{result.stderr}"


def processes_of(folder: Path) -> list[str]:
    """The command lines of the processes that run a program of the cluster."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if os.readlink(entry / "exe").startswith(str(folder)):
                found.append(command)
        except OSError:  # it has ended
            continue
    return found
