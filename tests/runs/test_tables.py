"""The last table of a run, as a terminal of 80 columns, a pipe and a narrow encoding show it."""

import io
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import pandas as pd
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from rich.console import Console

from skinkd.runs.tables import next_commands, print_results
from skinkd.scoring.bootstrap import bootstrap_intervals
from skinkd.scoring.metrics import evaluate, per_class
from skinkd.scoring.predictions import prediction_table

FOLDER = Path("/a/long/place") / ("deep/" * 20) / "swskd-ham10000-resnet18-seed0-1a2b3c4d [bold]"
HAM = ["akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"]


def results(classes: list[str], present: int) -> tuple[dict[str, float], pd.DataFrame]:
    rng = np.random.default_rng(0)
    metrics: dict[str, float] = {"best_epoch": 3, "parameters": 11_000_000}
    for part, n in (("val", 300), ("test", 1500)):
        label = rng.integers(present, size=n)
        p = rng.random((n, len(classes))) + np.eye(len(classes))[label]
        rows = pd.DataFrame(
            {
                "image_id": [f"i{i:05d}" for i in range(n)],
                "group": [f"g{i // 2}" for i in range(n)],
                "label": [classes[c] for c in label],
            }
        )
        table = prediction_table(rows, np.arange(n), p / p.sum(axis=1, keepdims=True), classes)
        scores = evaluate(table, classes, calibration_bins=15)
        metrics |= {f"{part}/{name}": value for name, value in scores.items()}
    intervals = bootstrap_intervals(table, classes, calibration_bins=15, replicates=50, seed=0, level=0.95)
    for name, (low, high) in intervals.items():
        metrics |= {f"test/{name}_low": low, f"test/{name}_high": high}
    return metrics, per_class(table, classes, level=0.95)


def shown(metrics: dict[str, float], by_class: pd.DataFrame, **console: object) -> list[str]:
    file = io.StringIO()
    print_results(
        metrics,
        by_class,
        title="swskd-ham10000-seed0 [red]",
        folder=FOLDER,
        level=0.95,
        console=Console(file=file, highlight=False, **console),  # type: ignore[arg-type]
    )
    return file.getvalue().splitlines()


def test_reads_well_at_80_columns() -> None:
    metrics, by_class = results(HAM, 7)
    lines = shown(metrics, by_class, width=80)
    assert lines[-2:] == ["run folder:", str(FOLDER)], "the folder's line is whole"
    assert all(len(line) <= 80 for line in lines[:-1])
    text = "\n".join(lines)
    assert "\x1b" not in text and "…" not in text and "..." not in text and text.isascii()
    for name, label in (("accuracy", "accuracy "), ("auroc_macro", "AUROC (macro)"), ("ece", "calibration")):
        line = next(line for line in lines if line.startswith(label))
        low, high = metrics[f"test/{name}_low"], metrics[f"test/{name}_high"]
        assert f"{metrics[f'val/{name}']:.3f}  {metrics[f'test/{name}']:.3f}  {low:.3f} to {high:.3f}" in line
    for _, row in by_class.iterrows():
        line = next(line for line in lines if line.startswith(f"{row['class']} "))
        assert line.split()[1:6] == [
            f"{row['n']}",
            *(f"{row['sensitivity']:.3f} {row['sensitivity_low']:.3f} to {row['sensitivity_high']:.3f}").split(),
        ]
    assert "95 % interval" in text and "swskd-ham10000-seed0 [red]" in lines


def test_long_names_take_one_line_each_and_more_room_in_a_wide_terminal() -> None:
    classes = [f"{i} Psoriasis pictures Lichen Planus and related diseases" for i in range(23)]
    metrics, by_class = results(classes, 23)
    lines = shown(metrics, by_class, width=80)
    assert max(map(len, lines[:-1])) <= 80
    assert [line.split()[0] for line in lines if " Psor" in line] == [str(i) for i in range(23)]
    assert sum(" Psoriasis pictures Lichen Planus and related diseases " in line for line in lines) == 0
    wide = shown(metrics, by_class, width=160)
    assert sum(" Psoriasis pictures Lichen Planus and related diseases " in line for line in wide) == 23


def test_what_is_undefined_or_absent_is_a_dash() -> None:
    metrics, by_class = results(HAM, 1)
    lines = shown({k: v for k, v in metrics.items() if not k.startswith("val/")}, by_class, width=80)
    assert not [line for line in lines if "nan" in line.lower() or "AUROC (macro)" in line]
    accuracy = next(line for line in lines if line.startswith("accuracy"))
    assert accuracy.split()[1] == "-"
    vasc = next(line for line in lines if line.startswith("vasc"))
    assert vasc.split()[1:3] == ["0", "-"] and vasc.split()[-2:] == ["-", "-"]


def test_a_terminal_gets_the_same_words() -> None:
    metrics, by_class = results(HAM, 7)
    lines = shown(metrics, by_class, width=80, force_terminal=True)
    assert lines[-1] == str(FOLDER)
    assert any("\x1b[1m" in line for line in lines)


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_pipe_gets_plain_text_in_any_encoding(encoding: str) -> None:
    code = (
        "import pandas as pd\n"
        "from pathlib import Path\n"
        "from skinkd.runs.tables import next_commands, print_results\n"
        "names = 'n sensitivity sensitivity_low sensitivity_high specificity f1 auroc'.split()\n"
        "by_class = pd.DataFrame([{'class': 'c' * 40, **dict.fromkeys(names, 0.5)}])\n"
        "folder = Path('/x/' + 'y' * 120)\n"
        "print_results({'test/accuracy': 0.5}, by_class, title='t', folder=folder, level=0.9)\n"
    )
    environment = {"PYTHONIOENCODING": encoding, "TERM": "xterm-256color", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    out = done.stdout.decode(encoding)
    assert "\x1b" not in out and out.splitlines()[-1] == "/x/" + "y" * 120
    assert "90 % interval" in out and max(map(len, out.splitlines()[:-1])) <= 80


@pytest.mark.parametrize("name", ["swskd-ham10000-resnet18-seed0-1a2b3c4d", "it's a=[run], (of) 50 %", "größe"])
def test_what_comes_next_can_be_pasted(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    for number in (2, 1):
        (folder / f"wandb/offline-run-{number}").mkdir(parents=True)
    commands = [shlex.split(line) for line in next_commands(folder, tested=True).splitlines() if line.startswith("  ")]
    evaluate, compare, look, upload = commands
    run, *others = OverridesParser.create().parse_overrides(evaluate[3:])
    assert run.key_or_group == "run" and run.value() == str(folder)
    assert {one.key_or_group for one in others} == {"data", "data.root", "data.name"}
    assert compare[2:] == ["skinkd.compare", str(tmp_path)]
    assert Path(url2pathname(urlsplit(look[-1]).path)) == folder / "curves.png"
    assert upload[2:] == ["wandb", "sync", *(f"{folder}/wandb/offline-run-{number}" for number in (1, 2))]


def test_what_comes_next_is_short_and_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("outputs/swskd-ham10000-resnet18-seed0-1a2b3c4d")
    lines = next_commands(folder, tested=True).splitlines()
    assert all(len(line) <= 80 for line in lines if not line.startswith("  "))
    assert "  python -m skinkd.compare outputs" in [
        line.replace(shlex.quote(sys.executable), "python") for line in lines
    ]
    assert not [line for line in lines if "wandb" in line], "nothing was logged offline"
    assert not [line for line in next_commands(folder, tested=False).splitlines() if "compare" in line]
