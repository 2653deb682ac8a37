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

from skinkd.config.overrides import check_overrides, composed
from skinkd.config.resolve import resolved
from skinkd.config.targets import check_targets
from skinkd.config.user_errors import user_errors
from skinkd.errors import UserError

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
    env = {"SKINKD_DATA_DIR": str(data), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
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
    tests = {f"tests/test_{name}.py" for name in ROOMS if name != "hints"}
    choices = (
        "method/confidence",
        "method/hints",
        "data/moles",
        "backbone/narrow",
        "backbone/pyramid",
        "augment/shadow",
    )
    assert shown == modules | tests | {f"conf/{name}.yaml" for name in choices}


def test_a_package_of_ones_own(own: Path, data: Path) -> None:
    """All of it in one run: the made-up method on the made-up dataset, network and augmentation."""
    words = ("method=confidence", "data=moles", "backbone=pyramid", "augment=shadow")
    command = ("-m", "--config-dir", "conf", "allow_targets=mine", *words, "seed=0", *SMALL)
    sweep = python("skinkd.train", *command, folder=own, data=data)
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
    for further in (("method=swskd", "method.name='=Steady! & Co'"), ("method=hints", teacher)):
        said = python("skinkd.train", *words, *further, folder=own, data=data)
        assert "skinkd.evaluate allow_targets=mine" in said
        if "swskd" in further[0]:
            evaluate, compare = [shlex.split(line)[2:] for line in said.splitlines() if " -m skinkd." in line]
    (run,) = own.glob("outputs/hints-moles-pyramid-*")
    assert "train/hint" in set(pd.read_csv(run / "history.csv"))
    # a name that looks like a formula or a shell's word is a folder's and a table's as any other, in the commands too
    (run,) = own.glob("outputs/=Steady! & Co-moles-pyramid-*")
    assert f"run={run.relative_to(own)}" in [word.replace("'", "") for word in evaluate]
    python(*evaluate[:3], "data=moles", "--config-dir=conf", folder=own, data=data)
    assert list(run.glob("evaluations/moles/metrics.json"))
    python(*compare, folder=own, data=data)
    table = (own / "outputs/comparison/comparison.csv").read_text("utf-8")
    assert "\n'=Steady! & Co," in table and "\n=" not in table


@pytest.mark.parametrize(
    ("name", "old", "new", "sentence"),
    [
        ("conf/method/confidence.yaml", "threshold:", "treshold:", "method.threshold has no value"),
        ("conf/method/confidence.yaml", "name:", "further: 1\nname:", "method.further is not an argument of"),
        ("conf/method/confidence.yaml", "Confidence\n", "Confident\n", "did you mean mine.confidence.Confidence?"),
        ("conf/method/confidence.yaml", "Confidence\n", "entropy_hinge\n", "is no method; name a subclass of"),
        ("conf/backbone/pyramid.yaml", "[16, 32, 64]", "16", "mine.pyramid.Pyramid takes widths: Sequence[int]"),
        (
            "mine/pyramid.py",
            "return self.features(image).logits",
            "return self.features(image)",
            "return the logits, (2, 2)",
        ),
        ("mine/moles.py", "SOURCE = Source(", "SOURCE = dict(", "SOURCE of mine.moles is a dict"),
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
        ("mine/confidence.py", "(network, **protocol)", "(network)", "does not hand it on to Method.__init__"),
        ("mine/confidence.py", "ce=lambda: self", "ce=self", "gives combine the term ce as a value"),
        (
            "mine/moles.py",
            "return ImageTable(",
            "return print(",
            "returns NoneType, and a loader returns an ImageTable",
        ),
    ],
)
def test_a_beginners_mistake_is_one_sentence(
    own: Path, data: Path, tmp_path: Path, name: str, old: str, new: str, sentence: str
) -> None:
    folder = with_mistake(own, tmp_path, name, old, new)
    done = train_process.run([*OWN, "allow_targets=mine", *SMALL], folder=folder, env={"SKINKD_DATA_DIR": str(data)})
    assert done.code == 2 and sentence in done.err, done.err
    assert "Traceback" not in done.err and done.err.count("error: ") == 1


OWN = ("method=confidence", "data=moles", "backbone=pyramid", "augment=shadow", "--config-dir", "conf")


def with_mistake(own: Path, tmp_path: Path, name: str, old: str, new: str) -> Path:
    """A copy of the package with one text of one file replaced."""
    folder = shutil.copytree(own, tmp_path / "own", ignore=shutil.ignore_patterns("outputs", "__pycache__"))
    content = (folder / name).read_text("utf-8")
    assert content.count(old) == 1, content.count(old)
    (folder / name).write_text(content.replace(old, new), "utf-8")
    return folder


@pytest.mark.parametrize(
    ("choice", "old", "new", "sentence"),
    [
        (
            "data/moles",
            "root: ${paths.data_dir}/moles\n",
            "",
            "data.table.root refers to ${data.root}, which has no value",
        ),
        ("data/moles", "table:", "tabel:", "data.table has no value; is data.tabel misspelt?"),
        ("data/moles", "_target_", "target", "data.table._target_ has no value; is data.table.target misspelt?"),
        ("data/moles", "${data.root}", "{data.root}", "data.table.root={data.root} is no reference"),
        ("data/moles", "mine.moles.load_moles", "load_moles", "it must be a module and a name in it, with dots"),
        ("augment/shadow", "train:", "trian:", "augment.train has no value; is augment.trian misspelt?"),
        (
            "augment/shadow",
            "{_target_: mine.shadow.Shadow, ",
            "{",
            "augment.train[2]={'brightness': 0.5, 'p': 0.3} has no",
        ),
        (
            "augment/shadow",
            '["${data.image_size}", "${data.image_size}"]',
            "[${data.image_size}]",
            "shadow.yaml, line 3",
        ),
        (
            "method/confidence",
            "name: confidence\n",
            "",
            "method.name has no value; give the file in conf/method/ a line",
        ),
        (
            "method/confidence",
            "name: confidence",
            "name:",
            "method.name has no value; give the file in conf/method/ a line",
        ),
        ("method/confidence", "_target_", "_traget_", "did you mean '_target_'"),
        (
            "method/confidence",
            "{ce: 1.0, penalty: 0.1}",
            "0.1",
            "method.loss_weights=0.1 is a number, and it must be a mapping",
        ),
        ("method/confidence", "threshold: ", "threshold:", "confidence.yaml, line 4 cannot be read as YAML"),
        ("method/hints", "supervised", "superwised", "In 'method/hints': Could not find 'teacher/superwised'"),
        (
            "backbone/pyramid",
            "weights: null\n",
            "",
            "backbone.weights has no value; give the file in conf/backbone/ a line",
        ),
        ("backbone/narrow", "[timm, _self_]", "[_self_]", "backbone._target_ has no value"),
    ],
)
def test_a_mistake_in_a_file_of_conf_is_one_sentence(
    own: Path, tmp_path: Path, choice: str, old: str, new: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is imported or read before; so the command need not begin in a process of its own."""
    folder = with_mistake(own, tmp_path, f"conf/{choice}.yaml", old, new)
    words = [f"{choice.replace('/', '=')}" if word.startswith(choice.split("/")[0]) else word for word in OWN]
    says(sentence, [*words[:-1], str(folder / "conf")], capsys)


def says(sentence: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The command ends with one sentence, before anything is built."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended, user_errors():
        patch.setenv("SKINKD_ALLOW_TARGETS", "mine")
        check_overrides("train", words)
        resolved(composed("train", words))
    said = capsys.readouterr().err
    assert ended.value.code == 2 and sentence in said and said.count("\n") == 1, said


@pytest.mark.parametrize(
    ("name", "moved", "sentence"),
    [
        ("method/confidence.yaml", "method/kd.yaml", "would be ignored, because skinkd has a file"),
        ("method/confidence.yaml", "methods/confidence.yaml", "confidence.yaml is not read, as its place is"),
        ("method/confidence.yaml", "method/confidence.yml", "confidence.yml is not read, as its place is"),
    ],
)
def test_a_file_in_the_wrong_place_is_one_sentence(
    own: Path, tmp_path: Path, name: str, moved: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(own / "conf", tmp_path / "conf")
    (folder / moved).parent.mkdir(exist_ok=True)
    (folder / name).rename(folder / moved)
    says(sentence, [*OWN[:-1], str(folder)], capsys)


def test_a_forgotten_config_dir_is_one_sentence(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(own)
    says("add --config-dir conf, so that conf/method/confidence.yaml is read", ["method=confidence"], capsys)


@pytest.mark.parametrize(
    ("place", "target", "rule"),
    [
        ("data.table", "skinkd.data.moles.moles", "a function load_<name> of a module in skinkd/data/"),
        ("method", "skinkd.methods.confidence.confidence", "a class of a module in skinkd/methods/"),
        ("backbone", "skinkd.methods.pyramid.Pyramid", "a class of a module in skinkd/models/"),
        ("augment.train", "skinkd.shadow.Shadow", "a class in skinkd/data/"),
    ],
)
def test_a_target_of_a_clone_that_breaks_the_rule_is_told_the_rule(place: str, target: str, rule: str) -> None:
    with pytest.raises(UserError, match=f"_target_={target} is refused: it must be .*{re.escape(rule)}"):
        check_targets({"_target_": target}, place=place)


def test_data_that_are_nowhere_name_the_variable(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is unset, for a loader that reads its file itself; a download names the file in conf/data and not the loader."""
    monkeypatch.delenv("SKINKD_DATA_DIR", raising=False)
    folder = with_mistake(own, tmp_path, "conf/data/moles.yaml", "load_moles", "moles")
    code = (folder / "mine/moles.py").read_text("utf-8").replace("def load_moles", "def moles")
    code = re.sub(r"read_csv\(root.*", 'pd.read_csv(root / "moles.csv")', code).replace("SOURCE = ", "KNOWN = ")
    (folder / "mine/moles.py").write_text(code, "utf-8")
    words = ["--config-dir", "conf", "allow_targets=mine", "data=moles"]
    done = train_process.run(words, folder=folder, module="mine.parts")
    assert done.code == 2 and "finds no" in done.err and "SKINKD_DATA_DIR is not set" in done.err, done.err
    done = train_process.run(["download", *words], folder=folder, module="skinkd.data")
    assert done.code == 2 and "data=moles is not downloaded" in done.err and "mine.moles.moles" in done.err, done.err


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
        if name.startswith("tests/"):
            path = package.parent / "tests" / ROOMS[path.stem.removeprefix("test_")] / path.name
            path.parent.mkdir(parents=True, exist_ok=True)
        if verbs or path.parent not in (package, package.parent / "tests"):
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
    """Those that look at every module, dataset, method and backbone, and the page's own. A verb needs a layer too."""
    for name in ("skinkd", "conf", "docs", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "skinkd" / "conf").symlink_to("../conf")  # where the wheel has it
    write_into(tmp_path / "skinkd", verbs=False)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k"]
    own = [f"{ROOMS[name]}/test_{name}.py" for name in ("moles", "pyramid", "shadow")]
    command += ["architecture or source or confidence or hints or every_name or moles or pyramid or shadow"]
    done = subprocess.run(
        [*command, *("test_architecture.py", "data/test_source.py", "methods", "models/test_backbone.py"), *own],
        cwd=tmp_path / "tests",
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-5000:]
