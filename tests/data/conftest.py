"""A folder in HAM10000's own format, small, and the real one where it is."""

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

REPOSITORY = Path(__file__).parents[2]


def make_ham_folder(
    root: Path,
    *,
    lesions: dict[str, int],
    per_lesion: int = 2,
    size: tuple[int, int] = (30, 40),
    folders: tuple[str, ...] = ("HAM10000_images_part_1", "HAM10000_images_part_2"),
    metadata: str = "HAM10000_metadata.csv",
) -> Path:
    """Write `lesions` lesions of each class, `per_lesion` noisy images each, alternating between the folders."""
    rng = np.random.default_rng(0)
    rows = ["lesion_id,image_id,dx,dx_type,age,sex,localization,dataset"]
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
    lesion = image = 0
    for name, count in lesions.items():
        for _ in range(count):
            for _ in range(per_lesion):
                pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
                path = root / folders[image % len(folders)] / f"ISIC_9{image:06d}.jpg"
                assert cv2.imwrite(str(path), pixels)
                rows.append(f"HAM_{lesion:07d},ISIC_9{image:06d},{name},histo,50,male,back,test")
                image += 1
            lesion += 1
    (root / metadata).write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture
def ham_folder(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a small HAM10000 folder into a temporary directory."""
    return lambda **settings: make_ham_folder(tmp_path / "ham10000", **settings)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real datasets: SKINKD_DATA_DIR, or the one beside the repository."""
    folder = Path(os.environ.get("SKINKD_DATA_DIR", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "ham10000").is_dir():
        pytest.skip(f"no real data in {folder}; set SKINKD_DATA_DIR to the folder that holds ham10000/")
    return folder
