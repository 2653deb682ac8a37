"""From the configuration to objects: what does not fit together is refused before anything is trained."""

from collections.abc import Callable
from pathlib import Path

import pytest

from skinkd.errors import UserError


@pytest.mark.parametrize("method", ["supervised", "kd"])
def test_a_network_for_images_of_another_size_is_refused(
    method: str, trained: Callable[..., Path], tmp_path: Path
) -> None:
    says = r"backbone\.image_size=96 differs from data\.image_size=32; leave backbone\.image_size out"
    with pytest.raises(UserError, match=says):
        trained(f"method={method}", "backbone.image_size=96")
    assert not (tmp_path / "outputs").exists()
