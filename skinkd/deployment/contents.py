"""What an export folder holds: the network in two or three formats, a reader, checks, scores, and what they come from."""

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from skinkd.card.write import write_card
from skinkd.config.identity import identity
from skinkd.data.files import read_image
from skinkd.data.source import source_of
from skinkd.data.transforms import eval_pipeline
from skinkd.deployment import read_image as reader
from skinkd.deployment.before_after import Line, agreement, as_frame, card_frame, losses, parity, score_lines, slower
from skinkd.deployment.engines import (
    FP32,
    INT8,
    TORCH,
    Engine,
    as_float,
    has_vnni,
    latency,
    onnx_engine,
    score,
    torch_engine,
)
from skinkd.deployment.fitted import fitted_on_validation
from skinkd.deployment.graph import INPUT, LOGITS, PROBABILITIES, trace, write_metadata, write_onnx
from skinkd.deployment.images import batches, calibration_paths, write_golden
from skinkd.deployment.quantize import quantize
from skinkd.deployment.report import print_report, readme
from skinkd.errors import UserError
from skinkd.inference.trained import Trained
from skinkd.models.cost import exit_macs, network_macs
from skinkd.runs.environment import processor
from skinkd.runs.folder import RunFolder
from skinkd.scoring.predictions import prediction_table

FILES = {FP32: "model.onnx", INT8: "model_int8.onnx"}
TORCH_FILE = "model.pt2"
SCORING_BATCH, CALIBRATION_BATCH = 32, 8  # they bound the memory and change no number


def write_contents(
    trained: Trained, rows: pd.DataFrame, folder: Path, settings: dict[str, Any], *, exits: Sequence[str]
) -> bool:
    """Write everything into an empty folder, and print what quantization changed.

    Args:
        trained: a finished run, opened.
        rows: its images (``images.run_images``).
        folder: the empty folder.
        settings: those of conf/export.yaml.
        exits: names of the exits to export.

    Returns:
        Whether int8 keeps within the limits, or the loss is accepted.

    Raises:
        UserError: the float32 file differs from the run's network.
    """
    config = trained.config
    assert config is not None
    inside, facts = RunFolder(folder), describe(trained, settings, exits=exits)
    inside.write_json("preprocess.json", preprocessing(trained.image_size))
    shutil.copyfile(reader.__file__, folder / "read_image.py")
    _write_networks(trained, rows, folder, settings, facts)
    _write_golden(trained, folder)

    test = rows[rows["split"] == "test"].reset_index(drop=True)
    images = batches(
        test["path"].tolist(), image_size=trained.image_size, batch_size=SCORING_BATCH, title="scoring three engines"
    )
    found = score(_engines(trained, folder, threads=0), images)
    same = parity(found[TORCH], found[FP32])
    check_parity(same, settings["limits"], images=len(test))
    tables = {
        name: prediction_table(test, np.arange(len(test)), probabilities, trained.classes)
        for name, (_, probabilities) in found.items()
    }
    _tell("measuring latency, and resampling lesions for the intervals")
    lines = _cost_lines(trained, folder, settings["latency"])
    lines += score_lines(tables, trained.classes, evaluation=config["evaluation"], seed=config["seed"])
    agreed = agreement(tables, trained.classes)
    failed, level = losses(lines, agreed, settings["limits"]), config["evaluation"]["interval"]
    notes = _notes(lines, agreed, same, images=len(test), threads=settings["latency"]["threads"])

    facts |= {
        "test": {"images": len(test), "lesions": int(test["group"].nunique())},
        "int8": {**settings["int8"], "within_limits": not failed, "losses": failed},
    }
    inside.write_csv("before_after.csv", as_frame(lines))
    inside.write_json(
        "before_after.json",
        {
            "rows": json.loads(as_frame(lines).to_json(orient="records", double_precision=15)),
            "interval": level,
            "agreement": agreed,
            "parity": same,
            "latency": {"threads": settings["latency"]["threads"], "processor": processor(), "vnni": has_vnni()},
            "losses": failed,
            "notes": notes,
        },
    )
    inside.write_json("export.json", facts)
    sentences = [f"{words}." for words in (*failed, *notes)]
    write_card(trained, folder, paths=settings["paths"], export=card_frame(lines), export_notes=sentences)
    inside.write_text("README.md", readme(facts, lines, warnings=failed, notes=notes, level=level))
    print_report(lines, warnings=failed, notes=notes, level=level)
    return not failed or settings["accept_loss"]


