"""``python -m skinkd.train``, whose main process sends itself the signal SIGNAL before its training step number STEP."""

import os
import signal
from typing import Any

from skinkd.config import cli
from skinkd.methods.base import Method
from skinkd.runs.console import is_main_process
from skinkd.train import train

combine, calls = Method.combine, 0


def counted(self: Method, **terms: Any) -> Any:
    global calls
    calls += 1
    if calls == int(os.environ["STEP"]) and is_main_process():
        signal.raise_signal(int(os.environ["SIGNAL"]))
    return combine(self, **terms)


if __name__ == "__main__":
    Method.combine = counted  # type: ignore[method-assign]
    cli.main(train, "train")
