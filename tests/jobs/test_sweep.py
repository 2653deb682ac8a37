"""What a sweep's jobs are called, how far they are, how long they take, and its folder."""

import json
import re
import signal
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from sweep_jobs import METRIC, finish, history, job

from skinkd.config.overrides import check_overrides
from skinkd.errors import UserError
from skinkd.jobs.pool import last_error
from skinkd.jobs.sweep import Stage, distinct, group_name, labels, progress, seconds_left, write_sweep

CONF = Path(__file__).parents[2] / "conf"


# what they are called

override = st.builds(
    lambda key, value: f"{key}={value}",
    st.sampled_from(["seed", "method", "a.b.rate", "a.c.rate", "optim.lr", "group", "force", "sweep.devices"]),
    st.integers(0, 3),
)


@given(st.lists(st.lists(override, max_size=5, unique_by=lambda one: one.split("=")[0]), min_size=2, max_size=6))
def test_labels_say_what_differs_and_nothing_else(jobs: list[list[str]]) -> None:
    shown = labels(jobs)
    silent = ("group", "force", "sweep.devices")
    telling = [frozenset(one for one in job if one.split("=")[0] not in silent) for job in jobs]
    for i, first in enumerate(telling):
        assert len(shown[i].split()) == len(first - frozenset.intersection(*telling))
        for j, second in enumerate(telling):
            if {one.split("=")[0] for one in first} == {one.split("=")[0] for one in second}:
                assert (sorted(shown[i].split()) == sorted(shown[j].split())) == (first == second)


def test_labels_take_the_last_part_of_a_key_where_it_is_the_only_such() -> None:
    same = ["data=ham10000", "sweep.devices=2"]
    assert labels([[*same, "optim.lr=1", "seed=0"], [*same, "optim.lr=2", "seed=0"]]) == ["lr=1", "lr=2"]
    assert labels([["a.x=1", "b.x=1"], ["a.x=2", "b.x=2"]]) == ["a.x=1 b.x=1", "a.x=2 b.x=2"]
    assert labels([["seed=1"]]) == [""]


def test_the_name_of_a_sweep_is_of_its_jobs_not_of_where_they_run() -> None:
    jobs = [["method=kd", "seed=0"], ["method=kd", "seed=1"]]
    name = group_name(jobs)
    assert re.fullmatch(r"sweep-[0-9a-f]{8}", name)
    assert group_name([[*one, "sweep.devices=2", "force=true"] for one in jobs]) == name
    assert len({name, group_name(jobs[:1]), group_name(jobs[::-1]), group_name([*jobs, ["method=kd"]])}) == 4


def test_jobs_that_are_one_run_run_once_and_different_ones_need_different_folders(tmp_path: Path) -> None:
    same = [job(tmp_path / "a", f"logger={name}") for name in ("csv", "none")]
    (only,) = distinct(same)
    assert only is same[0] and only.repeats == ["logger=none"]
    other = job(tmp_path / "a", "seed=1", seed=1)
    with pytest.raises(UserError, match="would be the run folder of two jobs, 'logger=csv' and 'seed=1'"):
        distinct([same[0], other])