def describe(trained: Trained, settings: Mapping[str, Any], *, exits: Sequence[str]) -> dict[str, Any]:
    """Return what export.json says of the network, its files and its run, before anything is scored."""
    assert trained.run is not None and trained.config is not None
    network: Any = trained.network
    table = trained.config["data"]["table"]
    source = source_of(table)
    early_exit = None
    if exits:
        macs = exit_macs(network, trained.image_size)
        early_exit = {
            "threshold": settings["early_exit_threshold"],
            "order": list(exits),
            "macs": {name: macs[name] for name in exits} | {"whole network": macs[""]},
        }
    return {
        "classes": list(trained.classes),
        "image_size": trained.image_size,
        "files": dict(FILES) | ({"torch": TORCH_FILE} if "torch" in settings["formats"] else {}),
        "input": {
            "name": INPUT,
            "dtype": "uint8" if settings["input_type"] == "uint8" else "float32",
            "layout": "NCHW",
            "colours": "RGB",
        },
        "outputs": {name: name for name in (LOGITS, PROBABILITIES, *exits)},
        "early_exit": early_exit,
        **fitted_on_validation(trained, level=settings["conformal_level"]),
        "run": {
            "name": trained.run.path.resolve().name,
            "method": trained.config["method"]["name"],
            "data": trained.config["data"]["name"],
            "backbone": trained.config["backbone"]["name"],
            "configuration": identity(trained.config),
            "commit": _commit_of(trained.run),
        },
        "licence": "unknown" if source is None else source.licence_for(table),
        "licence_note": "" if source is None else source.licence_note,
    }


def preprocessing(image_size: int) -> dict[str, Any]:
    """Return the steps of read_image.py as data."""
    return {
        "image_size": image_size,
        "decode": "8-bit RGB, upright by the EXIF orientation, transparent pixels on white",
        "resize": "shorter side to image_size; cv2.INTER_AREA to shrink, cv2.INTER_LINEAR to grow",
        "crop": "central square",
        "normalisation": "inside the network",
    }


def check_parity(found: Mapping[str, float], limits: Mapping[str, float], *, images: int) -> None:
    """Raise UserError if the float32 file differs from the run's network by more than the limits."""
    if found["probability"] > limits["probability"] or found["logit"] > limits["logit"] or found["predictions"]:
        raise UserError(
            f"the exported network differs from the run's on its {images} test images: by {found['probability']:.1e} in a "
            f"probability, by {found['logit']:.1e} of the largest logit, and in {found['predictions']:.0f} predictions; the "
            f"limits are {limits['probability']:g}, {limits['logit']:g} and none (limits.probability, limits.logit)"
        )


def _tell(words: str) -> None:
    """Say what happens on the terminal, beside the output, whose first line is for what int8 loses."""
    print(words, file=sys.stderr, flush=True)


def _commit_of(run: RunFolder) -> str:
    file = run.path / "environment.txt"
    lines = file.read_text("utf-8").splitlines() if file.is_file() else []
    return next((line.removeprefix("commit ") for line in lines if line.startswith("commit ")), "unknown")


