"""The targets of an export, as a table: python benchmarks/export_bench.py [preset …] [--threads 1] [--rounds 15]
[--calibration 8].

For each preset of conf/backbone it exports an untrained network at 224 px to float32 and int8, and compares sizes and
latencies. Weights change neither. The engines take turns, and the median of the rounds counts. With one thread the time is
the processor's time of that thread, which other programs on the machine disturb least. Each ratio has a target or none; a
target that is missed is marked. Calibration uses 8 random images: their number changes neither size nor latency. It may
change the memory, whose peak stands below the table; give a single preset and the number of a real export, 256, for it.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from skinkd.build.construct import build
from skinkd.deployment.contents import CALIBRATION_BATCH
from skinkd.deployment.engines import FP32, INT8, TORCH, Engine, has_vnni, latency, onnx_engine, torch_engine
from skinkd.deployment.graph import trace, write_onnx
from skinkd.deployment.quantize import quantize
from skinkd.runs.environment import processor

IMAGE_SIZE = 224
PRESETS = ("resnet18", "resnet50", "mobilenetv2_100", "efficientnet_b0", "convnext_tiny", "densenet121")
PRESETS += ("vit_tiny", "mskd_student", "mskd_teacher")
SIZE = {"resnet18": 0.27, "resnet50": 0.27, "convnext_tiny": 0.27}
SIZE |= {"mobilenetv2_100": 0.32, "efficientnet_b0": 0.32, "mskd_student": 0.32, "mskd_teacher": 0.32}
OF_TORCH = {"resnet18": 0.35, "resnet50": 0.35, "mobilenetv2_100": 0.35}
OF_FP32 = {"resnet18": 0.75, "resnet50": 0.75, "mobilenetv2_100": 0.75}
HEADER = ("network", "size", "float32, ms", "int8, ms", "PyTorch, ms", "int8 / PyTorch", "int8 / float32")


def network_of(preset: str) -> Any:
    """Return a preset's untrained network in eval mode."""
    with initialize_config_module(version_base="1.3", config_module="skinkd.conf"):
        words = [f"backbone={preset}", "backbone.pretrained=false", f"data.image_size={IMAGE_SIZE}"]
        config: Any = OmegaConf.to_container(compose("train", overrides=words).backbone, resolve=True)
    torch.manual_seed(0)
    return build(config, place="backbone", num_classes=7).eval()


def measure(preset: str, *, threads: int, rounds: int, batch: int, calibration: int) -> dict[str, float]:
    """Return the size ratio, and the milliseconds of each engine."""
    network, rng = network_of(preset), np.random.default_rng(0)
    images = rng.integers(0, 256, (max(batch, CALIBRATION_BATCH), 3, IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
    given = (images[:CALIBRATION_BATCH] for _ in range(max(1, calibration // CALIBRATION_BATCH)))  # a batch at a time
    with tempfile.TemporaryDirectory() as folder:
        fp32, int8 = Path(folder) / "model.onnx", Path(folder) / "int8.onnx"
        program = trace(network, image_size=IMAGE_SIZE, input_type="uint8", exits=())
        write_onnx(program, fp32, exits=(), metadata={})
        quantize(fp32, int8, given, keep_first_convolution=True, keep_classifier=True)
        size = int8.stat().st_size / fp32.stat().st_size
        engines: dict[str, Engine] = {TORCH: torch_engine(network)}
        engines |= {FP32: onnx_engine(fp32, threads=threads), INT8: onnx_engine(int8, threads=threads)}
        clock = time.thread_time if threads == 1 else time.perf_counter
        return {"size": size} | latency(
            engines, images[:batch], threads=threads, rounds=rounds, seconds=60, clock=clock
        )


def peak_mb() -> float:
    """Return the most memory that this process has taken so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def shown(value: float, target: float | None) -> str:
    """Return a ratio, and where it has a target whether it is met."""
    if target is None:
        return f"{value:.2f}"
    return f"{value:.2f} ({'≤' if value <= target else 'missed:'} {target:.2f})"


def row(preset: str, found: dict[str, float]) -> list[str]:
    """Return a line of the table."""
    return [
        f"`{preset}`",
        shown(round(found["size"], 3), SIZE.get(preset)),
        *(f"{found[name]:.1f}" for name in (FP32, INT8, TORCH)),
        shown(found[INT8] / found[TORCH], OF_TORCH.get(preset)),
        shown(found[INT8] / found[FP32], OF_FP32.get(preset)),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table as Markdown, a line as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("presets", nargs="*", default=list(PRESETS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--calibration", type=int, default=CALIBRATION_BATCH)
    before = peak_mb()
    options = parser.parse_args(arguments)
    print(
        f"{processor()}, {'with' if has_vnni() else 'without'} VNNI; {options.threads} thread(s), {IMAGE_SIZE} px, ",
        end="",
    )
    print(f"batch {options.batch}, median of at most {options.rounds} rounds; PyTorch {torch.__version__}\n")
    print(f"| {' | '.join(HEADER)} |\n| --- |{' ---: |' * (len(HEADER) - 1)}")
    for preset in options.presets:
        found = measure(
            preset, threads=options.threads, rounds=options.rounds, batch=options.batch, calibration=options.calibration
        )
        print(f"| {' | '.join(row(preset, found))} |", flush=True)
    print(f"\npeak memory {peak_mb():.0f} MB, {before:.0f} MB of it before the first network")


if __name__ == "__main__":
    main()