@pytest.mark.parametrize("path", sorted((CONF / "sweep").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_stored_sweep_composes(path: Path) -> None:
    hydra = yaml.safe_load(path.read_text())["hydra"]
    assert hydra["mode"] == "MULTIRUN"
    check_overrides("train", [f"sweep={path.stem}"])
    check_overrides("train", ["-m", *(f"{key}={values}" for key, values in hydra["sweeper"]["params"].items())])


def test_the_sweep_for_wandbs_agent_names_settings_that_there_are() -> None:
    sweep = yaml.safe_load((CONF.parent / "docs" / "wandb_sweep.yaml").read_text())
    given = {name: one.get("values") or [one["value"]] for name, one in sweep["parameters"].items()}
    check_overrides("train", ["-m", *(f"{name}={','.join(map(str, values))}" for name, values in given.items())])
    assert sweep["metric"]["name"].startswith("val/") and sweep["program"] == "skinkd.train"


# the sweep folder, and how far jobs are


def test_the_sweep_file_keeps_the_groups_earlier_runs(tmp_path: Path) -> None:
    folder = tmp_path / "sweeps" / "g"
    a, b, waiting = (job(tmp_path / name, f"seed={name}") for name in ("a", "b", "waiting"))
    outside = job(tmp_path.parent / "elsewhere" / "run", "seed=o")
    a.folder.mkdir()
    write_sweep(folder, "g", [a, waiting], tmp_path)
    write_sweep(folder, "g", [b, outside], tmp_path)
    stored = json.loads((folder / "sweep.json").read_text())
    assert stored["group"] == "g"
    assert [one["folder"] for one in stored["jobs"]] == ["a", "waiting", "b", str(outside.folder)]
    assert stored["jobs"][2] == {"overrides": ["seed=b"], "folder": "b", "name": "b"}


def test_a_run_without_the_test_scores_that_are_asked_for_is_not_finished(tmp_path: Path) -> None:
    untested, tested = Stage(tmp_path, 4, (), False), Stage(tmp_path, 4, (), True)
    assert not untested.finished
    (tmp_path / "metrics.json").write_text('{"val/accuracy": 0.5}')
    assert untested.finished and not tested.finished
    (tmp_path / "metrics.json").write_text('{"val/accuracy": 0.5, "test/n": 9}')
    assert untested.finished and tested.finished


def test_progress_is_what_the_history_says(tmp_path: Path) -> None:
    assert progress(tmp_path, METRIC).epochs == 0
    history(tmp_path, [1.5, 2.0], 0.75)
    assert progress(tmp_path, METRIC) == type(progress(tmp_path, METRIC))(2, 3.5, 0.75)
    assert progress(tmp_path, "val/none").value is None


def test_a_run_that_was_not_tested_is_finished_only_for_who_asks_for_no_test(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text('{"val/n": 9}')
    assert [Stage(tmp_path, 4, (), test=test).finished for test in (False, True)] == [True, False]


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_time_left(tmp_path: Path, at_once: int) -> None:
    jobs = [job(tmp_path / str(number)) for number in range(5)]
    assert seconds_left(jobs, at_once=at_once, metric=METRIC) is None
    history(jobs[0].folder, [10.0] * 4)
    finish(jobs[0].folder)
    history(jobs[1].folder, [20.0] * 2)
    jobs[0].state, jobs[1].state = "finished", "running"
    # 2 epochs of 20 s are left of the second, and 4 of (10 + 20) / 2 s of each waiting job
    expected = {1: 40 + 3 * 60, 2: max(40 + 60, 60 + 60), 3: max(40 + 60, 60, 60)}
    assert seconds_left(jobs, at_once=at_once, metric=METRIC) == pytest.approx(expected[at_once])


def test_a_shared_teacher_is_counted_once_and_a_finished_one_not_at_all(tmp_path: Path) -> None:
    jobs = [job(tmp_path / name, teachers=(tmp_path / "teacher",)) for name in "ab"]
    history(jobs[0].folder, [1.0])
    assert seconds_left(jobs, at_once=1, metric=METRIC) == pytest.approx(4 + 3 + 4)
    finish(tmp_path / "teacher")
    assert seconds_left(jobs, at_once=1, metric=METRIC) == pytest.approx(3 + 4)


@pytest.mark.parametrize(
    ("printed", "code", "expected"),
    [
        ("epoch 1\nerror: too big; make it smaller\nstopped before the end\n", 2, "too big; make it smaller"),
        ("error: no teacher data\nerror: the teacher's training ended with exit code 2\n", 2, "no teacher data"),
        (
            "Traceback\n  File x\nValueError: bad\nepoch\ntorch.cuda.OutOfMemoryError: full\n",
            1,
            "torch.cuda.OutOfMemoryError: full",
        ),
        ("KeyError: 'x'\nRuntimeError: [gloo/pair.cc:561] Connection closed by peer\n", 1, "KeyError: 'x'"),
        ("epoch 1\n", -signal.SIGKILL, "killed by SIGKILL, perhaps because the machine ran out of memory"),
        ("epoch 1\n", -signal.SIGTERM, "killed by SIGTERM"),
        ("epoch 1\nodd\n", 7, "odd"),
        ("", 7, "ended with exit code 7 and printed nothing"),
    ],
)
def test_what_a_failed_job_said(tmp_path: Path, printed: str, code: int, expected: str) -> None:
    log = tmp_path / "log"
    before = "error: of an earlier attempt\n"
    log.write_text(before + printed)
    assert last_error(log, len(before), code) == expected
