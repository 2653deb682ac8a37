"""Data and weights for a bare machine with a GPU: HAM10000 at a small size, and weights in half precision.

Called by ``benchmarks/gpu_run.sh pack``: ``python benchmarks/gpu_pack.py OUT [--side 96] [--quality 88] [--weights FILE …]``.
It reads HAM10000 under ``SKINKD_DATA_DIR`` and writes ``OUT/ham10000.tar.gz`` and ``OUT/<weights file>``.
"""

import argparse
import io
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import torch
from safetensors.torch import load_file, save_file


def shrunk(path: Path, side: int, quality: int) -> bytes:
    """The image of a file as JPEG, its shorter side at most ``side`` pixels."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    scale = side / min(image.shape[:2])
    if scale < 1:
        size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1])[1].tobytes()


def pack_images(root: Path, target: Path, *, side: int, quality: int) -> int:
    """Write the images and the metadata table of ``root`` to a tar file in the layout they have; return how many."""
    images = sorted(root.glob("HAM10000_images_part_*/*.jpg"))
    with tarfile.open(target, "w:gz", compresslevel=1) as tar, ThreadPoolExecutor(os.cpu_count()) as pool:
        tar.add(root / "HAM10000_metadata.csv", "ham10000/HAM10000_metadata.csv")
        for path, data in zip(images, pool.map(lambda path: shrunk(path, side, quality), images), strict=True):
            entry = tarfile.TarInfo(f"ham10000/{path.relative_to(root)}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return len(images)


def pack_weights(source: Path, target: Path) -> None:
    """Write a state dict with its floating-point tensors in half precision; loading widens them again."""
    state = load_file(source)
    save_file({name: value.half() if value.dtype == torch.float32 else value for name, value in state.items()}, target)


def main() -> None:
    """Pack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--side", type=int, default=96, help="shorter side of the images, px")
    parser.add_argument("--quality", type=int, default=88, help="of the JPEG files")
    parser.add_argument("--weights", type=Path, nargs="*", default=[], help="safetensors files")
    arguments = parser.parse_args()
    root = Path(os.environ["SKINKD_DATA_DIR"]) / "ham10000"
    target = arguments.out / "ham10000.tar.gz"
    count = pack_images(root, target, side=arguments.side, quality=arguments.quality)
    print(f"{count} images at {arguments.side} px, JPEG quality {arguments.quality}")
    for source in arguments.weights:
        pack_weights(source, arguments.out / source.name)


if __name__ == "__main__":
    main()
