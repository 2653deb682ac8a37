"""Output in the terminal: skinkd's lines, from the main process only, without the messages of other libraries."""

import logging
import os
import warnings

_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")  # in Lightning's order


def is_main_process() -> bool:
    """Return whether this process is the main process, which prints and writes.

    It reads the environment variables that Lightning reads. Importing Lightning would take seconds.
    """
    return given_rank()[1] == 0


def given_rank() -> tuple[str, int]:
    """Return the environment variable that gives this process its rank, and the rank; ("", 0) without one."""
    return next(((name, int(os.environ[name])) for name in _RANKS if name in os.environ), ("", 0))


def say(line: str) -> None:
    """Print a line, in the main process only."""
    if is_main_process():
        print(line, flush=True)


def quieten() -> None:
    """Silence messages of other libraries that do not concern the user."""
    logging.getLogger("lightning").setLevel(logging.ERROR)
    for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (
        ".*does not have many workers.*",
        ".*The number of training batches.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*deterministic.*",
        ".*Be aware that when using `ckpt_path`.*",
        ".*lr_scheduler.step.*",
        ".*isinstance.treespec, LeafSpec.*",
        ".*could not find the monitored key.*",  # of an epoch without validation
        ".*recommended to use `self.log.*sync_dist=True.*",
    ):
        warnings.filterwarnings("ignore", message=message)
