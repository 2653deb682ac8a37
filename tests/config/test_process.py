"""The process of a verb under what notebooks, terminals and containers set. One process tries each."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from skinkd.config.user_errors import user_errors


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment, timeout=120
    )


def test_the_backend_of_a_notebook_is_not_asked_for() -> None:
    code = "from skinkd.config.process import prepare_process as p; p(); import matplotlib as x; print(x.get_backend())"
    for backend in ("module://no_such_notebook.backend", "TkAgg", "nonsense"):
        done = run(code, MPLBACKEND=backend)
        assert done.returncode == 0 and done.stdout.strip().lower() == "agg", done.stderr


def test_an_ascii_terminal_takes_any_text() -> None:
    code = "from skinkd.config.process import prepare_process as p; p(); print('5 \\u00d7 n\\u00e6vus')"
    done = run(code, PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C")
    assert done.returncode == 0 and done.stdout == "5 \\xd7 n\\xe6vus\n"


LOADERS = """
from skinkd.config.process import prepare_process as p; p()
import multiprocessing.connection, multiprocessing.util
with multiprocessing.connection.Listener(family="AF_UNIX"): print(multiprocessing.util.get_temp_dir())
"""


def test_a_long_tmpdir_leaves_room_for_sockets(tmp_path: Path) -> None:
    """The listener is what PyTorch's loading processes open; with the folder itself it raises, and they would wait."""
    long = tmp_path / ("l" * 110)
    long.mkdir()
    done = run(LOADERS, TMPDIR=str(long))
    assert done.returncode == 0 and not done.stdout.startswith(str(long))
    assert f"TMPDIR={long} is too long for sockets" in done.stderr
    short = tmp_path.parent / "s"
    short.mkdir(exist_ok=True)
    if len(str(short)) < 70:
        assert run(LOADERS, TMPDIR=str(short)).stdout.startswith(str(short))


@pytest.mark.parametrize(
    "words",
    [
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out of shared "
        "memory. Please try to raise your shared memory limit.",
        "unable to write to file </torch_123_456_0>: No space left on device (28)",
        "unable to allocate shared memory(shm) for file </torch_1>: Resource temporarily unavailable",
    ],
)
def test_full_shared_memory_is_one_sentence(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, user_errors():
        raise RuntimeError(words)
    told = capsys.readouterr().err
    assert ended.value.code == 2 and told.count("\n") == 1
    assert "data.num_workers=0" in told and "--shm-size" in told


def test_other_runtime_errors_keep_their_traceback() -> None:
    with pytest.raises(RuntimeError, match="shapes"), user_errors():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
