"""How fast training is on a GPU: one table and one JSON file.

Run ``python benchmarks/gpu_bench.py [--seconds 180] [--json FILE] [--cpu]``. Each section has its share of the seconds; what
they do not suffice for is left out and named. ``--cpu`` is a dry run of everything, tiny. HAM10000 is read where
``SKINKD_DATA_DIR`` has it, else drawn images.

In memory: forward, loss, backward and optimizer on one batch of bytes that is on the device. End to end: Lightning's loop over
real loaders, images in the RAM cache, a whole epoch after one to warm up. Milliseconds are medians of blocks of steps after
a warm-up, timed with the device's own clock. Peak memory is PyTorch's, of the row's own objects. All in one process, under
``trainer.deterministic=warn`` as runs are, unless a row says otherwise.
"""

import argparse
import gc
import json
import os
import signal
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback
from torch import Tensor

import skinkd.config.cli  # noqa: F401  (registers the launcher that the configuration names)
from skinkd.batch import Batch
from skinkd.build.objects import build_data, build_method
from skinkd.build.tables import load_split
from skinkd.config.resolve import resolved
from skinkd.data.device import augmented
from skinkd.losses.feature import attention_map_distance, channel_relation
from skinkd.losses.logit import kl_divergence
from skinkd.losses.relational import rkd_angle, rkd_distance
from skinkd.models.heads import Projector
from skinkd.models.teacher import Teacher
from skinkd.training.callbacks import DivergenceCheck, EpochSeed

BEGAN = time.monotonic() - time.process_time()  # before the imports
CLASSES = 7
DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
LIGHTNING = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
METHODS = [
    *("ssdkd", "supervised", "swskd", "tsskd", "byot", "kd", "fitnet", "rkd", "at", "d_kd", "dkd"),
    *("ssdkd_projection", "mskd", "mskd_teacher"),
]


