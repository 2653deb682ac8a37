"""Pictures and tables for a look at the data before training: contact sheet, class table, augmented examples."""

import base64
import html
import io
from pathlib import Path

import albumentations as A
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from skinkd.data.files import read_image
from skinkd.data.splits import PARTS
from skinkd.data.table import ImageTable
from skinkd.data.transforms import seed_pipeline
from skinkd.runs.files import written_atomically


def class_table(table: ImageTable, parts: pd.Series | None) -> pd.DataFrame:
    """Return a row for each class and one for all: images, groups, share, and if ``parts`` is given the images of each."""
    frame = table.frame if parts is None else table.frame.assign(part=parts.to_numpy())
    rows = []
    for label, name in [*enumerate(table.classes), (None, "all")]:
        own = frame if label is None else frame[frame["label"] == label]
        rows.append(
            {
                "class": name,
                "images": len(own),
                "groups": own["group"].nunique(),
                "share": len(own) / len(frame),
                **({} if parts is None else {part: int((own["part"] == part).sum()) for part in PARTS}),
            }
        )
    return pd.DataFrame(rows)


def contact_sheet(table: ImageTable, *, each: int, inches: float, seed: int) -> Figure:
    """Return a figure with a row of ``each`` images of every class, drawn by ``seed``."""
    figure, axes = _grid(len(table.classes), each, inches)
    rng = np.random.default_rng(seed)
    for label, name in enumerate(table.classes):
        own = table.frame[table.frame["label"] == label]
        chosen = own.iloc[np.sort(rng.permutation(len(own))[:each])]
        for axis, (_, row) in zip(axes[label], chosen.iterrows(), strict=False):
            axis.imshow(read_image(row["path"]))
            axis.set_title(_short(row["image_id"]), fontsize=5, pad=2, parse_math=False)
        axes[label][0].text(
            -0.08,
            0.5,
            f"{name}\n{len(own):,}",
            transform=axes[label][0].transAxes,
            ha="right",
            va="center",
            fontsize=8,
            parse_math=False,
        )
    return figure


def augment_sheet(
    table: ImageTable, pipeline: A.Compose, *, images: int, copies: int, inches: float, seed: int
) -> Figure:
    """Return a figure with a row for each of ``images`` images: the image, then ``copies`` augmented copies."""
    figure, axes = _grid(images, copies + 1, inches)
    rng = np.random.default_rng(seed)
    for row, place in zip(axes, np.sort(rng.permutation(len(table))[:images]), strict=False):
        image = read_image(table.frame["path"].iloc[place])
        row[0].imshow(image)
        row[0].set_title(_short(table.frame["image_id"].iloc[place]), fontsize=5, pad=2, parse_math=False)
        for number, axis in enumerate(row[1:]):
            seed_pipeline(pipeline, np.random.default_rng((seed, number, int(place))))
            axis.imshow(pipeline(image=image)["image"])
    return figure


def page(title: str, rows: pd.DataFrame, sheet: bytes) -> str:
    """Return a self-contained HTML page of a class table and a contact sheet (PNG bytes)."""
    body = rows.to_html(index=False, border=0, float_format=lambda value: f"{value:.1%}", escape=True)
    picture = base64.b64encode(sheet).decode()
    return (
        f'<!doctype html><meta charset="utf-8"><title>{html.escape(title)}</title>'
        "<style>body{font:15px system-ui;margin:2em}td,th{padding:.2em .8em;text-align:right}"
        "td:first-child,th:first-child{text-align:left}img{max-width:100%}</style>"
        f'<h1>{html.escape(title)}</h1>{body}<img alt="examples of each class" src="data:image/png;base64,{picture}">'
    )


def png(figure: Figure) -> bytes:
    """Return a figure as PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120, bbox_inches="tight")
    return stream.getvalue()


def table_picture(rows: pd.DataFrame) -> Figure:
    """Return a class table as a figure."""
    figure = Figure(figsize=(7, 0.3 * (len(rows) + 1)))
    axis = figure.subplots()
    axis.axis("off")
    text = rows.assign(share=[f"{value:.1%}" for value in rows["share"]]).astype(str)
    cells = axis.table(text.to_numpy().tolist(), colLabels=list(text.columns), loc="center", edges="horizontal")
    for cell in cells.get_celld().values():
        cell.get_text().set_parse_math(False)  # two $ in a name are no formula
    cells.auto_set_column_width(range(len(text.columns)))
    return figure


def write(path: Path, data: bytes) -> Path:
    """Write a file in one step, and make its folder if it is absent."""
    with written_atomically(path) as temporary:
        temporary.write_bytes(data)
    return path


def _grid(rows: int, columns: int, inches: float) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(columns * inches, rows * inches))
    axes = figure.subplots(rows, columns, squeeze=False, gridspec_kw={"wspace": 0.05, "hspace": 0.2})
    for axis in axes.flat:
        axis.axis("off")
    return figure, axes


def _short(name: str) -> str:
    return name if len(name) <= 28 else "…" + name[-27:]
