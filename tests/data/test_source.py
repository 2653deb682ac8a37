"""A dataset is one module: nothing else names it, and one that nobody here has heard of works as ours do."""

import ast
import csv
import hashlib
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

import skinkd
from skinkd.data.ham10000_folder import CLASSES as HAM
from skinkd.data.isic2019 import CLASSES as ISIC
from skinkd.data.medmnist_sets import SETS
from skinkd.data.source import Source, archive_of_ids, source_of
from skinkd.data.table import SUBGROUPS
from tests.data.test_download import Server, archive, server
from tests.data.test_verbs import run
from tests.test_evaluate import make_run, scored

__all__ = ["server"]  # a fixture

PACKAGE = Path(skinkd.__file__).parent
CONF = PACKAGE.parent / "conf"
PAGE = (PACKAGE.parent / "docs" / "data.md").read_text()
CHOICES = {path.stem: OmegaConf.load(path) for path in sorted((CONF / "data").glob("*.yaml"))}
TARGETS = {name: (choice.get("data") or choice).table["_target_"] for name, choice in CHOICES.items()}
OURS = ("ham10000", "isic2019", "isic2024", "dermnet", "medmnist", "synthetic", "synthetic_patch")
"""The datasets that the pages describe. A further one is a file and a YAML, and no test of this file needs its name."""
SOURCES = {name: source for name, target in TARGETS.items() if (source := source_of({"_target_": target}))}


def test_every_published_dataset_has_a_source_and_data_of_ones_own_has_none() -> None:
    assert set(SOURCES) == set(TARGETS) - {"folder", "table"} and set(OURS) <= set(SOURCES)
    assert all(isinstance(source, Source) and source.licence for source in SOURCES.values())


def test_every_source_says_what_a_model_card_needs() -> None:
    for name in OURS:
        source = SOURCES[name]
        assert source.title and source.shows and set(source.subgroups) <= set(SUBGROUPS), name
        assert bool(source.citations) == (name in {"ham10000", "isic2019", "isic2024", "medmnist"}), name
    for name, classes in (("ham10000", HAM), ("synthetic", HAM), ("isic2019", ISIC)):
        assert set(SOURCES[name].class_names) == set(classes)
    for flag in SETS:
        licence = SOURCES["medmnist"].licence_for({"flag": flag})
        assert licence == ("CC BY-NC 4.0" if flag == "dermamnist" else "CC BY 4.0")
    assert SOURCES["ham10000"].licence_for({}) == SOURCES["ham10000"].licence


def test_equal_ids_are_equal_images_within_an_archive_only() -> None:
    def ids(name: str, **settings: object) -> str | None:
        return archive_of_ids({"_target_": TARGETS[name], **settings})

    assert ids("ham10000") == ids("isic2019") == ids("isic2024") is not None
    assert ids("medmnist", flag="octmnist", size=28) == ids("medmnist", flag="octmnist", size=64)
    assert ids("medmnist", flag="octmnist", size=28) != ids("medmnist", flag="pathmnist", size=28)
    drawn = {"images": 120, "height": 48, "width": 64}
    assert ids("synthetic", **drawn, seed=0) == ids("synthetic", **drawn, seed=0) is not None
    assert ids("synthetic", **drawn, seed=0) != ids("synthetic", **drawn, seed=1)
    assert ids("synthetic", **drawn, seed=0) != ids("synthetic_patch", **drawn, seed=0, patch_class="mel")
    assert ids("dermnet") is ids("folder") is ids("table") is None
    assert source_of({"_target_": "a_package_that_has_gone.data.load_x"}) is None


def test_the_documentation_states_every_licence() -> None:
    for name in set(OURS) - {"synthetic", "synthetic_patch"}:
        section = PAGE.split(f"(`data={name}`)")[1].split("\n## ")[0]
        for licence in SOURCES[name].licence.split("; "):
            assert licence in section, name


def test_the_class_maps_that_sources_name_are_those_that_are_stored() -> None:
    named = {name for source in SOURCES.values() for name in source.class_maps}
    assert named == {path.stem for path in (CONF / "class_map").glob("*.yaml")}


NAMES = re.compile(
    "|".join([*(rf"(?<![A-Za-z]){name}(?![A-Za-z])" for name in OURS), "isic", "derma?mnist", *SETS]), re.IGNORECASE
)


