"""A training step on a CPU whose freed memory malloc keeps, as in every run, or gives back, as glibc does by default.

``python benchmarks/freed_memory.py`` prints the processor's time of one thread for a step, and the process's peak memory. Each
setting has a fresh process, in turn.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

STEPS = [
    # network, px, images, bfloat16: what a run takes by default here (docs/performance.md)
    *(("resnet18", 64, 64, True), ("resnet18", 224, 32, True), ("resnet50", 224, 16, True)),
    *(("mobilenetv2_100", 64, 64, False), ("mobilenetv2_100", 224, 32, False)),
    *(("tf_efficientnet_lite0", 96, 128, False), ("tf_efficientnet_lite0", 96, 256, False)),
]
SETTINGS = ("given back", "kept")


def measure(name: str, px: int, images: int, bf16: bool, *, kept: bool) -> dict[str, float]:
    """Seconds of the processor for a step, the median of five, and the peak memory in GiB; needs a process of its own."""
    import time

    import timm
    import torch

    from skinkd.config.process import keep_freed_memory

    if kept:
        keep_freed_memory()
    torch.set_num_threads(1)
    network = timm.create_model(name).train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    image = torch.randn(images, 3, px, px).to(memory_format=torch.channels_last)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            logits = network(image)
        logits.float().logsumexp(1).mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    seconds = []
    for number in range(7):
        began = time.process_time()
        step()
        if number > 1:
            seconds.append(time.process_time() - began)
    (peak,) = (line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    return {"seconds": statistics.median(seconds), "GiB": int(peak) / 2**20}


def main() -> None:
    """Measure each step with each setting, and print a line for each step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=2, metavar=("STEP", "SETTING"), help="measure this one here, print JSON")
    options = parser.parse_args()
    if options.one:
        number, setting = options.one
        print(json.dumps(measure(*STEPS[int(number)], kept=setting == "kept")))
        return
    print("| network | px | images | format | given back, s | kept, s | ratio | given back, GiB | kept, GiB |")
    print("| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for number, (name, px, images, bf16) in enumerate(STEPS):
        taken: dict[str, list[dict[str, float]]] = {setting: [] for setting in SETTINGS}
        for again in range(options.rounds):
            for setting in SETTINGS if again % 2 == 0 else reversed(SETTINGS):
                command = [sys.executable, __file__, "--one", str(number), setting]
                taken[setting].append(json.loads(subprocess.check_output(command, text=True)))
        back, kept = ([one["seconds"] for one in taken[setting]] for setting in SETTINGS)
        ratio = statistics.median(one / other for one, other in zip(back, kept, strict=True))
        peaks = [statistics.median(one["GiB"] for one in taken[setting]) for setting in SETTINGS]
        figures = [statistics.median(back), statistics.median(kept), ratio, *peaks]
        cells = [name, px, images, "bf16" if bf16 else "fp32", *(f"{figure:.2f}" for figure in figures)]
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
