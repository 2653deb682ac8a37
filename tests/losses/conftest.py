from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

REFERENCE = Path(__file__).parents[1] / "reference"


@pytest.fixture
def reference() -> Callable[[str], dict[str, Tensor]]:
    """Loads the numbers of tests/reference/<name>.npz as tensors; notes in words are left out."""

    def load(name: str) -> dict[str, Tensor]:
        with np.load(REFERENCE / f"{name}.npz") as file:
            return {key: torch.as_tensor(file[key]) for key in file.files if file[key].dtype.kind in "fi"}

    return load


@pytest.fixture
def match() -> Callable[[Tensor, Tensor], None]:
    """Asserts values equal to 1e-9."""
    return lambda ours, expected: torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


@pytest.fixture
def match_gradient() -> Callable[[Tensor, Tensor], None]:
    """Asserts that a leaf's gradient equals the expected one to 1e-8."""
    return lambda leaf, expected: torch.testing.assert_close(leaf.grad, expected, rtol=1e-8, atol=1e-8)
