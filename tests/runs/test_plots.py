"""The pictures are drawn, whole or not at all, without a display, for few and many epochs and classes."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import train_process
from matplotlib.figure import Figure
from PIL import Image

from skinkd.runs.plots import plot_confusion, plot_curves
from skinkd.scoring.predictions import prediction_table


def make_history(epochs: int, terms: int) -> pd.DataFrame:
    epoch = np.arange(1, epochs + 1)
    columns = {"epoch": epoch, "train/loss": 1 / epoch, "val/loss": 2 / epoch}
    columns |= {f"train/term{i}": 10.0 ** (2 - i) / epoch for i in range(terms)}
    columns |= {f"val/{name}": epoch / (epochs + 1) for name in ("accuracy", "auroc_macro", "sensitivity/mel")}
    return pd.DataFrame({**columns, "lr": 0.1 / epoch, "seconds": 1.5, "images_per_second": 40.0})


def make_table(classes: list[str], n: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    label = rng.integers(len(classes), size=n)
    p = rng.random((n, len(classes))) + np.eye(len(classes))[label]
    rows = pd.DataFrame(
        {
            "image_id": [f"i{i:05d}" for i in range(n)],
            "group": [f"g{i}" for i in range(n)],
            "label": [classes[c] for c in label],
        }
    )
    return prediction_table(rows, np.arange(n), p / p.sum(axis=1, keepdims=True), classes)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures as they were when saved."""
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(self: Figure, *args: object, **kwargs: object) -> None:
        save(self, *args, **kwargs)
        figures.append(self)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def is_picture(path: Path) -> bool:
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG" and min(image.size) > 300 and max(image.size) < 3000
        return np.asarray(image.convert("L")).std() > 5


@pytest.mark.parametrize(("epochs", "terms"), [(1, 0), (1, 3), (15, 9), (200, 4)])
def test_curves_hold_every_term_and_mark_the_selected_epoch(
    tmp_path: Path, drawn: list[Figure], epochs: int, terms: int
) -> None:
    history, best = make_history(epochs, terms), max(1, epochs - 2)
    path = tmp_path / "curves.png"
    assert plot_curves(history, path, best_epoch=best) == path and is_picture(path)
    axes = {axis.get_title(): axis for axis in drawn[0].axes}
    titles = ["Loss", "Training terms, unweighted", "Validation metrics", "Learning rate"]
    assert list(axes) == [title for title in titles if terms or not title.startswith("Training")]
    curves = {
        title: {line.get_label(): line for line in axis.lines if len(line.get_xdata()) == epochs or epochs == 1}
        for title, axis in axes.items()
    }
    np.testing.assert_array_equal(curves["Loss"]["validation"].get_ydata(), history["val/loss"])
    np.testing.assert_array_equal(curves["Validation metrics"]["AUROC (macro)"].get_xdata(), history["epoch"])
    for i in range(terms):
        line = curves["Training terms, unweighted"][f"term{i}"]
        np.testing.assert_array_equal(line.get_ydata(), history[f"train/term{i}"])
    looks = [
        (line.get_color(), line.get_linestyle())
        for name, line in curves.get("Training terms, unweighted", {}).items()
        if name.startswith("term")
    ]
    assert len(set(looks)) == terms, "two terms look alike"
    for axis in axes.values():
        assert [line for line in axis.lines if list(line.get_xdata()) == [best, best]]


def test_curves_skip_gaps_and_what_is_absent(tmp_path: Path, drawn: list[Figure]) -> None:
    history = make_history(6, 1).drop(columns=["lr", "val/accuracy", "val/auroc_macro"])
    history.loc[[1, 3], "val/loss"] = np.nan
    history["train/term0"] = np.nan
    plot_curves(history, tmp_path / "curves.png", best_epoch=2)
    assert [axis.get_title() for axis in drawn[0].axes] == ["Loss"]
    validation = next(line for line in drawn[0].axes[0].lines if line.get_label() == "validation")
    assert validation.get_xdata().tolist() == [1, 3, 5, 6]


@pytest.mark.parametrize("k", [2, 7, 23])
def test_confusion_cells_stay_inside_and_names_inside_the_picture(tmp_path: Path, drawn: list[Figure], k: int) -> None:
    classes = [f"{'a rather long name of a class ' * (k == 23)}c{i}" for i in range(k)]
    table = make_table(classes, 60 * k)
    path = tmp_path / "confusion_matrix.png"
    assert plot_confusion(table, classes, path) == path and is_picture(path)
    figure = drawn[0]
    axes = figure.axes[0]
    renderer = figure.canvas.get_renderer()
    cell = axes.get_window_extent(renderer).width / k
    total = 0
    for text in axes.texts:
        extent = text.get_window_extent(renderer)
        assert extent.width < cell and extent.height < cell, text.get_text()
        total += int(text.get_text().split("\n")[0].replace(",", ""))
    assert total == len(table)
    for label, name in zip(axes.get_yticklabels(), classes, strict=True):
        assert f"(n = {(table['label'] == name).sum()})" in label.get_text()
    boxes = [label.get_window_extent(renderer) for label in axes.get_yticklabels()]
    assert not any(a.overlaps(b) for a, b in pairwise(boxes))


def test_confusion_of_a_class_without_images_and_with_odd_names(tmp_path: Path) -> None:
    classes = ["a$b$", "c_{d", "<naïve>"]
    table = make_table(classes, 30)
    table = table[table["label"] != "c_{d"]
    assert is_picture(plot_confusion(table, classes, tmp_path / "confusion_matrix.png"))


def test_the_same_run_gives_the_same_file(tmp_path: Path) -> None:
    history = make_history(5, 2)
    first = plot_curves(history, tmp_path / "a.png", best_epoch=2).read_bytes()
    assert first == plot_curves(history, tmp_path / "b.png", best_epoch=2).read_bytes()


def test_a_failure_keeps_the_old_picture_and_leaves_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "curves.png"
    path.write_bytes(b"old")

    def full(self: Figure, file: Path, **_: object) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(OSError, match="No space"):
        plot_curves(make_history(3, 1), path, best_epoch=1)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


FRESH = """
import os, sys
os.environ.pop("DISPLAY", None)
for name in [name for name in sys.modules if name.partition(".")[0] in ("matplotlib", "mpl_toolkits", "skinkd")]:
    del sys.modules[name]  # Matplotlib reads the environment as it is imported
import matplotlib as mpl
import pandas as pd
from pathlib import Path
from skinkd.runs.plots import plot_curves
before = dict(mpl.rcParams)
plot_curves(pd.DataFrame({"epoch": [1], "train/loss": [1.0]}), Path("curves.png"), best_epoch=1)
assert dict(mpl.rcParams) == before
pyplot = sys.modules.get("matplotlib.pyplot")
assert pyplot is None or not pyplot.get_fignums()
"""


def test_neither_a_display_nor_global_state_is_touched(tmp_path: Path) -> None:
    (tmp_path / "fresh.py").write_text(FRESH)
    done = train_process.run([], folder=tmp_path, module=str(tmp_path / "fresh.py"), env={"MPLBACKEND": "tkagg"})
    assert done.code == 0, done.err
    assert is_picture(tmp_path / "curves.png")