def names_in_code(path: Path) -> Iterator[str]:
    """Whatever names a dataset in a module, except in its docstrings and comments."""
    tree = ast.parse(path.read_text())
    told = {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and node.body
        if isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        words: list[object] = [
            getattr(node, field, None) for field in ("id", "attr", "name", "module", "arg", "asname")
        ]
        if isinstance(node, ast.Constant) and node not in told:
            words.append(node.value)
        yield from (word for word in words if isinstance(word, str) and NAMES.search(word))


def test_nothing_but_a_dataset_names_it() -> None:
    own = re.compile(f"({'|'.join(OURS)})(_.*)?")
    found: dict[bool, dict[str, list[str]]] = {True: {}, False: {}}
    for path in sorted(PACKAGE.rglob("*.py")):
        of_a_dataset = path.parent.name == "data" and own.fullmatch(path.stem) is not None
        found[of_a_dataset][path.relative_to(PACKAGE).as_posix()] = list(names_in_code(path))
    assert {file: names for file, names in found[False].items() if names} == {}
    assert sum(bool(names) for names in found[True].values()) >= len(OURS)  # the search finds what there is


def from_the_page(language: str) -> str:
    """The loader, or the choice of configuration, that docs/data.md shows."""
    (code,) = re.findall(
        rf"```{language}\n(.*?)```", PAGE.split("## A further dataset")[1].split("\n## ")[0], re.DOTALL
    )
    return code


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    return cv2.imencode(".png", pixels)[1].tobytes()


class MadeUp:
    """The package ``somebody`` of docs/data.md, whose dataset has 40 images of 20 patients, and a server of its files."""

    def __init__(self, folder: Path, server: Server, *, ids: bool) -> None:
        self.folder, self.server = folder, server
        self.names = [f"p{k:02d}" for k in range(40)]
        rows = [f"{name},{('benign', 'malignant')[k % 2]},{k % 20}" for k, name in enumerate(self.names)]
        labels = "\n".join(["name,class,patient", *rows]).encode()
        server.files["/labels.csv"] = labels
        server.files["/pictures.zip"] = archive({f"{name}.png": png(k) for k, name in enumerate(self.names)})
        (folder / "somebody").mkdir(exist_ok=True)
        (folder / "conf" / "data").mkdir(parents=True, exist_ok=True)
        (folder / "conf" / "data" / "lesions.yaml").write_text(from_the_page("yaml"))
        code = from_the_page("python")
        for said, here in (
            ("sha256:…", f"sha256:{hashlib.sha256(labels).hexdigest()}"),
            ("https://somebody.example/lesions", server.address),
            *([] if ids else [('ids="Somebody\'s archive"', "ids=None")]),
        ):
            assert code.count(said) == 1
            code = code.replace(said, here)
        (folder / "somebody" / "lesions.py").write_text(code)
        importlib.invalidate_caches()

    def verb(self, word: str) -> tuple[int, str]:
        """Exit code and output of ``python -m skinkd.data <word> --config-dir conf allow_targets=somebody data=lesions``."""
        done = run(self.folder, word, "--config-dir", "conf", "allow_targets=somebody", "data=lesions")
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def somebody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path of imports, for data and outputs too; no GPU."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SKINKD_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("SKINKD_OUTPUT_DIR", str(tmp_path / "outputs"))
    monkeypatch.setenv("SKINKD_ALLOW_TARGETS", "somebody")  # for what this process itself builds
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "somebody"]:
        del sys.modules[name]


def test_a_dataset_of_another_package_is_downloaded_and_verified(server: Server, somebody: Path) -> None:
    made_up = MadeUp(somebody, server, ids=False)
    root = somebody / "lesions"
    words = f"--config-dir={somebody / 'conf'} allow_targets=somebody data=lesions"
    assert made_up.verb("download") == (
        0,
        f"pictures: 40 files\n{root}; check it with python -m skinkd.data verify {words}\n",
    )
    assert (root / "pictures" / "p07.png").read_bytes() == png(7)
    code, said = made_up.verb("verify")
    assert code == 0 and "40 images, 2 classes, 20 groups" in said and said.endswith("\n0 problems\n")
    (root / "pictures" / "p07.png").write_bytes(png(7)[:-20])
    (root / "labels.csv").write_text((root / "labels.csv").read_text() + "\n")
    code, said = made_up.verb("verify")
    assert code == 1 and said.endswith("\n2 problems\n")
    assert "p07.png is truncated" in said and "labels.csv is not the published file (sha256:" in said
    assert made_up.verb("download")[0] == 0 and made_up.verb("verify")[0] == 0  # mends both


@pytest.mark.parametrize("ids", [True, False])
def test_what_a_run_on_it_has_seen_is_known_by_name_if_names_are_the_archives(
    server: Server, somebody: Path, ids: bool
) -> None:
    """The second folder has other pictures under the same names, so that only names can tell."""
    made_up = MadeUp(somebody, server, ids=ids)
    assert made_up.verb("download")[0] == 0
    words = (f"hydra.searchpath=[file://{somebody / 'conf'}]", "data=lesions", "data.image_size=32")
    trained, parts = make_run(somebody / "run", *words)
    other = somebody / "other"
    (other / "pictures").mkdir(parents=True)
    (other / "labels.csv").write_bytes(server.files["/labels.csv"])
    for k, name in enumerate(made_up.names):
        (other / "pictures" / f"{name}.png").write_bytes(png(1000 + k))
    scored_ids, metrics = scored(trained, *words, f"data.root={other}", "data.name=other", name="other")
    seen = {*parts["train"], *parts["val"]} if ids else set()
    assert scored_ids == set(made_up.names) - seen and metrics["removed/seen_images"] == len(seen)
    if ids:
        return  # the files need not tell what the names do
    # the run's own folder: the same files, whatever the names say
    scored_ids, metrics = scored(trained, *words, name="lesions")
    assert scored_ids == set(parts["test"])
    with (trained / "evaluations" / "lesions" / "predictions.csv").open() as file:
        assert {row["label"] for row in csv.DictReader(file)} == {"benign", "malignant"}
