"""What the terminal shows: our lines, from one process, without the libraries' chatter."""

import logging
import os
import warnings

_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")  # in Lightning's order


def is_main_process() -> bool:
    """Whether this process is the one that prints and writes.

    Reads what Lightning reads, without its import, which takes seconds.
    """
    return next((int(os.environ[name]) for name in _RANKS if name in os.environ), 0) == 0


def say(line: str) -> None:
    """Print a line, in the main process alone."""
    if is_main_process():
        print(line, flush=True)


def quieten() -> None:
    """Silence messages of the libraries that do not concern the person who runs this."""
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
        ".*recommended to use `self.log.*sync_dist=True.*",
    ):
        warnings.filterwarnings("ignore", message=message)
