"""Who may import whom (docs/architecture.md), read from the source of every module."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import skinkd

PACKAGE = Path(skinkd.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__init__.py"
}

LAYERS: dict[str, set[str]] = {
    # contracts, which import nothing of the project
    "batch": set(),
    "errors": set(),
    "__main__": set(),
    # rooms: each module may import its own room, and these
    "losses": set(),
    "models": {"errors"},
    "data": {"batch", "config.targets", "runs.files", "errors"},
    "scoring": {"runs.cells", "errors"},
    "methods": {"losses", "models", "batch", "errors"},
    "config": {"config.targets", "errors"},
    "runs": {"config", "runs.cells", "runs.files", "scoring", "errors"},
    "analysis": {"scoring", "runs", "config", "errors"},
    "jobs": {"config", "runs", "errors"},
    "search": {"config", "config.targets", "jobs", "runs", "errors"},
    "build": {"config", "data", "models", "methods", "jobs", "runs", "errors"},
    "explanation": {"inference", "build", "config", "data", "models", "runs", "scoring", "errors"},
    "inference": {"build", "config", "data", "models", "runs", "scoring", "errors"},
    "card": {"build", "config", "data", "inference", "models", "runs", "scoring", "errors"},
    "deployment": {"analysis", "build", "card", "config", "data", "inference", "models", "runs", "scoring", "errors"},
    "training": {"build", "config", "data", "methods", "models", "scoring", "runs", "runs.files", "batch", "errors"},
    "web": {"card", "data", "explanation", "inference", "scoring", "errors"},
    # modules that others may import without their room
    "runs.files": set(),
    "runs.cells": set(),
    "config.targets": {"errors"},
    # modules that may import more than their room
    "inference.other_data": {"build", "config", "data", "inference", "runs", "scoring", "errors"},
    "data.verbs": {"build", "config", "data", "runs.cells", "errors"},
    "jobs.prepared": {"config.cli", "training"},
    "search.plan": {"build", "config", "search", "runs", "errors"},
    "config.cli": {"config", "jobs", "errors"},
    # verbs, which may import everything but each other
    "train": {"*"},
    "evaluate": {"*"},
    "export": {"*"},
    "predict": {"*"},
    "explain": {"*"},
    "compare": {"*"},
    "tune": {"*"},
    "app": {"*"},
    "data.__main__": {"*"},
}
"""Every module's layer, by the longest name that fits it, and the layers that this layer may import."""

VERBS = {name for name, allowed in LAYERS.items() if allowed == {"*"}}
LIBRARIES: dict[str, set[str]] = {
    "losses": {"torch"},
    "models": {"torch", "timm", "huggingface_hub", "safetensors"},
    "scoring": {"numpy", "pandas", "scipy", "torch", "torchmetrics"},
    "analysis": {
        *("numpy", "pandas", "scipy", "matplotlib", "jinja2", "markupsafe", "rich", "yaml"),
        *("requests", "wandb", "wandb_workspaces"),
    },
    "errors": set(),
    "batch": {"torch"},
}
"""Third-party packages of a layer, where these are limited."""
CONFIGURED = {
    *("config", "build", "training", "jobs.launcher", "search.plan", "data.verbs"),
    *("inference.other_data", "explanation.run"),
}
"""Layers and modules, next to the verbs, that know Hydra's configuration."""
ONLY_IN = {
    "wandb": {"runs.tracking", "analysis.wandb_report"},
    "wandb_workspaces": {"analysis.wandb_report"},
    "hydra": VERBS | CONFIGURED,
    "omegaconf": VERBS | CONFIGURED,
    "timm": {"models"},
    "albumentations": {"data"},
    "onnx": {"deployment"},
    "optuna": {"search"},
    "submitit": {"jobs.cluster"},
    "captum": {"explanation"},
    "skimage": {"explanation"},
    "starlette": {"web"},
    "uvicorn": {"web"},
}
"""Packages that appear in these layers alone."""
SHARED_BY_METHODS = {
    "methods.base",
    "methods.taught",
    "methods.terms",
    "methods.criterion",
    "methods.schedules",
    "methods.memory",
    "methods.contrast_memory",
}


