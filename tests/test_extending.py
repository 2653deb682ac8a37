"""docs/extending.md: its files, written into a package outside of the checkout or into a copy of it, train a network."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import train_process

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text("utf-8")
ROOMS = {
    "confidence": "methods",
    "hints": "methods",
    "moles": "data",
    "pyramid": "models",
    "shadow": "data",
    "parts": "",
}
SMALL = (
    *("data.image_size=32", "data.batch_size=16", "data.num_workers=0", "trainer.max_epochs=1", "logger=none"),
    *("trainer.enable_progress_bar=false", "evaluation.bootstrap_replicates=20", "strategy=cpu"),
)


def files_of_the_page() -> dict[str, str]:
    """Path -> content of every file that the page shows: the last path that is named right before a block."""
    blocks = re.findall(r"([^\n]+)\n\n```(?:python|yaml)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return {re.findall(r"`([\w/]+\.(?:py|yaml))`", before)[-1]: content for before, content in blocks}


def python(*words: str, folder: Path, data: Path) -> str:
    """What ``python -m …`` prints in ``folder``, where it must succeed."""
    module, *arguments = words
    env = {"SKINKD_DATA_DIR": str(data)}
    done = train_process.run(arguments, folder=folder, module=module, env=env, fork_children=True)
    assert done.code == 0, done.out + done.err
    return done.out


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the dataset that the page describes: drawn, 60 photographs of 20 patients."""
    root = tmp_path_factory.mktemp("data")
    (root / "moles/photographs").mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = ("benign", "malignant")
    rows = [(f"mole{k:02d}", names[k % 20 % 2], f"patient{k % 20}") for k in range(60)]
    for name, diagnosis, _ in rows:
        image = rng.integers(0, 120, (40, 40, 3)) + (0 if diagnosis == "benign" else 100)
        cv2.imwrite(str(root / f"moles/photographs/{name}.png"), image.astype(np.uint8))
    pd.DataFrame(rows, columns=["name", "diagnosis", "patient"]).to_csv(root / "moles/moles.csv", index=False)
    return root


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of the page, alone in a folder."""
    folder = tmp_path_factory.mktemp("own")
    for name, content in {"mine/__init__.py": "", **files_of_the_page()}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, "utf-8")
    return folder


def test_the_page_shows_every_file_that_it_names() -> None:
    shown = set(files_of_the_page())
    modules = {f"mine/{name}.py" for name in ROOMS}
    choices = {
        "method/confidence",
        "method/hints",
        "data/moles",
        "backbone/narrow",
        "backbone/pyramid",
        "augment/shadow",
    }
    assert shown == modules | {f"conf/{name}.yaml" for name in choices}


def test_a_package_of_ones_own(own: Path, data: Path) -> None:
    """All of it in one run: the made-up method on the made-up dataset, network and augmentation."""
    words = ("method=confidence", "data=moles", "backbone=pyramid", "augment=shadow")
    sweep = python(
        "skinkd.train",
        "-m",
        "--config-dir",
        "conf",
        "allow_targets=mine",
        *words,
        "seed=0",
        *SMALL,
        folder=own,
        data=data,
    )
    (run,) = own.glob("outputs/confidence-moles-pyramid-*")
    history = pd.read_csv(run / "history.csv")
    assert {"train/ce", "train/penalty"} <= set(history) and (history["train/penalty"] > 0).all()
    splits = pd.read_csv(run / "splits.csv")
    assert len(splits) == 60 and (splits.groupby("group")["split"].nunique() == 1).all()
    assert "1 of 1 jobs finished" in sweep
    for command in ([*words, *SMALL, "--config-dir=conf"], [f"config={run}/config.yaml"]):
        assert "finished already" in python("skinkd.train", "allow_targets=mine", *command, folder=own, data=data)


def test_its_network_serves_a_method_that_reads_its_stages_and_a_teacher(own: Path, data: Path) -> None:
    words = ("--config-dir", "conf", "allow_targets=mine", "data=moles", "backbone=pyramid", *SMALL)
    teacher = "backbone@method.teacher.run.backbone=pyramid"
    for further in (("method=swskd",), ("method=hints", teacher)):
        assert "skinkd.evaluate allow_targets=mine" in python("skinkd.train", *words, *further, folder=own, data=data)
    (run,) = own.glob("outputs/hints-moles-pyramid-*")
    assert "train/hint" in set(pd.read_csv(run / "history.csv"))


@pytest.mark.parametrize(
    ("name", "old", "new", "sentence"),
    [
        ("conf/method/confidence.yaml", "threshold:", "treshold:", "method.threshold has no value"),
        ("conf/method/confidence.yaml", "name:", "further: 1\nname:", "method.further is not an argument of"),
        ("conf/method/confidence.yaml", "_target_", "_traget_", "did you mean '_target_'"),
        ("conf/method/confidence.yaml", "confidence.Confidence", "confidence.Confident", "cannot be imported"),
        ("mine/confidence.py", "class Confidence(Method):", "class Confidence(Method:", "confidence.py, line"),
        ("mine/confidence.py", '("penalty",)', '("penalti",)', "did you mean 'penalty'"),
        ("mine/confidence.py", "return self.combine(", "self.combine(", "returns no loss; end it with return"),
        ("mine/confidence.py", "entropy).mean()", "entropy)", "penalty of Confidence has the shape (16,)"),
        (
            "mine/confidence.py",
            "            ce=lambda: self.criterion(logits, label),\n",
            "",
            "its term_names are ce, penalty",
        ),
        ("conf/method/confidence.yaml", "name: confidence\n", "", "method.name has no value"),
        ("mine/confidence.py", "(network, **protocol)", "(network)", "does not hand it on to Method.__init__"),
        ("mine/confidence.py", "ce=lambda: self", "ce=self", "gives combine the term ce as a value"),
        (
            "mine/moles.py",
            "return ImageTable(",
            "return print(",
            "returns NoneType, and a loader returns an ImageTable",
        ),
        ("conf/method/confidence.yaml", None, "conf/method/kd.yaml", "would be ignored, because skinkd has a file"),
    ],
)
def test_a_beginners_mistake_is_one_sentence(
    own: Path, data: Path, tmp_path: Path, name: str, old: str | None, new: str, sentence: str
) -> None:
    folder = shutil.copytree(own, tmp_path / "own", ignore=shutil.ignore_patterns("outputs", "__pycache__"))
    if old is None:
        shutil.copy(folder / name, folder / new)
    else:
        content = (folder / name).read_text("utf-8")
        assert content.count(old) == 1, content.count(old)
        (folder / name).write_text(content.replace(old, new), "utf-8")
    words = (
        "method=confidence",
        "data=moles",
        "backbone=pyramid",
        "--config-dir",
        "conf",
        "allow_targets=mine",
        *SMALL,
    )
    env = {"SKINKD_DATA_DIR": str(data)}
    done = train_process.run(words, folder=folder, env=env, fork_children=True)
    assert done.code == 2 and sentence in done.err, done.err
    assert "Traceback" not in done.err


def commands_of_the_page() -> list[str]:
    """Every line of the page's shell blocks that runs something."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return [
        line.partition("#")[0].strip() for block in blocks for line in block.splitlines() if line.startswith("python")
    ]


