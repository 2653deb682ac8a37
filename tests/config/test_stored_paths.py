"""A stored configuration of somebody else chooses no folder to write to: it runs below the folders of the command."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from skinkd.build.seen import own_images, run_config
from skinkd.build.tables import check_stored_table
from skinkd.config.resolve import stored_settings, teacher_config
from skinkd.config.stored_paths import WRITTEN, below_the_commands
from skinkd.errors import UserError
from skinkd.runs.folder import RunFolder

Trained = Callable[..., Path]
OWN = {"data_dir": "/mine/data", "output_dir": "/mine/outputs", "cache_dir": "/mine/cache"}


def stored(**changes: Any) -> dict[str, Any]:
    paths = {"data_dir": "/theirs/data", "output_dir": "/theirs/outputs", "cache_dir": "/theirs/outputs/cache"}
    table = {"root": "/theirs/data/x", "memory": "/theirs/outputs/cache", "unpacked": "/theirs/outputs/cache/medmnist"}
    return {"paths": paths, "run_dir": None, "data": {"root": "/theirs/data/x", "table": table}, **changes}


def test_every_path_below_a_stored_folder_moves_to_the_commands() -> None:
    moved = below_the_commands(stored(), OWN, file=Path("/somewhere/config.yaml"))
    assert moved["paths"] == OWN and moved["run_dir"] is None
    table = moved["data"]["table"]
    assert (table["root"], table["memory"]) == ("/mine/data/x", "/mine/cache")
    assert table["unpacked"] == "/mine/cache/medmnist"


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize(
    "place", ["/home/victim", "/theirs/outputs/../../home/victim", "/mine/outputs-not", "/mine", ""]
)
@pytest.mark.parametrize("where", ["data", "method.teacher.run.data", "method.teacher.run.method.teacher.run.data"])
def test_a_folder_to_write_to_elsewhere_is_refused(name: str, place: str, where: str) -> None:
    config: dict[str, Any] = stored()
    node = config
    for key in where.split("."):
        node = node.setdefault(key, {})
    node.setdefault("table", {})[name] = place
    with pytest.raises(UserError, match=rf"config\.yaml: {where}\.table\.{name}=.* outside paths\.output_dir"):
        below_the_commands(config, OWN, file=Path("/somewhere/config.yaml"))


def test_a_link_below_the_outputs_leads_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "link").symlink_to(tmp_path)
    own = {"data_dir": "d", "output_dir": str(tmp_path / "outputs"), "cache_dir": str(tmp_path / "outputs" / "cache")}
    config = stored()
    config["data"]["table"]["memory"] = str(tmp_path / "outputs" / "link" / "x")
    with pytest.raises(UserError, match="outside"):
        below_the_commands(config, own, file=tmp_path / "config.yaml")


def test_a_run_goes_on_in_the_folder_where_its_configuration_lies(tmp_path: Path) -> None:
    home = tmp_path / "outputs" / "run"
    home.mkdir(parents=True)
    theirs = stored()["paths"]
    for given in (str(home.parent), "outputs"):  # as an absolute path, and relative to another working directory
        config = stored(paths=theirs | {"output_dir": given, "cache_dir": f"{given}/cache"})
        config["data"]["table"]["memory"] = config["data"]["table"]["unpacked"] = f"{given}/cache"
        moved = below_the_commands(config, OWN, file=home / "config.yaml")
        assert moved["paths"]["output_dir"] == str(home.parent)
    # the cache is the command's, unless it is below these outputs
    for given in ("/home/victim", f"{home.parent}-not"):
        config = stored(paths=theirs | {"output_dir": str(home.parent), "cache_dir": given})
        config["data"]["table"] = {}
        assert below_the_commands(config, OWN, file=home / "config.yaml")["paths"]["cache_dir"] == "/mine/cache"
    config = stored(run_dir=str(home))
    assert below_the_commands(config, OWN, file=home / "config.yaml")["run_dir"] == str(home)
    for other in (str(home.parent), "/home/victim", str(home / ".."), 7):
        config = stored(run_dir=other)
        assert below_the_commands(config, OWN, file=home / "config.yaml")["run_dir"] is None


@pytest.mark.parametrize(
    "paths", [None, "x", {}, {"output_dir": "x"}, {"output_dir": [1], "cache_dir": "a", "data_dir": "b"}]
)
def test_a_file_without_paths_is_one_sentence(paths: Any) -> None:
    with pytest.raises(UserError, match="has no paths; give the config"):
        below_the_commands(stored(paths=paths), OWN, file=Path("/x/config.yaml"))


def test_a_strangers_run_trains_in_ones_own_outputs(finished: Path, trained: Trained, tmp_path: Path) -> None:
    """The whole way: the shared run says where to write, with force=true, and nothing is touched there."""
    victim = tmp_path / "home"
    victim.mkdir()
    (victim / "thesis.tex").write_text("years")
    config = yaml.safe_load((finished / "config.yaml").read_text())
    config["run_dir"] = str(victim)
    config["paths"] = dict.fromkeys(config["paths"], str(victim))
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "config.yaml").write_text(yaml.safe_dump(config))
    run = trained(f"config={shared / 'config.yaml'}", "force=true")
    assert run.parent == tmp_path / "outputs" and run.name == finished.name
    assert (run / "metrics.json").read_bytes() == (finished / "metrics.json").read_bytes()
    assert [path.name for path in victim.iterdir()] == ["thesis.tex"]
    assert [path.name for path in shared.iterdir()] == ["config.yaml"]


def test_a_stored_drawing_elsewhere_is_not_made(finished: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((finished / "config.yaml").read_text())
    check_stored_table(config)  # it is there already
    config["data"]["table"]["root"] = str(tmp_path / "not" / "there")
    with pytest.raises(UserError, match=r"data\.table\.root=.* is not there"):
        check_stored_table(config)
    config["paths"]["output_dir"] = str(tmp_path)
    check_stored_table(config)
    assert not list(tmp_path.iterdir())


def test_scoring_reads_a_strangers_table_and_writes_below_its_own_folders(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def build(settings: dict[str, Any], *, place: str) -> Any:
        asked.append(settings)
        raise UserError("seen")

    monkeypatch.setattr("skinkd.build.seen.build", build)
    own = {"data_dir": "/mine/data", "output_dir": str(tmp_path), "cache_dir": str(tmp_path / "cache")}
    table = {"_target_": "skinkd.data.folder.load_folder", "root": "/theirs", "memory": "/home/victim"}
    run = stored() | {"protocol": "grouped"}
    run["data"] = {"table": table}
    rows, gap = own_images(run, {"images": {}, "groups": {}}, own)
    assert rows is None and "seen" in gap
    assert asked[0]["memory"].startswith(str(tmp_path / "cache")) and asked[0]["root"] == "/theirs"
    drawn = copy.deepcopy(run)
    size = {"images": 120, "height": 48, "width": 64, "seed": 0}
    drawn["data"]["table"] = {"_target_": "skinkd.data.ham10000.load_synthetic", "root": "/home/victim"} | size
    rows, gap = own_images(drawn, {"images": {}, "groups": {}}, own)
    assert rows is None and "outside the folders of this command" in gap and len(asked) == 1


@pytest.mark.parametrize("text", ["a: 1", "data: 3\npaths: {}", "data: {table: 1}\npaths: {}\nprotocol: grouped"])
def test_a_configuration_that_is_no_runs_is_one_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match="is not the configuration of a run"):
        run_config(tmp_path / "checkpoints" / "best.ckpt")


def test_a_teacher_chooses_no_folders(tmp_path: Path) -> None:
    from hydra import compose, initialize_config_module

    with initialize_config_module(version_base="1.3", config_module="skinkd.conf"):
        settings = compose("train", overrides=["method=kd", "data=synthetic"])
    for name in ("output_dir", "cache_dir"):
        hostile = copy.deepcopy(settings)
        OmegaConf.update(hostile, f"method.teacher.run.paths.{name}", str(tmp_path / "elsewhere"), force_add=True)
        with pytest.raises(UserError, match=r"method\.teacher\.run\.paths is refused"):
            teacher_config(hostile)
    hostile = copy.deepcopy(settings)
    OmegaConf.update(hostile, "method.teacher.run.run_dir", str(tmp_path / "elsewhere"), force_add=True)
    assert teacher_config(hostile)["run_dir"] is None


def test_force_removes_no_files_but_a_runs(tmp_path: Path, finished: Path) -> None:
    import pandas as pd

    (tmp_path / "thesis.tex").write_text("years")
    splits = pd.DataFrame({"image_id": ["a"], "group": ["a"], "split": ["train"]})
    config = yaml.safe_load((finished / "config.yaml").read_text())
    with pytest.raises(UserError, match="holds files and no run, and force=true would remove them"):
        RunFolder(tmp_path).open(config, splits, force=True)
    assert (tmp_path / "thesis.tex").read_text() == "years"
    run = shutil.copytree(finished, tmp_path / "run")
    RunFolder(run).open(config, splits, force=True)
    assert not (run / "metrics.json").exists()


def test_what_is_given_beside_it_holds(finished: Path, tmp_path: Path) -> None:
    from hydra import compose, initialize_config_module

    words = [
        f"config={finished / 'config.yaml'}",
        f"paths.output_dir={tmp_path}",
        f"run_dir={tmp_path / 'mine'}",
        "force=true",
    ]
    with initialize_config_module(version_base="1.3", config_module="skinkd.conf"):
        settings = stored_settings(compose("train", overrides=words))
    assert settings.run_dir == str(tmp_path / "mine") and settings.force is True