def layer(name: str) -> str:
    """The layer of a module: the longest name in LAYERS that is the module or a room around it."""
    found = [one for one in LAYERS if name == one or name.startswith(f"{one}.")]
    assert found, f"skinkd.{name} has no layer; give it one in LAYERS and in docs/architecture.md"
    return max(found, key=len)


def of_layer(*layers: str) -> list[str]:
    """The modules of these layers; a layer without a module is an error, as its tests would test nothing."""
    found = [name for name in MODULES if layer(name) in layers]
    assert {layer(name) for name in found} == set(layers)
    return found


def imports(path: Path) -> Iterator[str]:
    """Every imported module, also those imported inside functions; ``from a import b`` gives a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def third_party(path: Path) -> set[str]:
    own = {name.split(".")[0] for name in imports(path)}
    return own - set(sys.stdlib_module_names) - {"skinkd"}


def ours(path: Path) -> set[str]:
    """The imported modules of this project, by their names below skinkd."""
    found = set()
    for name in imports(path):
        below = name.removeprefix("skinkd.")
        if name.startswith("skinkd.") and not below.startswith(("conf.", "__version__")):
            found.add(below if below in MODULES else below.rpartition(".")[0])
    assert found <= set(MODULES), f"{path} imports {found - set(MODULES)}"
    return found


def test_the_reading_of_imports_finds_what_is_there() -> None:
    """A reader that finds nothing would let everything pass."""
    assert ours(MODULES["methods.swskd"]) >= {"losses.logit", "models.backbone", "methods.base", "errors"}
    assert third_party(MODULES["models.pretrained"]) >= {"timm", "torch"}
    assert third_party(MODULES["runs.tracking"]) >= {"wandb"}  # inside a function


def picture() -> str:
    """The layers of docs/architecture.md, verbs first, each with the layers that its modules import."""
    edges: dict[str, set[str]] = {name: set() for name in LAYERS}
    for name, path in MODULES.items():
        edges[layer(name)] |= {layer(other) for other in ours(path)} - {layer(name)}
    height: dict[str, int] = {}

    def above(name: str) -> int:
        if name not in height:
            height[name] = -1  # of a circle between rooms, whose modules form none
            height[name] = 1 + max((above(other) for other in edges[name]), default=-1)
        return height[name]

    order = sorted(LAYERS, key=lambda name: (name not in VERBS, -above(name), name))
    width = max(map(len, LAYERS))
    return "\n".join(f"{name:<{width}}  -> {' '.join(sorted(edges[name]))}".rstrip(" ->") for name in order)


def test_the_picture_of_imports_is_that_of_the_code() -> None:
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawn = page.partition("<!-- imports -->\n```\n")[2].partition("\n```")[0]
    assert drawn == picture(), f"put this into docs/architecture.md:\n{picture()}"


def is_extension(name: str) -> bool:
    """Whether a module is of the kinds that docs/extending.md adds: a loss, a method, a network, a dataset, a transform."""
    kinds = r"^SOURCE = Source\(|^class \w+\([\w., ]*\b(Method|\w*Taught|nn\.Module|A\.ImageOnlyTransform)\b"
    return name.startswith("losses.") or re.search(kinds, MODULES[name].read_text(), re.MULTILINE) is not None


def test_the_map_names_every_module() -> None:
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = {name for name in MODULES if f"{name.rpartition('.')[2]}.py" in page}
    assert [name for name in MODULES if name not in named and name != "__main__" and not is_extension(name)] == []
    assert {"losses.logit", "methods.kd", "models.hybrid", "data.ham10000"} <= set(
        filter(is_extension, MODULES)
    ) & named


def test_every_name_of_this_file_is_there() -> None:
    """A layer, module or package that has been renamed would be limited by nothing."""
    assert {layer(name) for name in MODULES} == set(LAYERS)
    assert set(LIBRARIES) <= set(LAYERS)
    assert set(MODULES) >= SHARED_BY_METHODS
    places = set().union(CONFIGURED, *ONLY_IN.values())
    assert places <= set(MODULES) | set(LAYERS) | {name.split(".")[0] for name in MODULES}
    assert set(ONLY_IN) <= set().union(*(third_party(path) for path in MODULES.values()))
    for own, packages in LIBRARIES.items():
        assert packages == set().union(*(third_party(MODULES[name]) for name in of_layer(own)))


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_the_layers_below_it_alone(name: str) -> None:
    own = layer(name)
    allowed = LAYERS[own]
    for other in ours(MODULES[name]):
        if layer(other) in VERBS:
            pytest.fail(f"skinkd.{name} imports the verb skinkd.{other}")
        room = other.split(".")[0]
        assert allowed == {"*"} or layer(other) == own or room in allowed or layer(other) in allowed, (
            f"skinkd.{name} ({own}) imports skinkd.{other}; it may import {sorted(allowed)}"
        )


def test_imports_form_no_circle() -> None:
    """A module that runs as a program may import itself, as the module that others know."""
    edges = {name: ours(path) - {name} for name, path in MODULES.items()}
    while ends := {name for name, others in edges.items() if not others & edges.keys()}:
        edges = {name: others for name, others in edges.items() if name not in ends}
    assert edges == {}


@pytest.mark.parametrize("name", MODULES)
def test_a_package_stays_in_its_layers(name: str) -> None:
    own, packages = layer(name), third_party(MODULES[name])
    assert packages <= LIBRARIES.get(own, packages)
    for package in packages & set(ONLY_IN):
        assert name in ONLY_IN[package] or own in ONLY_IN[package] or own.split(".")[0] in ONLY_IN[package], package


@pytest.mark.parametrize("name", of_layer("methods"))
def test_methods_import_no_other_method(name: str) -> None:
    assert {other for other in ours(MODULES[name]) if layer(other) == "methods"} <= SHARED_BY_METHODS


def test_analysis_reads_run_folders_alone() -> None:
    found = {other for name in of_layer("analysis") for other in ours(MODULES[name]) if other in of_layer("runs")}
    assert found == {"runs.folder", "runs.history"}


def test_fit_has_one_place() -> None:
    """Training starts in one module: no other calls a method ``fit``, whatever it is called on."""
    calls = {
        name: [
            node
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "fit"
        ]
        for name, path in MODULES.items()
    }
    assert {name: len(found) for name, found in calls.items() if found} == {"training.run": 1}


def test_a_target_becomes_an_object_in_one_place() -> None:
    """There it is checked first: no other module imports what turns a name of a configuration into an object."""
    makers = ("hydra.utils", "hydra._internal", "pydoc.locate", "runpy")
    found = {name: [one for one in imports(path) if one.startswith(makers)] for name, path in MODULES.items()}
    # jobs.prepared runs skinkd.train and nothing else
    assert {name for name, used in found.items() if used} == {"build.construct", "jobs.prepared"}
    assert 'runpy.run_module("skinkd.train",' in MODULES["jobs.prepared"].read_text()
    importers = {name for name, path in MODULES.items() if "importlib.import_module" in path.read_text()}
    assert importers == {"data.source"}  # after the same check
    text = "".join(path.read_text() for path in MODULES.values())
    assert "hydra.utils." not in text and not re.search(r"(?<![.\w])(eval|exec)\(", text)


def test_no_module_is_long() -> None:
    lengths = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert {name: length for name, length in lengths.items() if length > 350} == {}


def test_scientific_values_have_no_default_in_python() -> None:
    """A number that an experiment depends on is said in YAML; methods and losses take it by keyword and require it."""
    for name in of_layer("losses", "methods"):
        for node in ast.walk(ast.parse(MODULES[name].read_text())):
            if isinstance(node, ast.FunctionDef):
                defaults = [d for d in [*node.args.defaults, *node.args.kw_defaults] if d is not None]
                numbers = [
                    d.value for d in defaults if isinstance(d, ast.Constant) and type(d.value) in (int, float, str)
                ]
                assert not numbers, f"{name}.{node.name} has the defaults {numbers}"
