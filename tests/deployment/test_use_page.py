"""docs/use.md: the whole way to a scored int8 file, and the exported files in an environment without us."""

import re
import subprocess
import sys
import venv
from pathlib import Path

import pandas as pd
import pytest
from test_export import READ, run_export

ROOT = Path(__file__).parents[2]


def block(heading: str) -> str:
    """The first shell block below a heading of docs/use.md."""
    page = (ROOT / "docs" / "use.md").read_text("utf-8")
    found = re.search(r"^```sh\n(.*?)^```$", page.partition(f"## {heading}\n")[2], flags=re.DOTALL | re.MULTILINE)
    assert found
    return found[1]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_from_training_to_a_scored_int8_file_in_five_commands(tmp_path: Path) -> None:
    commands = block("From `make train` to a scored int8 file")
    assert len(commands.splitlines()) == 5
    installed = f"make -o {sys.prefix}/.installed VENV={sys.prefix} "  # this environment, as it is
    script = commands.replace("make ", installed).replace("cd outputs/", f"cd {tmp_path}/")
    environment = {"PATH": f"{sys.prefix}/bin:/usr/bin:/bin", "SKINKD_OUTPUT_DIR": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(
        ["bash", "-e", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=3000
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (file,) = tmp_path.glob("swskd-*/export/before_after.csv")
    lines = pd.read_csv(file).set_index("name")
    assert file.read_text() in done.stdout
    assert 0.3 < lines.loc["accuracy", "int8"] <= 1 and lines.loc["size_mb", "int8"] < lines.loc["size_mb", "fp32"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_files_run_where_neither_torch_nor_skinkd_is_installed(
    finished: Path, synthetic_root: Path, tmp_path: Path
) -> None:
    out = tmp_path / "lesions"
    run_export(f"run={finished}", f"out={out}", "accept_loss=true", f"paths.output_dir={synthetic_root.parent}")
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    packages = ["onnxruntime", "numpy", "opencv-python-headless"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True, timeout=900)
    missing = (
        "import importlib.util as u; assert not any(map(u.find_spec, ('torch', 'skinkd', 'timm', 'albumentations')))"
    )
    subprocess.run([python, "-c", missing], check=True, cwd=out)
    done = subprocess.run([python, "-c", READ], cwd=out, capture_output=True, text=True, timeout=120)
    assert done.stdout == "all golden\n", done.stderr