class Bench:
    """Takes the rows, one after the other, until the time is over: ``until`` of ``time.monotonic()``."""

    def __init__(self, *, until: float, device: torch.device, tiny: bool) -> None:
        self.until = until
        self.device, self.tiny = device, tiny
        self.rows: list[dict[str, Any]] = []

    def take(self, group: str, name: str, measure: Callable[[], dict[str, Any]], *, needs: float = 3) -> dict[str, Any]:
        """Measure one row, unless fewer than ``needs`` seconds are left; an error is noted and stops no other row."""
        row: dict[str, Any] = {"group": group, "name": name}
        began = time.monotonic()
        if began + (0 if self.tiny else needs) > self.until:
            row["left out"] = "for want of time"
        else:
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            try:
                row |= measure()
                if self.device.type == "cuda":
                    row["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
            except Exception as error:
                traceback.print_exc()
                row["error"] = f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else ''}"
        row["took_s"] = round(time.monotonic() - began, 1)
        self.rows.append(row)
        print(f"{row['took_s']:5.1f} s  {group}: {name}  {shown(row)}", flush=True)
        return row

    def milliseconds(self, step: Callable[[], object], *, seconds: float = 0.4, warmup: int = 4) -> dict[str, float]:
        """Median over blocks of steps, and the blocks' extremes."""
        if self.tiny:
            seconds, warmup = 0.05, 1
        for _ in range(warmup):
            step()
        self.wait()
        began = time.perf_counter()
        step()
        self.wait()
        one = time.perf_counter() - began
        count = max(1, round(seconds / 8 / max(one, 1e-5)))
        blocks = [self._block(step, count) / count for _ in range(8 if not self.tiny else 2)]
        return {"ms": statistics.median(blocks), "ms_low": min(blocks), "ms_high": max(blocks)}

    def wait(self) -> None:
        """Until the device has done all."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _block(self, step: Callable[[], object], count: int) -> float:
        if self.device.type != "cuda":
            began = time.perf_counter()
            for _ in range(count):
                step()
            return 1000 * (time.perf_counter() - began)
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(count):
            step()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end)


def shown(row: dict[str, Any]) -> str:
    """The numbers of a row on one line."""
    found = [f"{row[key]:.{digits}f} {unit}" for key, digits, unit in UNITS if key in row]
    return "  ".join(found + [str(row[key]) for key in ("error", "left out") if key in row])


UNITS = (("ms", 2, "ms"), ("images_per_second", 0, "images/s"), ("ratio", 3, ""), ("peak_gib", 2, "GiB"))


def configuration(*overrides: str) -> dict[str, Any]:
    """A resolved configuration."""
    with initialize_config_module(version_base="1.3", config_module="skinkd.conf"):
        return resolved(compose("train", overrides=["logger=none", "backbone.pretrained=false", *overrides]))


def network_of(size: int, *overrides: str) -> torch.nn.Module:
    """The configured network, of random weights."""
    config = configuration("data=synthetic", f"data.image_size={size}", *overrides)
    torch.manual_seed(0)
    return instantiate(config["backbone"], num_classes=CLASSES, _convert_="all")


def step_in_memory(
    bench: Bench, network: Any, *, batch: int, size: int, dtype: str, channels_last: bool, mode: str | None = None
) -> dict[str, Any]:
    """Forward, cross-entropy, backward and fused SGD."""
    device = bench.device
    network = network.to(device).train()
    if channels_last:
        network = network.to(memory_format=torch.channels_last)
    forward = torch.compile(network, mode=mode) if mode else network
    fused = True if device.type == "cuda" else None
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=fused
    )
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == "fp16")
    image = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, device=device)
    label = torch.randint(CLASSES, (batch,), device=device)
    kind = DTYPES[dtype]

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=kind or torch.bfloat16, enabled=kind is not None, cache_enabled=False):
            logits = forward(image)
        scaler.scale(torch.nn.functional.cross_entropy(logits.float(), label)).backward()
        scaler.step(optimizer)
        scaler.update()

    found: dict[str, Any] = bench.milliseconds(step)
    return found | {"images_per_second": 1000 * batch / found["ms"]}


def in_memory(bench: Bench) -> None:
    """ResNet-18 at 64 px, and EfficientNet-Lite0 at the sizes of the study."""
    size = 64
    for batch in (8,) if bench.tiny else (1024, 512):
        for dtype in ("bf16", "fp32", "fp16"):
            for channels_last in (True, False):
                if (dtype == "fp16" and bench.device.type == "cpu") or (batch == 512 and dtype != "bf16"):
                    continue
                name = f"ResNet-18, {size} px, {batch}, {dtype}{', channels last' if channels_last else ''}"

                def measure(batch: int = batch, dtype: str = dtype, last: bool = channels_last) -> dict[str, Any]:
                    network = network_of(size, "backbone=resnet18")
                    return step_in_memory(bench, network, batch=batch, size=size, dtype=dtype, channels_last=last)

                bench.take("in memory", name, measure)


def lite(bench: Bench) -> None:
    """EfficientNet-Lite0 at the sizes of the study, bf16, channels last."""
    batch = 4 if bench.tiny else 256
    for size in (64,) if bench.tiny else (96, 128, 224):

        def measure(size: int = size) -> dict[str, Any]:
            network = network_of(size, "backbone=timm", "backbone.name=tf_efficientnet_lite0")
            return step_in_memory(bench, network, batch=batch, size=size, dtype="bf16", channels_last=True)

        bench.take("in memory", f"EfficientNet-Lite0, {size} px, {batch}, bf16, channels last", measure)


def compiled(bench: Bench) -> None:
    """torch.compile of the network, with CUDA graphs (reduce-overhead) and without, and cuDNN's own choice of algorithms."""
    batch, size = (8, 64) if bench.tiny else (1024, 64)

    def searched() -> dict[str, Any]:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, True
        try:
            network = network_of(size, "backbone=resnet18")
            return step_in_memory(bench, network, batch=batch, size=size, dtype="bf16", channels_last=True)
        finally:
            as_in_runs()

    base = f"ResNet-18, {size} px, {batch}, bf16, channels last"
    bench.take("in memory", f"{base}, trainer.deterministic=false benchmark=true", searched)
    for mode in ("default", "reduce-overhead"):

        def measure(mode: str = mode) -> dict[str, Any]:
            network = network_of(size, "backbone=resnet18")
            return step_in_memory(bench, network, batch=batch, size=size, dtype="bf16", channels_last=True, mode=mode)

        bench.take("in memory", f"{base}, compile {mode}", measure, needs=25)