@pytest.mark.parametrize("command", commands_of_the_page())
def test_the_commands_are_valid(own: Path, data: Path, command: str) -> None:
    """Commands that train show what they would run; the others run."""
    words = shlex.split(command)[2:]
    out = python(*words, *(["--cfg", "job"] if words[0] == "skinkd.train" else []), folder=own, data=data)
    assert out.strip()


FRESH = """
import runpy, sys
for name in [name for name in sys.modules if name.partition(".")[0] == "skinkd"]:
    del sys.modules[name]
runpy.run_module("skinkd.train", run_name="__main__", alter_sys=True)
"""
"""Runs the copy, though the process has imported the repository."""


def write_into(package: Path, *, verbs: bool) -> None:
    """Write the page's files into a copy of skinkd, each into its room; without ``verbs`` those of the rooms alone."""
    for name, content in files_of_the_page().items():
        for module, room in ROOMS.items():
            content = content.replace(f"mine.{module}", f"skinkd.{room}.{module}".replace("..", "."))
        path = package / name
        if name.startswith("mine/"):
            path = package / ROOMS[path.stem] / path.name
        if verbs or path.parent != package:
            assert not path.exists()
            path.write_text(content, "utf-8")


def test_a_copy_of_the_repository(tmp_path: Path, data: Path) -> None:
    """The same files in their rooms; nothing else is changed."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "skinkd", tmp_path / "skinkd", ignore=ignored)
    shutil.copytree(ROOT / "conf", tmp_path / "skinkd/conf", ignore=ignored)  # as in the wheel
    write_into(tmp_path / "skinkd", verbs=True)
    words = ["method=confidence", "data=moles", "backbone=pyramid", "augment=shadow", *SMALL]
    (tmp_path / "fresh.py").write_text(FRESH)
    env = {"SKINKD_DATA_DIR": str(data)}
    done = train_process.run(words, folder=tmp_path, module=str(tmp_path / "fresh.py"), env=env)
    assert done.code == 0, done.out + done.err
    assert list(tmp_path.glob("outputs/confidence-moles-pyramid-*/metrics.json"))


@pytest.mark.slow
def test_the_tests_of_the_house_pass_on_such_a_copy(tmp_path: Path) -> None:
    """Those that look at every module, dataset, method and backbone. A verb needs a layer and a place in the map too."""
    for name in ("skinkd", "conf", "docs", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "skinkd" / "conf").symlink_to("../conf")  # where the wheel has it
    write_into(tmp_path / "skinkd", verbs=False)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k"]
    command += ["architecture or source or confidence or hints or every_name"]
    done = subprocess.run(
        [*command, *("test_architecture.py", "data/test_source.py", "methods", "models/test_backbone.py")],
        cwd=tmp_path / "tests",
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-5000:]
