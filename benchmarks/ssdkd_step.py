"""The whole SSD-KD step against the passes it cannot avoid: teacher forward, student forward and backward.

Run ``python benchmarks/ssdkd_step.py [--images 32] [--size 64] [--repeats 5] [--threads 2]``. Both are timed in this process,
in turn; each one's peak memory is measured in a process of its own.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate

import skinkd.config.cli  # noqa: F401  (registers the launcher that the configuration names)
from skinkd.batch import Batch
from skinkd.build.objects import build_method
from skinkd.config.resolve import resolved
from skinkd.methods.base import Method
from skinkd.models.heads import Projector
from skinkd.models.teacher import Teacher

CLASSES = 8


def build(size: int) -> Method:
    """SSD-KD from its own configuration, ResNet-50 to MobileNetV2, with random weights."""
    with initialize_config_module(version_base="1.3", config_module="skinkd.conf"):
        overrides = ["method=ssdkd", "data=synthetic", f"data.image_size={size}", "backbone.pretrained=false"]
        config = resolved(compose("train", overrides=overrides))
    network = instantiate(config["method"]["teacher"]["run"]["backbone"], num_classes=CLASSES, _convert_="all")
    width = network.feature_dim
    projector = Projector(width, hidden_width=width, out_width=width)
    state = {f"projector.{name}": value for name, value in projector.state_dict().items()}
    data: Any = SimpleNamespace(classes=tuple("abcdefgh"), class_counts=[1] * CLASSES)
    method = build_method(config, data, (Teacher(network, image_size=size, bf16=False), state))
    # the loss alone, without a trainer to log to
    method.combine = lambda **terms: sum(method.loss_weights[name] * value() for name, value in terms.items())  # type: ignore[assignment,method-assign]
    return method.train()


def whole_step(method: Method, batch: Batch) -> None:
    """The published step: all terms and their gradients."""
    method.zero_grad()
    method.training_step(batch, 0).backward()


def passes_alone(method: Any, batch: Batch) -> None:
    """What no implementation can leave out."""
    method.zero_grad()
    image = batch.image.flatten(0, 1)
    method.teacher(image)
    method.network(image).sum().backward()


STEPS = {"whole": whole_step, "passes": passes_alone}


def peak_memory(name: str, arguments: argparse.Namespace) -> float:
    """GiB that a process of its own needs for the step beyond networks and data."""
    line = [sys.executable, __file__, "--only", name]
    line += [f"--{key}={getattr(arguments, key)}" for key in ("images", "size", "threads")]
    return float(subprocess.run(line, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("images", 32), ("size", 64), ("repeats", 5), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only", choices=STEPS, help="run one of the two and print this process's peak memory")
    arguments = parser.parse_args()
    # first of all: a process begins with the peak of the one that starts it
    peaks = {} if arguments.only else {name: peak_memory(name, arguments) for name in STEPS}
    torch.set_num_threads(arguments.threads)
    method = build(arguments.size)
    image = torch.randint(0, 256, (arguments.images, 4, 3, arguments.size, arguments.size), dtype=torch.uint8)
    batch = Batch(image=image, label=torch.randint(CLASSES, (arguments.images,)), index=torch.arange(arguments.images))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if arguments.only:
        for _ in range(2):
            STEPS[arguments.only](method, batch)
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20)
        return
    seconds: dict[str, list[float]] = {name: [] for name in STEPS}
    for repeat in range(arguments.repeats + 1):
        for name, step in STEPS.items():
            start = time.perf_counter()
            step(method, batch)
            if repeat:  # the first is a warm-up
                seconds[name].append(time.perf_counter() - start)
    for name, values in seconds.items():
        median = statistics.median(values)
        print(
            f"{name:>6}: {median:6.3f} s  {arguments.images / median:6.1f} images/s  {peaks[name]:5.2f} GiB above the networks"
        )
    ratio = statistics.median(a / b for a, b in zip(seconds["whole"], seconds["passes"], strict=True))
    print(f" ratio: {ratio:.2f}")


if __name__ == "__main__":
    main()
