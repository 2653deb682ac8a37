"""Files that several processes share: written in one step, and locked."""

import contextlib
import fcntl
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO


@contextlib.contextmanager
def written_atomically(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary path next to ``path``. At the end, the file written there replaces ``path`` in one step.

    After an error, or if the process is killed, ``path`` is unchanged.

    Args:
        path: path of the file; its folder is created.
        sync: wait until the content, and then the name, are on the disk, so that a power failure leaves no empty file.
            Only useful for files that cannot be computed again.

    Raises:
        OSError: the file cannot be written; ``filename`` is set.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        if sync:
            _wait_for_disk(temporary)
        os.replace(temporary, path)
        if sync:
            _wait_for_disk(path.parent)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _wait_for_disk(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Lock:
    """A lock file that one process at a time can hold.

    The lock is released when the process ends, even if it is killed, and even if processes that it started live on. The file
    stays.

    Args:
        path: path of the file; its folder must exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: TextIO | None = None

    def take(self) -> bool:
        """Take the lock if no other process holds it, without waiting; return whether it was taken.

        Raises:
            OSError: the file cannot be written.
        """
        file = self.path.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        self._hold(file)
        return True

    def wait(self) -> None:
        """Take the lock as soon as no other process holds it."""
        file = self.path.open("a")
        fcntl.flock(file, fcntl.LOCK_EX)
        self._hold(file)

    def _hold(self, file: TextIO) -> None:
        self._file = file
        _held.add(self)

    def release(self) -> None:
        """Release the lock."""
        if self._file:
            self._file.close()
            self._file = None

    def __enter__(self) -> "Lock":
        self.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


_held: "weakref.WeakSet[Lock]" = weakref.WeakSet()
"""The locks of this process. A forked process, such as a loading process, must not hold them open: it may live longer."""


def _leave_to_parent() -> None:
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_leave_to_parent)


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock; False if the file does not exist or cannot be read."""
    with contextlib.suppress(OSError), path.open("r") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