def _write_networks(
    trained: Trained, rows: pd.DataFrame, folder: Path, settings: Mapping[str, Any], facts: Mapping[str, Any]
) -> None:
    """Write model.onnx, model_int8.onnx, and model.pt2 if asked."""
    metadata = {
        "classes": json.dumps(facts["classes"], ensure_ascii=False),
        "licence": facts["licence"],
        "run": json.dumps(facts["run"], ensure_ascii=False),
        "preprocess": json.dumps(preprocessing(trained.image_size)),
    }
    exits = [name for name in facts["outputs"] if name not in (LOGITS, PROBABILITIES)]
    _tell("writing the network in float32")
    program = trace(trained.network, image_size=trained.image_size, input_type=settings["input_type"], exits=exits)
    if TORCH_FILE in facts["files"].values():
        torch.export.save(program, folder / TORCH_FILE)
    write_onnx(program, folder / FILES[FP32], exits=exits, metadata=metadata)
    int8 = settings["int8"]
    chosen = calibration_paths(rows, images=int8["calibration_images"], seed=int8["calibration_seed"])
    _tell(f"writing the network in int8, calibrated on {len(chosen)} training images")
    images = batches(chosen, image_size=trained.image_size, batch_size=CALIBRATION_BATCH, title="calibrating")
    quantize(
        folder / FILES[FP32],
        folder / FILES[INT8],
        images if settings["input_type"] == "uint8" else map(as_float, images),
        keep_first_convolution=int8["keep_first_convolution"],
        keep_classifier=int8["keep_classifier"],
    )
    write_metadata(folder / FILES[INT8], metadata)


def _write_golden(trained: Trained, folder: Path) -> None:
    """Write the golden images, and golden.json with the probabilities that the run's network gives them in PyTorch."""
    pipeline, engine = eval_pipeline(image_size=trained.image_size), torch_engine(trained.network)
    expected = {}
    for path in write_golden(folder / "golden", image_size=trained.image_size):
        image = pipeline(image=read_image(path))["image"].transpose(2, 0, 1)[None].copy()
        expected[f"golden/{path.name}"] = dict(zip(trained.classes, engine(image)[1][0].tolist(), strict=True))
    RunFolder(folder).write_json("golden.json", expected)


def _engines(trained: Trained, folder: Path, *, threads: int) -> dict[str, Engine]:
    files = {name: onnx_engine(folder / file, threads=threads) for name, file in FILES.items()}
    return {TORCH: torch_engine(trained.network), **files}


def _cost_lines(trained: Trained, folder: Path, settings: Mapping[str, Any]) -> list[Line]:
    """Return size, parameters, multiply-adds, and the latency for each size of a batch."""
    state = trained.network.state_dict().values()
    sizes = {TORCH: sum(tensor.nbytes for tensor in state) / 1e6}
    sizes |= {name: (folder / file).stat().st_size / 1e6 for name, file in FILES.items()}
    parameters = sum(parameter.numel() for parameter in trained.network.parameters()) / 1e6
    macs = network_macs(trained.network, trained.image_size) / 1e6
    lines = [
        Line("size_mb", "size, MB", sizes),
        Line("parameters_millions", "parameters, millions", {TORCH: parameters}),
        Line("macs_millions", "MACs, millions", {TORCH: macs}),
    ]
    engines = _engines(trained, folder, threads=settings["threads"])
    rng = np.random.default_rng(0)  # noise: latency does not depend on what an image shows
    for size in settings["batch_sizes"]:
        images = rng.integers(0, 256, (size, 3, trained.image_size, trained.image_size), dtype=np.uint8)
        median = latency(
            engines, images, threads=settings["threads"], rounds=settings["rounds"], seconds=settings["seconds"]
        )
        lines.append(Line(f"latency_{size}_ms", f"ms, batch of {size}", median))
    return lines


def _notes(
    lines: Sequence[Line], agreed: Mapping[str, float], same: Mapping[str, float], *, images: int, threads: int
) -> list[str]:
    return [
        f"int8 and float32 give the same prediction for {100 * agreed['same_prediction']:.1f} % of the {images} test images; "
        f"the largest change of a probability is {agreed['largest_change']:.3f}",
        f"float32 and PyTorch differ by at most {same['probability']:.1e} in a probability",
        f"latency: median, {threads} thread{'s' if threads > 1 else ''}, the three in turn; {processor()}, "
        f"{'with' if has_vnni() else 'without'} VNNI",
        *slower(lines),
    ]
