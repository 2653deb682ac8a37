"""The end of a verb on an error that the user can fix: one sentence, no traceback, exit code 2."""

import errno
import re
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from skinkd.config.required import missing_line
from skinkd.errors import UserError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def user_errors() -> Iterator[None]:
    """End the process with one sentence and exit code 2 for every error that a user can fix.

    Any other error keeps its traceback. A run that SIGTERM ends has exit code 143.
    """
    try:
        yield
    except BaseException as error:  # on SIGTERM, Lightning raises a subclass of SystemExit
        if _is(error, "lightning.pytorch.utilities.exceptions", "SIGTERMException"):
            raise SystemExit(
                128 + signal.SIGTERM
            ) from None  # otherwise the exit code would be 0, as if the run had finished
        sentence = _sentence(error)
        if sentence is None:
            raise
        sys.stdout.flush()
        print(f"error: {sentence}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None


def _sentence(error: BaseException) -> str | None:
    if _is(error, "hydra.errors", "InstantiationException"):
        error = error.__cause__ or error  # the error that the constructor raised
    if isinstance(error, UserError):
        return str(error)
    if _is(error, "omegaconf.errors", "OmegaConfBaseException"):
        missing = re.search(r"Missing mandatory value: (\S+)", str(error))
        if missing:
            return f"{missing[1]} has no value and needs one; give {missing[1]}=<value>"
        absent = re.match(r"Interpolation key '((data|augment|backbone|method)\.[\w.]+)' not found", str(error))
        if absent:
            place = getattr(error, "full_key", None) or "a setting"
            return f"{place} refers to ${{{absent[1]}}}, which has no value; correct the name, or {missing_line(absent[1])}"
        return (
            f"the configuration cannot be resolved: {first_line(error)}; ${{name}} stands for another setting: for a variable "
            "of the shell leave out the single quotes, and a name on the disk must not hold it"
        )
    if isinstance(error, RuntimeError) and re.search(r"shared memory|\bshm\b|/torch_|Bus error", str(error)):
        return (
            f"the shared memory of the loading processes is full ({first_line(error)[:120]}); set data.num_workers=0, or give "
            "/dev/shm more, in Docker with --shm-size=8g"
        )
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return _disk_full(error.filename)
    if isinstance(error, PermissionError | NotADirectoryError | FileExistsError) or (
        isinstance(error, OSError) and error.errno == errno.EROFS
    ):
        return (
            f"{error.filename} cannot be written or read ({error.strerror}); set paths.output_dir to a folder you own"
        )
    return None


def _disk_full(file: str | None) -> str:
    """Return the sentence on a full disk, which names the folder: outputs and temporary files may be on different disks."""
    temporary = Path(tempfile.gettempdir())
    if file is None:
        return (
            f"the disk is full; free space in paths.output_dir or in {temporary}, or set paths.output_dir or TMPDIR, then give "
            "the same command again"
        )
    path = Path(file)
    folder, setting = path.parent, "paths.output_dir"
    # the names that Python gives to temporary files; skinkd writes none there, other packages do
    if path.is_relative_to(temporary) and path.relative_to(temporary).parts[0].startswith(("tmp", "pymp-")):
        folder, setting = temporary, "TMPDIR"
    return f"the disk is full while writing {path}; free space in {folder} or set {setting}, then give the same command again"


def _is(error: BaseException, module: str, name: str) -> bool:
    """Return whether the error is an instance of a class, without importing the class's module, which is slow.

    A module that is not imported cannot have raised the error.
    """
    return module in sys.modules and isinstance(error, getattr(sys.modules[module], name))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its kind if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
