"""The study's processes train one run after another; a run that fails or is killed takes no other along."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

SCRIPT = """
import json, os, signal, sys, time
from pathlib import Path
from skinkd.config.identity import run_path
from skinkd.config.resolve import resolved
from study import jobs, plan

folder, changes = Path(sys.argv[1]), json.loads(sys.argv[2])
small = [*plan.DRY, "method=supervised", "data.table.images=100", "backbone=resnet10t_half", "logger=none"]
small += ["trainer.enable_progress_bar=false", "evaluation.bootstrap_replicates=10", f"paths.output_dir={folder}"]
made = {}
for name, seed in changes.items():
    overrides = [*small, f"seed={seed}"]
    made[name] = jobs.Job(name, overrides, run_path(resolved(plan.composed(overrides))), True, 1)
if "broken" in made:
    made["broken"].overrides.append("optim.lr=-1")
    made["behind"].needs = [made["broken"]]
    trained = jobs._train
    def train(overrides):
        if "seed=4" in overrides:
            os.kill(os.getpid(), signal.SIGKILL)
        return trained(overrides) if "seed=5" not in overrides else time.sleep(100)
    jobs._train = train
jobs.run_jobs(list(made.values()), cores=1, until=time.monotonic() + float(sys.argv[3]), logs=folder / "logs")
print(json.dumps({name: [job.failed, job.finished, job.folder.name] for name, job in made.items()}))
"""


WRONG = """
import sys
from study import jobs, plan
jobs.in_processes(plan.composed, [(["seed=1"],), ([sys.argv[1]],)])
"""


def trained(folder: Path, seconds: float = 200, **seeds: int) -> tuple[dict[str, tuple[bool, bool, str]], str]:
    """Whether each job has failed and has finished, and its folder; and what was told."""
    command = [sys.executable, "-c", SCRIPT, str(folder), json.dumps(seeds), str(seconds)]
    told = subprocess.run(command, cwd=ROOT / "benchmarks", check=True, capture_output=True, text=True).stdout
    *lines, last = told.splitlines()
    return json.loads(last), "\n".join(lines)


def test_a_failed_or_killed_run_takes_along_only_those_that_need_it(tmp_path: Path) -> None:
    jobs = {"first": 0, "second": 3, "broken": 1, "behind": 2, "killed": 4, "last": 6}
    found, told = trained(tmp_path / "together", **jobs)
    assert {name: failed for name, (failed, _, _) in found.items()} == {
        **dict.fromkeys(("first", "second", "last"), False),
        **dict.fromkeys(("broken", "behind", "killed"), True),
    }
    assert [finished for _, finished, _ in found.values()] == [True, True, False, False, False, True]
    assert "broken: FAILED" in told and "killed: FAILED" in told and "optim.lr" in told  # its last lines are shown
    alone, _ = trained(tmp_path / "alone", second=3)
    name = alone["second"][2]
    assert name == found["second"][2]  # the second run of its process
    for file in ("metrics.json", "predictions/test.csv"):
        one, other = (tmp_path / place / name / file for place in ("together", "alone"))
        assert one.read_bytes() == other.read_bytes()


def test_at_the_deadline_a_run_is_ended(tmp_path: Path) -> None:
    found, told = trained(tmp_path, 8, broken=5, behind=2)
    assert "stopped: broken" in told and "not begun: 1 jobs, the first of them behind" in told
    assert not any(finished for _, finished, _ in found.values())


@pytest.mark.parametrize(
    ("override", "said"), [("--cores", "LexerNoViableAltException: --cores"), ("seeds=1", "'seeds'")]
)
def test_a_wrong_override_ends_the_command(override: str, said: str) -> None:
    command = [sys.executable, "-c", WRONG, override]
    ended = subprocess.run(command, cwd=ROOT / "benchmarks", capture_output=True, text=True, timeout=100)
    assert ended.returncode == 1
    assert said in ended.stderr and "Traceback" not in ended.stderr
