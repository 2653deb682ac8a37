"""Three engines that run one network: PyTorch, and ONNX Runtime with the float32 and the int8 file."""

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

from skinkd.deployment.graph import INPUT, LOGITS, PROBABILITIES

Engine = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""uint8 images (N, 3, H, W) to logits and probabilities, float32 (N, K)."""

TORCH, FP32, INT8 = "torch", "fp32", "int8"


def torch_engine(network: nn.Module) -> Engine:
    """Return PyTorch's eager execution of a network in eval mode."""

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            logits = network(torch.from_numpy(images)).float()
            return logits.numpy(), logits.softmax(dim=1).numpy()

    return run


def onnx_engine(path: Path, *, threads: int) -> Engine:
    """Return ONNX Runtime's execution of a file on the CPU.

    Args:
        path: the ONNX file.
        threads: processor threads; 0: as many as the machine has cores.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "0"
    )  # waiting threads would slow the other engines
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    takes_float = session.get_inputs()[0].type == "tensor(float)"

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        given = as_float(images) if takes_float else images
        logits, probabilities = session.run([LOGITS, PROBABILITIES], {INPUT: given})
        return logits, probabilities

    return run


def as_float(images: np.ndarray) -> np.ndarray:
    """Return uint8 images as float32 in [0, 1], as the network does with uint8 images."""
    return images.astype(np.float32) / np.float32(255)


def score(engines: Mapping[str, Engine], batches: Iterable[np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return logits and probabilities of every engine, (N, K) each, for the same batches, read once."""
    parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in engines}
    for batch in batches:
        for name, engine in engines.items():
            parts[name].append(engine(batch))
    return {
        name: (np.concatenate([logits for logits, _ in done]), np.concatenate([shares for _, shares in done]))
        for name, done in parts.items()
    }


def latency(
    engines: Mapping[str, Engine],
    images: np.ndarray,
    *,
    threads: int,
    rounds: int,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Return the median milliseconds of a batch for each engine.

    The engines take turns, so that whatever else the machine does meets all of them alike. One round before the first is not
    counted.

    Args:
        engines: ONNX Runtime's with the same number of threads.
        images: the batch.
        threads: PyTorch's threads during the measurement.
        rounds: rounds at most.
        seconds: no new round begins after this time, but three rounds are always counted.
        clock: seconds; ``time.thread_time`` counts the processor's time of this thread alone, for one thread on a busy machine.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    taken: dict[str, list[float]] = {name: [] for name in engines}
    try:
        for engine in engines.values():
            engine(images)
        end = time.perf_counter() + seconds
        for number in range(rounds):
            if number >= 3 and time.perf_counter() > end:
                break
            for name, engine in engines.items():
                start = clock()
                engine(images)
                taken[name].append(1000 * (clock() - start))
    finally:
        torch.set_num_threads(before)
    return {name: float(np.median(values)) for name, values in taken.items()}


def has_vnni() -> bool:
    """Return whether the processor multiplies int8 in one instruction (VNNI), which int8 needs to be fast; Linux alone."""
    try:
        return "_vnni" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
