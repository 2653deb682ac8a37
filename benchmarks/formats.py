"""Which number format and which memory layout are fastest, by network, image size and kind of processor.

Run ``python benchmarks/formats.py [--networks resnet18,…] [--sizes 64,96,224] [--processor amx] [--json FILE]``. Each network
is timed in four formats, in turn: float32 and bfloat16 (autocast), each in the usual layout and in channels-last. A training
step is forward, cross-entropy, backward, zero_grad; a teacher's pass is forward without gradients. The figures are medians of
the processor's time of one thread, so that other work on the machine changes them little.

``--processor`` keeps oneDNN, which does the convolutions, from the later units of the processor, as older ones lack them:
``amx`` (all), ``avx512_bf16`` (no AMX), ``avx512`` (no bfloat16 at all), ``avx2``. On a GPU (``--device cuda``) the device's
own clock is read.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ISA = {"amx": "ALL", "avx512_bf16": "AVX512_CORE_BF16", "avx512": "AVX512_CORE_VNNI", "avx2": "AVX2"}
FORMATS = [("fp32", False), ("fp32", True), ("bf16", False), ("bf16", True)]
NETWORKS = [
    *("resnet10t_half", "resnet18", "resnet50", "resnet101", "densenet121", "mobilenetv2_100", "efficientnet_b0"),
    *("efficientnet_b4", "tf_efficientnet_lite0", "convnext_tiny", "vit_tiny", "mskd_student", "mskd_teacher"),
]
CLASSES = 7


def build(name: str, size: int) -> Any:
    """The network of a choice of ``backbone``, or timm's network of that name."""
    from hydra import compose, initialize_config_module
    from hydra.utils import instantiate

    import skinkd.config.cli  # noqa: F401  (registers the launcher that the configuration names)
    from skinkd.config.resolve import resolved

    known = (Path(__file__).parents[1] / "conf" / "backbone" / f"{name}.yaml").exists()
    choice = [f"backbone={name}"] if known else ["backbone=timm", f"backbone.name={name}"]
    with initialize_config_module(version_base="1.3", config_module="skinkd.conf"):
        config = resolved(compose("train", [*choice, f"data.image_size={size}", "backbone.pretrained=false"]))
    return instantiate(config["backbone"], num_classes=CLASSES, _convert_="all")


def clock(device: str) -> Callable[[Callable[[], None]], float]:
    """A function that runs a step and returns its milliseconds."""
    import torch

    def on_cpu(step: Callable[[], None]) -> float:
        began = time.process_time()
        step()
        return 1000 * (time.process_time() - began)

    def on_cuda(step: Callable[[], None]) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        step()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end)

    return on_cpu if device == "cpu" else on_cuda


def measure(name: str, size: int, *, device: str, seconds: float) -> dict[str, Any]:
    """Milliseconds of a training step and of a pass without gradients, in each format."""
    import torch
    from torch.nn.functional import cross_entropy

    images = {64: 64, 96: 32}.get(size, 8)
    image = torch.randint(0, 256, (images, 3, size, size), dtype=torch.uint8, device=device)
    label = torch.randint(CLASSES, (images,), device=device)
    timed = clock(device)
    networks = {layout: build(name, size).to(device) for layout in (False, True)}
    networks[True].to(memory_format=torch.channels_last)

    def step(kind: str, layout: bool, *, training: bool) -> None:
        network = networks[layout]
        with torch.autocast(device, dtype=torch.bfloat16, enabled=kind == "bf16"):
            if not training:
                with torch.no_grad():
                    network(image)
                return
            logits = network(image)
        cross_entropy(logits.float(), label).backward()
        network.zero_grad()

    row: dict[str, Any] = {"network": name, "size": size, "images": images}
    for kind, training in (("train", True), ("pass", False)):
        for network in networks.values():
            network.train(training)
        times: dict[tuple[str, bool], list[float]] = {form: [] for form in FORMATS}
        began = time.process_time()
        for number in range(30):
            for form in FORMATS:
                spent = timed(partial(step, *form, training=training))
                if number:  # the first is a warm-up
                    times[form].append(spent)
            if number >= 3 and time.process_time() - began > seconds:
                break
        for (precision, layout), values in times.items():
            row[f"{kind} {precision}{' channels_last' if layout else ''}"] = round(statistics.median(values), 2)
    return row


def line(row: dict[str, Any]) -> str:
    """A line of the Markdown table: milliseconds in float32, then how many times as fast each other format is."""
    cells = [row["network"], f"{row['size']}", f"{row['images']}"]
    for kind in ("train", "pass"):
        first = row[f"{kind} fp32"]
        cells.append(f"{first:.0f}")
        cells += [
            f"{first / row[f'{kind} {name}']:.2f}" for name in ("fp32 channels_last", "bf16", "bf16 channels_last")
        ]
    return f"| {' | '.join(cells)} |"


HEAD = """| network | px | images | step, ms | fp32 c.l. | bf16 | bf16 c.l. | pass, ms | fp32 c.l. | bf16 | bf16 c.l. |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--sizes", default="64,96,224")
    parser.add_argument("--processor", choices=ISA, default="amx")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--seconds", type=float, default=4, help="for each kind of step of each network and size")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if os.environ.get("ONEDNN_MAX_CPU_ISA") != ISA[arguments.processor]:
        # read once, when the library is loaded
        environment = os.environ | {"ONEDNN_MAX_CPU_ISA": ISA[arguments.processor], "OMP_NUM_THREADS": "1"}
        sys.exit(subprocess.run([sys.executable, *sys.argv], env=environment).returncode)
    import torch

    print(f"processor={arguments.processor} device={arguments.device} torch={torch.__version__}\n{HEAD}", flush=True)
    rows = []
    for name in arguments.networks.split(","):
        for size in map(int, arguments.sizes.split(",")):
            rows.append(measure(name, size, device=arguments.device, seconds=arguments.seconds))
            print(line(rows[-1]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
