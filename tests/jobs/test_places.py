"""Where the jobs of a sweep run: devices, how many at once, and their share of the cores."""

from typing import Any

import pytest

from skinkd.errors import UserError
from skinkd.jobs.places import find_places


def trainer(accelerator: str, devices: int = 1) -> dict[str, Any]:
    return {"trainer": {"accelerator": accelerator, "devices": devices}}


AUTO, CPU, DDP, DDP_CPU = trainer("auto"), trainer("cpu"), trainer("gpu", -1), trainer("cpu", 2)


@pytest.mark.parametrize(
    ("devices", "configs", "gpus", "expected"),
    [
        ("auto", [AUTO], [], [None]),
        ("auto", [AUTO], ["0", "1"], ["0", "1"]),
        ("auto", [AUTO, DDP], ["4", "GPU-abc"], ["4", "GPU-abc"]),
        ("auto", [DDP], ["0", "1"], [None]),
        ("auto", [CPU, DDP_CPU], ["0", "1"], [None]),
        (1, [CPU], [], [None]),
        (3, [AUTO], ["4", "6"], ["4", "6", "4"]),
        ([1, 0, 1], [AUTO], ["4", "6"], ["6", "4", "6"]),
    ],
)
def test_places(devices: Any, configs: list[dict[str, Any]], gpus: list[str], expected: list[str | None]) -> None:
    places = find_places(devices, configs, gpus=gpus, cores=8)
    assert [place.get("CUDA_VISIBLE_DEVICES") for place in places.places] == expected


def test_a_job_on_all_gpus_sees_those_of_the_list_and_else_what_the_user_sees() -> None:
    assert find_places([1, 0, 1], [DDP], gpus=["4", "6"], cores=8).whole == {"CUDA_VISIBLE_DEVICES": "6,4"}
    assert find_places("auto", [DDP], gpus=["4", "6"], cores=8).whole == {}


@pytest.mark.parametrize(("jobs", "cores", "threads"), [(1, 8, None), (2, 8, "4"), (3, 8, "2"), (9, 8, "1")])
def test_jobs_at_once_share_the_cores(jobs: int, cores: int, threads: str | None) -> None:
    places = find_places(jobs, [CPU], gpus=[], cores=cores).places
    assert len(places) == jobs
    assert {place.get("OMP_NUM_THREADS") for place in places} == {threads}


@pytest.mark.parametrize("devices", [0, -1, True, False, 1.5, "two", [], [0, "a"], [True], None, {}])
def test_devices_that_are_none(devices: Any) -> None:
    with pytest.raises(UserError, match=r"sweep\.devices=.* is not a valid value; write auto"):
        find_places(devices, [CPU], gpus=["0"], cores=2)


@pytest.mark.parametrize(("gpus", "said"), [([], "no GPUs are visible"), (["0", "1"], "2 GPUs are visible")])
def test_a_gpu_that_is_not_there(gpus: list[str], said: str) -> None:
    with pytest.raises(UserError, match=rf"sweep\.devices=\[0, 2\] names GPU \d, but {said}"):
        find_places([0, 2], [AUTO], gpus=gpus, cores=2)
