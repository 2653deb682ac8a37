"""The texts of an export: the table before and after in the terminal, and the README of the folder."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from skinkd.deployment.before_after import Line
from skinkd.deployment.engines import FP32, INT8, TORCH
from skinkd.runs.tables import plain_table

NAMES = {TORCH: "PyTorch", FP32: "float32", INT8: "int8"}
_NAME_ROOM = 20  # characters of a name, so that the table fits 80 columns
_SENSITIVITY = "sensitivity/"


def print_report(
    lines: Sequence[Line],
    *,
    warnings: Sequence[str],
    notes: Sequence[str],
    level: float,
    console: Console | None = None,
) -> None:
    """Print the table; warnings come before it, notes after it. In a pipe or file it is plain text of 80 columns."""
    console = console or Console(highlight=False)
    for warning in warnings:
        console.print(Text(f"warning: {warning}", style="bold"))
    by_class = [line for line in lines if line.name.startswith(_SENSITIVITY)]
    for heading, part in (("", [line for line in lines if line not in by_class]), ("sensitivity", by_class)):
        table = plain_table(heading, "images", *NAMES.values(), "change", f"{100 * level:g} % interval")
        for line in part:
            label = line.label if len(line.label) <= _NAME_ROOM else f"{line.label[: _NAME_ROOM - 3]}..."
            cells = [_number(line, engine) for engine in NAMES]
            table.add_row(Text(label), "" if line.n is None else f"{line.n:,}", *cells, *_change(line))
        console.print()
        console.print(table)
    console.print(Text("\nchange: from float32 to int8, of the same images; for a cost, int8 as a share of float32"))
    for note in notes:
        console.print(Text(f"note: {note}"))


def _number(line: Line, engine: str) -> str:
    value = line.values.get(engine)
    if value is None:
        return ""
    if line.n is not None:
        return f"{value:.3f}"
    return f"{value:,.0f}" if value >= 1000 else f"{value:#.3g}".rstrip(".")


def _change(line: Line) -> tuple[str, str]:
    """Return difference and interval of a score; of a cost, int8 as a share of float32."""
    if line.difference is None:
        if INT8 not in line.values:
            return "", ""
        return f"x {line.values[INT8] / line.values[FP32]:.2f}", ""
    bounds = f"{line.low:+.3f} to {line.high:+.3f}" if line.low is not None else ""
    return f"{line.difference:+.3f}", bounds


def markdown_table(lines: Sequence[Line], *, level: float) -> str:
    """Return the table as Markdown."""
    rows = [
        f"| | images | {' | '.join(NAMES.values())} | int8 − float32 | {100 * level:g} % interval |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for line in lines:
        sensitivity = "sensitivity, " if line.name.startswith(_SENSITIVITY) else ""
        label = sensitivity + line.label.replace("|", r"\|")
        cells = [label, "" if line.n is None else str(line.n), *(_number(line, engine) for engine in NAMES)]
        rows.append(f"| {' | '.join([*cells, *_change(line)])} |")
    return "\n".join(rows)


RUN = """\
import json
import numpy as np
import onnxruntime
from read_image import read_image

session = onnxruntime.InferenceSession("model.onnx")    # or model_int8.onnx
images = np.stack([read_image("golden/mel.png")]){division}
logits, probabilities = session.run(["logits", "probabilities"], {{"image": images}})
classes = json.load(open("export.json"))["classes"]
print(dict(zip(classes, probabilities[0].tolist())))"""


def readme(
    facts: Mapping[str, Any], lines: Sequence[Line], *, warnings: Sequence[str], notes: Sequence[str], level: float
) -> str:
    """Return the README.md of an export folder; ``facts`` are those of export.json."""
    as_float = facts["input"]["dtype"] == "float32"
    size = facts["image_size"]
    files = [
        ("model.onnx", "the network in float32: normalisation inside, any number of images at once"),
        ("model_int8.onnx", "the same in int8: static, per channel, QDQ; ranges from training images"),
        *([("model.pt2", "the same for `torch.export.load`")] if "torch" in facts["files"] else []),
        ("read_image.py", "a reader of image files; needs NumPy and OpenCV alone"),
        ("preprocess.json", "what the reader does, as data"),
        (
            "golden/",
            "three drawn lesions (ours, no photographs), and in golden.json the probabilities that the network gives",
        ),
        ("before_after.csv, .json", "the table below with every digit"),
        ("export.json", "classes, input and outputs, calibration, and the run that this comes from"),
        ("MODEL_CARD.md, model_card.json", "what the network is: data, scores with intervals, recipe, limits"),
    ]
    parts = [
        *(f"**Warning:** {warning}." for warning in warnings),
        f"# {facts['run']['name']}, exported",
        "Research software, not a medical device. Terms of use of the training data: "
        + f"{facts['licence']}. {facts['licence_note']}".strip(),
        "| file | |\n| --- | --- |\n" + "\n".join(f"| `{name}` | {words} |" for name, words in files),
        "## Use",
        f"Needs `onnxruntime`, `numpy` and `opencv-python-headless`.\n\n```python\n"
        f"{RUN.format(division='.astype(np.float32) / 255' if as_float else '')}\n```",
        f"Input `image`: {facts['input']['dtype']} (N, 3, {size}, {size}), RGB"
        + (", in [0, 1]" if as_float else "")
        + f". Outputs: {', '.join(f'`{name}`' for name in facts['outputs'].values())}, float32 (N, {len(facts['classes'])}). "
        f"Classes: {', '.join(facts['classes'])}.",
        "The probabilities are those of the network. `temperature` in export.json calibrates them: softmax of logits / "
        "temperature."
        if facts["temperature"]
        else "The probabilities are those of the network, not calibrated.",
        f"## Before and after\n\nOn the {facts['test']['images']} test images ({facts['test']['lesions']} lesions) of the run; "
        f"differences are paired by image, their {100 * level:g} % intervals resample lesions.",
        markdown_table(lines, level=level),
        "\n".join(f"- {note}" for note in notes),
    ]
    return "\n\n".join(parts) + "\n"
