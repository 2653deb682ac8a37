"""Who may import whom (docs/architecture.md), read from the source of every module."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import skinkd

PACKAGE = Path(skinkd.__file__).parent
PLUGINS = PACKAGE.parent / "hydra_plugins"
MODULES = {path.relative_to(PACKAGE).with_suffix("").as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
LAYERS = ("losses", "models", "data", "methods", "runs", "analysis")
SHARED_BY_METHODS = {"base", "taught", "terms", "criterion", "schedules"}


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
    return own - set(sys.stdlib_module_names) - {"skinkd", "hydra_plugins"}


def ours(path: Path) -> set[str]:
    """Names below skinkd: ``losses.logit``, ``errors``, …"""
    found = set()
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "skinkd" and len(parts) > 1:
            found.add(".".join(parts[1:3]) if parts[1] in LAYERS else parts[1])
    return found


def of(layer: str) -> dict[str, Path]:
    found = {name: path for name, path in MODULES.items() if name.split("/")[0] == layer and "/" in name}
    assert found, f"no modules in skinkd/{layer}"
    return found


def layers(path: Path) -> set[str]:
    return {name.split(".")[0] for name in ours(path)}


def test_the_reading_of_imports_finds_what_is_there() -> None:
    """A reader that finds nothing would let everything pass."""
    assert ours(PACKAGE / "methods" / "swskd.py") >= {"losses.logit", "models.backbone", "methods.base", "errors"}
    assert third_party(PACKAGE / "models" / "pretrained.py") >= {"timm", "torch"}
    assert third_party(PACKAGE / "runs" / "tracking.py") >= {"wandb"}  # inside a function


@pytest.mark.parametrize("name", of("losses"))
def test_losses_know_torch_alone(name: str) -> None:
    assert third_party(MODULES[name]) <= {"torch"}
    assert layers(MODULES[name]) <= {"losses"}


@pytest.mark.parametrize("name", of("models"))
def test_models_know_torch_and_timm(name: str) -> None:
    assert third_party(MODULES[name]) <= {"torch", "timm", "huggingface_hub", "safetensors"}
    assert layers(MODULES[name]) <= {"models", "errors"}


@pytest.mark.parametrize("name", of("data"))
def test_data_know_neither_models_nor_losses_nor_methods(name: str) -> None:
    allowed = {"data", "batch", "errors"}
    if name == "data/__main__":
        allowed |= {"cli", "runs", "build"}  # a verb of its own
    assert layers(MODULES[name]) <= allowed
    assert not third_party(MODULES[name]) & {"timm", "wandb"}


@pytest.mark.parametrize("name", of("methods"))
def test_methods_know_no_data_no_configuration_and_not_each_other(name: str) -> None:
    assert layers(MODULES[name]) <= {"methods", "losses", "models", "batch", "errors"}
    assert not third_party(MODULES[name]) & {"hydra", "omegaconf", "wandb", "albumentations", "cv2", "timm"}
    others = {module.split(".")[1] for module in ours(MODULES[name]) if module.startswith("methods.")}
    assert others <= SHARED_BY_METHODS


@pytest.mark.parametrize("name", of("runs"))
def test_runs_know_no_data_no_models_and_no_methods(name: str) -> None:
    assert layers(MODULES[name]) <= {"runs", "metrics", "errors"}
    assert not third_party(MODULES[name]) & {"timm", "albumentations", "hydra", "omegaconf"}


@pytest.mark.parametrize("name", of("analysis"))
def test_the_analysis_knows_run_folders_and_metrics_alone(name: str) -> None:
    assert layers(MODULES[name]) <= {"analysis", "metrics", "bootstrap", "runs", "errors"}
    assert {module for module in ours(MODULES[name]) if module.startswith("runs")} <= {"runs.folder"}
    assert not third_party(MODULES[name]) & {"torch", "lightning", "timm", "albumentations", "hydra", "omegaconf"}
    assert "wandb_workspaces" not in third_party(MODULES[name]) or name == "analysis/wandb_report"


@pytest.mark.parametrize("name", [name for name in ("metrics", "batch", "errors", "bootstrap") if name in MODULES])
def test_what_everybody_uses_uses_nobody(name: str) -> None:
    assert layers(MODULES[name]) <= {"metrics", "errors"}
    assert not third_party(MODULES[name]) & {"lightning", "hydra", "omegaconf", "wandb", "timm"}


@pytest.mark.parametrize("name", MODULES)
def test_hydra_and_omegaconf_are_for_the_verbs(name: str) -> None:
    if third_party(MODULES[name]) & {"hydra", "omegaconf"}:
        assert "/" not in name or name == "data/__main__"


@pytest.mark.parametrize("name", MODULES)
def test_wandb_is_for_tracking_and_its_report_alone(name: str) -> None:
    assert "wandb" not in third_party(MODULES[name]) or name in ("runs/tracking", "analysis/wandb_report")


@pytest.mark.parametrize("name", [name for name in MODULES if "/" not in name])
def test_nobody_imports_a_verb_but_a_verb(name: str) -> None:
    verbs = {one for one in MODULES if "/" not in one and "cli.main(" in MODULES[one].read_text()}
    if not verbs & {name}:
        assert not {one for one in layers(MODULES[name]) if one in verbs}


def test_fit_has_one_place() -> None:
    # only calls of a method named fit, on whatever trainer
    places = {
        name
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "fit"
        if ast.unparse(node.func.value) == "trainer"
    }
    assert places == {"train"}


def test_the_launcher_stays_light() -> None:
    """Hydra imports it at every start; what a launch needs is imported by the launch."""
    allowed = {"hydra", "omegaconf", *sys.stdlib_module_names}
    for path in PLUGINS.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= allowed
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] in allowed


def test_no_module_is_long() -> None:
    lengths = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert {name: length for name, length in lengths.items() if length > 350} == {}


def test_scientific_values_have_no_default_in_python() -> None:
    """A number that an experiment depends on is said in YAML; methods and losses take it by keyword and require it."""
    for name in [*of("losses"), *of("methods")]:
        for node in ast.walk(ast.parse(MODULES[name].read_text())):
            if isinstance(node, ast.FunctionDef):
                defaults = [d for d in [*node.args.defaults, *node.args.kw_defaults] if d is not None]
                numbers = [
                    d.value for d in defaults if isinstance(d, ast.Constant) and type(d.value) in (int, float, str)
                ]
                assert not numbers, f"{name}.{node.name} has the defaults {numbers}"
