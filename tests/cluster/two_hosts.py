"""Two hosts on this machine: network namespaces that a virtual cable joins, and a torchrun in each. It needs root."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

NAMES = ("skinkd-a", "skinkd-b")
ADDRESSES = ("10.77.0.1", "10.77.0.2")
CABLES = ("skinkd-va", "skinkd-vb")  # the two ends of the cable; a name has at most 15 characters
PORT = 29511


class TwoHosts:
    """Context in which the hosts are there. At its end they go, with every process that runs on them."""

    def __enter__(self) -> "TwoHosts":
        self._remove()
        for name in NAMES:
            _ip("netns", "add", name)
        _ip("link", "add", CABLES[0], "netns", NAMES[0], "type", "veth", "peer", "name", CABLES[1], "netns", NAMES[1])
        for name, cable, address in zip(NAMES, CABLES, ADDRESSES, strict=True):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", cable)
            _ip("-n", name, "link", "set", "lo", "up")
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def connect(self) -> None:
        """Plug the cable in."""
        for name, cable in zip(NAMES, CABLES, strict=True):
            _ip("-n", name, "link", "set", cable, "up")

    def cut(self) -> None:
        """Pull the cable."""
        _ip("-n", NAMES[1], "link", "set", CABLES[1], "down")

    def start(self, overrides: Sequence[str], folder: Path, *, processes: int) -> list["subprocess.Popen[str]"]:
        """Start a run of ``processes`` processes on each host; the output of host i goes to ``folder/host<i>.txt``."""
        folder.mkdir(exist_ok=True)
        started = []
        for rank, (name, cable) in enumerate(zip(NAMES, CABLES, strict=True)):
            torchrun = ["--nnodes=2", f"--node-rank={rank}", f"--nproc-per-node={processes}", "--max-restarts=0"]
            torchrun += [f"--master-addr={ADDRESSES[0]}", f"--master-port={PORT}"]
            command = [sys.executable, "-m", "torch.distributed.run", *torchrun, "-m", "skinkd.train", *overrides]
            with (folder / f"host{rank}.txt").open("w") as file:
                process = subprocess.Popen(
                    ["ip", "netns", "exec", name, *command],
                    env=os.environ | {"GLOO_SOCKET_IFNAME": cable, "OMP_NUM_THREADS": "1"},
                    cwd=folder,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            started.append(process)
        return started

    @staticmethod
    def _remove() -> None:
        there = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout.split()
        for name in [name for name in NAMES if name in there]:
            for process in subprocess.run(
                ["ip", "netns", "pids", name], capture_output=True, text=True, check=True
            ).stdout.split():
                with suppress(ProcessLookupError):
                    os.kill(int(process), signal.SIGKILL)
            _ip("netns", "delete", name)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, timeout=20)