class Clock(Callback):
    """Seconds of each whole epoch of training, first batch to last, and of each batch after the third."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.epochs: list[float] = []
        self.images = 0

    def on_train_epoch_start(self, *_: Any) -> None:
        self.bench.wait()
        self.images, self._began = 0, time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Batch, *_: Any) -> None:
        self.images += len(batch.label)
        if trainer.is_last_batch:
            self.bench.wait()
            self.epochs.append(time.perf_counter() - self._began)


class Repeated:
    """A loader that gives one batch on the device again and again."""

    def __init__(self, batch: Batch, count: int) -> None:
        self.batch, self.count = batch, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Batch]:
        return iter([self.batch] * self.count)


def end_to_end(bench: Bench) -> None:
    """Lightning's loop over real loaders: augmentation by loading processes and on the device."""
    real = (Path(os.environ.get("SKINKD_DATA_DIR", "data")) / "ham10000").is_dir() and not bench.tiny
    batch, images = (8, 2) if bench.tiny else (1024, 6000)
    common = [
        *(["data=ham10000"] if real else ["data=synthetic", *(["data.table.images=120"] if bench.tiny else [])]),
        *("data.image_size=64", "backbone=resnet18", "data.cache=ram", "channels_last=true", "precision=bf16"),
        *(f"data.batch_size={batch}", "sampler=per_class", f"sampler_target={images}", "trainer.max_epochs=3"),
        *(f"strategy={'gpu' if bench.device.type == 'cuda' else 'cpu'}", "trainer.enable_progress_bar=false"),
        *("trainer.log_every_n_steps=50", "paths.output_dir=/tmp/skinkd-gpu-bench"),
    ]
    split: dict[str, Any] = {}

    def run(*overrides: str, fused_augmentation: bool = False, memory: bool = False) -> dict[str, Any]:
        config = configuration(*common, *overrides)
        if not split:
            split["split"] = load_split(config)
        data = build_data(config, *split["split"])
        method = build_method(config, data)
        if fused_augmentation:
            data._on_device._augment = torch.compile(augmented, dynamic=False)  # type: ignore[union-attr]
        clock = Clock(bench)
        config["trainer"]["limit_val_batches"] = 0
        trainer = L.Trainer(
            **config["trainer"],
            callbacks=[EpochSeed(0), DivergenceCheck(), clock],
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        torch.utils.deterministic.fill_uninitialized_memory = False
        if memory:
            image = torch.randint(0, 256, (batch, 1, 3, 64, 64), dtype=torch.uint8, device=bench.device)
            label = torch.randint(CLASSES, (batch,), device=bench.device)
            one = Batch(image, label, torch.arange(batch, device=bench.device))
            trainer.fit(method, Repeated(one, max(images * CLASSES // batch, 1)))
        else:
            trainer.fit(method, datamodule=data)
        rest = clock.epochs[1:]
        return {"images_per_second": clock.images / statistics.median(rest), "epochs_s": clock.epochs}

    name = f"ResNet-18, 64 px, {batch}, bf16, channels last"
    bench.take("end to end", f"{name}, batch in memory, Lightning's loop", lambda: run(memory=True), needs=12)
    bench.take("end to end", f"{name}, augment_on=device", lambda: run("data.augment_on=device"), needs=10)
    for workers in (1,) if bench.tiny else (14, 8, 4):
        line = f"{name}, {workers} loading processes"
        bench.take("end to end", line, lambda n=workers: run(f"data.num_workers={n}"), needs=20)  # type: ignore[misc]
    if bench.device.type == "cuda":
        line = f"{name}, augment_on=device, its operations fused"
        bench.take("end to end", line, lambda: run("data.augment_on=device", fused_augmentation=True), needs=25)


def method_of(name: str, size: int, device: torch.device) -> Any:
    """A method with the networks of its own configuration, of random weights, and a loss without a trainer."""
    overrides = [f"method={name}", "data=synthetic", f"data.image_size={size}"]
    if name in ("mskd", "mskd_teacher"):
        overrides.append(f"backbone={'mskd_student' if name == 'mskd' else name}")
    config = configuration(*overrides)
    taught = None
    if "teacher" in config["method"]:
        backbone = config["method"]["teacher"]["run"].get("backbone", config["backbone"])
        network = instantiate(backbone, num_classes=CLASSES, _convert_="all")
        projector = Projector(network.feature_dim, hidden_width=network.feature_dim, out_width=network.feature_dim)
        state = {f"projector.{key}": value for key, value in projector.state_dict().items()}
        taught = Teacher(network, image_size=backbone["image_size"], bf16=False), state
    data: Any = SimpleNamespace(classes=tuple("abcdefg"), class_counts=[1] * CLASSES)
    method = build_method(config, data, taught)
    weights = method.loss_weights
    method.combine = lambda **terms: sum(weights[name] * term() for name, term in terms.items() if weights[name])  # type: ignore[assignment,method-assign]
    method = method.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    if taught is not None:
        taught[0].to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return method


def overhead(bench: Bench, name: str, size: int, batch: int) -> dict[str, Any]:
    """The whole step without the optimizer against the passes that no implementation can leave out, in turn."""
    device = bench.device
    method: Any = method_of(name, size, device)
    views = {"one": 1, "two": 2, "four_rotations": 4}[method.views]
    image = torch.randint(0, 256, (batch, views, 3, size, size), dtype=torch.uint8, device=device)
    given = Batch(image, torch.randint(CLASSES, (batch,), device=device), torch.arange(batch, device=device))
    teacher = getattr(method, "teacher", None)
    student = any(parameter.requires_grad for parameter in method.network.parameters())

    def whole() -> None:
        method.zero_grad()
        with torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False):
            loss = method.training_step(given, 0)
        loss.backward()

    def passes() -> None:
        method.zero_grad()
        with torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False):
            pixels = image[:, 0] if views == 2 else image.flatten(0, 1)
            if teacher is not None:
                teacher(pixels)
            if views == 2:
                with torch.no_grad():
                    method.network(image[:, 1])
            logits = method.network(pixels).float().sum() if student else None
        if logits is not None:
            logits.backward()

    rounds = [(bench.milliseconds(whole, seconds=0.15), bench.milliseconds(passes, seconds=0.15)) for _ in range(3)]
    ms = [statistics.median(one[k]["ms"] for one in rounds) for k in (0, 1)]
    ratio = statistics.median(first["ms"] / second["ms"] for first, second in rounds)
    return {"ms": ms[0], "passes_ms": ms[1], "ratio": ratio, "images_per_second": 1000 * batch / ms[0]}


def methods(bench: Bench) -> None:
    """Each method's step over its passes, bf16, channels last."""
    plan = [*((name, 64, 32 if name.startswith("ssdkd") else 128) for name in METHODS), ("ssdkd", 224, 32)]
    if bench.tiny:
        plan = [("ssdkd", 64, 2), ("supervised", 64, 4)]
    for name, size, batch in plan:
        line = f"{name}, {size} px, {batch}{' × 4' if name.startswith('ssdkd') else ''}, bf16, channels last"
        bench.take("step over passes", line, lambda n=name, s=size, b=batch: overhead(bench, n, s, b), needs=4)  # type: ignore[misc]


def losses(bench: Bench) -> None:
    """Loss blocks, forward and backward, float32."""
    device = bench.device

    def random(*shape: int) -> tuple[Tensor, Tensor]:
        return torch.randn(*shape, device=device, requires_grad=True), torch.randn(*shape, device=device)

    sizes = (16,) if bench.tiny else (128, 512)
    blocks: dict[str, Callable[[int], tuple[Callable[..., Tensor], tuple[int, ...]]]] = {
        "kl_divergence": lambda n: (lambda s, t: kl_divergence(s, t, temperature=4), (n, CLASSES)),
        "rkd_distance": lambda n: (rkd_distance, (n, 2048)),
        "rkd_angle": lambda n: (rkd_angle, (n, 2048)),
        "channel_relation": lambda n: (channel_relation, (n, 2048, 7, 7)),
        "attention_map_distance": lambda n: (attention_map_distance, (n, 512, 7, 7)),
    }
    for name, block in blocks.items():
        for count in sizes:

            def measure(count: int = count, block: Any = block) -> dict[str, Any]:
                loss, shape = block(count)
                student, teacher = random(*shape)
                return bench.milliseconds(lambda: loss(student, teacher).backward(), seconds=0.15)

            bench.take("loss", f"{name}, B = {count}", measure, needs=2)


SECTIONS = {in_memory: 12, end_to_end: 45, methods: 70, losses: 8, lite: 10, compiled: 55}
"""Seconds that each takes, by which they share the time: measured on an H100, but for the last three, which are guesses."""


def run_sections(bench: Bench, shares: dict[Callable[[Bench], None], float]) -> None:
    """Run sections in turn, each with its share of the time that is left; what a section leaves goes to those behind it."""
    until, together = bench.until, sum(shares.values())
    for section, share in shares.items():
        now = time.monotonic()
        bench.until = now + (until - now) * share / together
        together -= share
        section(bench)


def as_in_runs() -> None:
    """PyTorch's switches as ``trainer.deterministic=warn`` sets them."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = False
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = ["| what | | ms a step | images/s | over passes | peak GiB |", "| --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        cells = [f"{row[key]:,.{digits}f}" if key in row else "" for key, digits, _ in UNITS]
        failed = row.get("error") or row.get("left out")
        lines.append(f"| {row['group']} | {row['name']} | {' | '.join([failed, '', '', ''] if failed else cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=180, help="the whole command ends within these")
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--only", nargs="*", choices=[section.__name__ for section in SECTIONS], help="these sections alone"
    )
    parser.add_argument("--cpu", action="store_true", help="a dry run of everything, tiny")
    arguments = parser.parse_args()
    device = torch.device("cpu" if arguments.cpu else "cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("this machine has no CUDA device; --cpu is a dry run")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # with the rows that there are
    bench = Bench(until=BEGAN + arguments.seconds - 10, device=device, tiny=arguments.cpu)  # a row may take 10 s more
    as_in_runs()
    import warnings

    warnings.filterwarnings("ignore")
    machine = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "python": sys.version.split()[0],
    }
    wanted = {one: share for one, share in SECTIONS.items() if not arguments.only or one.__name__ in arguments.only}
    code = 1
    try:
        run_sections(bench, wanted)
        code = 0
    except BaseException:  # a signal too
        traceback.print_exc()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine, "rows": bench.rows}, indent=1))
    print("\n" + ", ".join(f"{key} {value}" for key, value in machine.items()) + "\n\n" + table(bench.rows), flush=True)
    sys.stderr.flush()
    os._exit(code)  # without the wait, of minutes at times, for the processes that torch.compile has started


if __name__ == "__main__":
    main()
