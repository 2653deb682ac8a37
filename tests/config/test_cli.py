"""The command line: what is misspelt is named, with the nearest valid words."""

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path

import pytest
import train_process
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from skinkd.config.command_line import flag_first, hold_back, stored_sweep
from skinkd.config.overrides import check_overrides
from skinkd.errors import UserError


def choices(group: str) -> list[str]:
    return sorted(path.name.removesuffix(".yaml") for path in files("skinkd.conf").joinpath(group).iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["method=swkd"], ["method=swkd", "swskd"]),
        (["data=ham1000"], ["data=ham1000", "ham10000"]),
        (["backbone=resnet5"], ["resnet50"]),
        (["method=swskd", "method.tempratur=3"], ["method.tempratur", "method.temperature"]),
        (["image_size=64"], ["image_size", "data.image_size"]),
        (["data.imagesize=64"], ["data.image_size"]),
        (["seeds=1"], ["seed"]),
        (["method=swskd", "method.temperature=hot"], ["method.temperature=hot", "number"]),
        (["trainer.max_epochs=2.5"], ["trainer.max_epochs=2.5", "whole number"]),
        (["trainer.max_epochs=true"], ["whole number"]),
        (["force=maybe"], ["true or false"]),
        (["trainer.max_epochs=null"], ["whole number"]),
        (["data.fractions=0.8"], ["mapping"]),
        (["method=swskd,tssd", "-m"], ["tssd", "tsskd"]),
        (["-m", "method=swskd", "seed=0,one"], ["seed=one", "whole number"]),
        (["method={"], ["cannot be read"]),
        (["swskd"], ["'swskd'", "key=value"]),
        (["data.image_size=${data.imgsize}"], ["imgsize"]),
        (["method=kd", "method.teacher.run.data.image_size=96"], ["+method.teacher.run.data.image_size=<value>"]),
        (["method=kd", "method.teacher.run.data.image_sze=96"], ["'+method.teacher.run.data.image_size'"]),
        (["method=kd", "method.teacher.run.trainer.max_epoch=3"], ["'method.teacher.run.trainer.max_epochs'"]),
    ],
)
def test_a_mistake_is_named_with_the_nearest_valid_words(arguments: list[str], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        check_overrides("train", arguments)
    assert len(str(caught.value).splitlines()) == 1
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["method=swskd", "method.temperature=4", "optim.lr=1e-3", "backbone.weights=some/file.pth"],
        ["-m", "method=supervised,swskd,tsskd", "seed=0,1", "data=synthetic"],
        ["-m", "seed=range(0,3)"],
        ["experiment=swskd_ham10000_resnet50", "data.fractions={train: 0.8, val: 0.1, test: 0.1}"],
        ["--cfg", "job", "method=tsskd"],
        ["data.near_duplicate_bits=null"],
        ["+trainer.fast_dev_run=true", "optim.optimizer.momentum=0.8"],
        ["data.root=/some/where", "group=null", "hydra.verbose=true"],
    ],
)
def test_what_is_right_passes(arguments: list[str]) -> None:
    check_overrides("train", arguments)


@pytest.mark.parametrize("flag", [["--config-dir", "{}"], ["--config-dir={}"], ["-cd", "{}"]])
def test_the_choices_of_a_further_folder_are_known(tmp_path: Path, flag: list[str]) -> None:
    (tmp_path / "optim").mkdir()
    (tmp_path / "optim/mine.yaml").write_text("defaults: [sgd_cosine]\npatience: 3\n")
    given = [part.format(tmp_path) for part in flag]
    check_overrides("train", [*given, "optim=mine", "optim.patience=4"])
    for words, nearest in ((["optim=mina"], "'mine'"), (["optim=mine", "optim.patienc=4"], "'optim.patience'")):
        with pytest.raises(UserError, match=nearest):
            check_overrides("train", [*given, *words])
    with pytest.raises(UserError, match="optim=mine is not a choice"):
        check_overrides("train", ["optim=mine"])
    with pytest.raises(UserError, match="no folder"):
        check_overrides("train", [part.format(tmp_path / "absent") for part in flag])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["~trainer.max_epochs"], "~trainer.max_epochs removes a setting"),
        (["~method=swskd"], "~method=swskd removes a setting"),
        (["--config-name=foo"], "--config-name=foo names another configuration"),
        (["--experimental-rerun", "x.pickle"], "--experimental-rerun names another configuration"),
        (["--resolve"], "--resolve is for --cfg job"),
        (["-cp", "/tmp", "seed=0"], "-cp names another configuration"),
    ],
)
def test_what_would_leave_a_run_without_its_settings_is_refused(words: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        check_overrides("train", words)


@pytest.mark.parametrize("word", ["hydra/launcher=nosuch", "hydra/launcher=joblib", "hydra/job_logging=bad"])
def test_a_choice_of_hydras_own_groups_is_named(word: str) -> None:
    with pytest.raises(UserError, match=f"{word} is not a choice"):
        check_overrides("train", ["-m", word])
    check_overrides("train", ["-m", "hydra/launcher=submitit_local", "hydra/job_logging=none"])


def test_a_setting_inside_a_swept_group_comes_with_the_jobs() -> None:
    """Hydra's own composition of a sweep knows no swept choice, so it would refuse ``method.teacher.…`` here."""
    inside = ["backbone@method.teacher.run.backbone=timm", "method.teacher.run.backbone.options={a: [1, 2]}"]
    around = ["-m", "method=kd,ssdkd", "seed=0,1", "optim.lr=0.1", "method.loss_weights.ce=1,2", "+method.extra=1"]
    held = hold_back([*around, *inside])
    assert held[: len(around)] == around
    assert held[len(around) :] == [
        "backbone@method.teacher.run.backbone=choice(timm)",
        "method.teacher.run.backbone.options=choice({a:[1,2]})",
    ]
    with pytest.raises(UserError, match=r"backbone@method\.teacher"):
        check_overrides("train", [*around[:3], inside[0]])
    check_overrides("train", hold_back([*around[:5], inside[0]]))


@pytest.mark.parametrize(
    ("arguments", "expanded"),
    [
        (["sweep=seeds", "data=synthetic"], ["-m", "seed=0,1,2", "data=synthetic"]),
        (["data=synthetic", "sweep=seeds", "seed=4,5"], ["-m", "data=synthetic", "seed=4,5"]),
        (["-m", "sweep=folds", "data.folds=3"], ["data.fold=0,1,2,3,4", "-m", "data.folds=3"]),
        (["sweep=seedz"], ["sweep=seedz"]),
        (["sweep=seeds", "--cfg", "job"], ["sweep=seeds", "--cfg", "job"]),
        (["sweep=seeds,folds"], ["sweep=seeds,folds"]),
        (["seed=1"], ["seed=1"]),
    ],
)
def test_a_stored_sweep_is_what_it_sweeps_but_for_what_is_given(arguments: list[str], expanded: list[str]) -> None:
    assert stored_sweep(arguments) == expanded


def test_one_configuration_is_shown_at_a_time() -> None:
    with pytest.raises(UserError, match=r"^--cfg shows one configuration; leave -m out"):
        check_overrides("train", ["-m", "seed=0,1", "--cfg", "job"])


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("ablation_swskd", "method.target_stage=last"),
        ("four_methods", "method.warmup_epochs=1"),
        ("temperature_tsskd", "method.loss_weights.kd=0.5"),
        ("four_methods", "optim.lr=0.1"),
        pytest.param("methods", "optim.lr=0.1", marks=pytest.mark.slow),  # all methods
    ],
)
def test_a_stored_sweep_takes_settings_of_the_methods_it_sweeps(name: str, setting: str) -> None:
    check_overrides("train", hold_back(flag_first(stored_sweep([f"sweep={name}", setting]))))


@pytest.mark.parametrize("methods", ["swskd,supervised", "supervised,swskd"])
def test_a_setting_must_be_there_with_every_swept_choice(methods: str) -> None:
    """Else that job alone would fail, after the others have run."""
    with pytest.raises(UserError, match=r"^method\.temperature is not a setting with method=supervised"):
        check_overrides("train", ["-m", f"method={methods}", "method.temperature=4", "seed=0,1"])
    check_overrides("train", hold_back(["-m", "method=swskd,kd", "method.temperature=4"]))


@pytest.mark.parametrize(
    ("swept", "words"),
    [
        ("optim=range(1,3)", ["optim=1 is not a choice", "sgd_onecycle"]),
        ("method=range(0,1,0.5)", ["method=0.0 is not a choice", "swskd"]),
        ("method=glob(x*)", ["method=glob(x*) matches no choice", "swskd"]),
        ("method=interval(0,1)", ["method=interval(0,1) has no separate values", "skinkd.tune"]),
        ("method=sort(kd,swkd)", ["method=swkd is not a choice", "'swskd'"]),
        ("method=range(3,0)", ["method=range(3,0) has no values"]),
        ("optim.lr=interval(0,1)", ["optim.lr=interval(0,1) has no separate values"]),
        ("seed=glob(*)", ["seed=glob(*)", "seed=a,b"]),
        ("seed=range(0,2,0.5)", ["seed=0.0", "whole number"]),
        ("seed=range(0,2,0)", ["seed=range(0,2,0) cannot be read"]),
        ("seed=range(0,2,0.0)", ["seed=range(0,2,0.0) cannot be read"]),
        ("hydra/launcher=range(0,2)", ["hydra/launcher=range(0,2)", "give one value"]),
        ("backbone@method.teacher.run.backbone=range(0,2)", ["backbone@method.teacher.run.backbone=0 is not a choice"]),
    ],
)
def test_a_sweep_over_what_is_not_there_is_refused(swept: str, words: list[str]) -> None:
    method = [] if swept.startswith("method") else ["method=kd"]
    with pytest.raises(UserError) as caught:
        check_overrides("train", ["-m", *method, swept])
    assert len(str(caught.value).splitlines()) == 1
    for word in words:
        assert word in str(caught.value)


def test_a_glob_is_the_choices_that_it_matches() -> None:
    check_overrides("train", ["-m", "method=glob(sw*)", "method.temperature=4"])
    with pytest.raises(UserError, match=r"method\.temperature is not a setting with method="):
        check_overrides("train", ["-m", "method=glob(s*)", "method.temperature=4"])


@pytest.mark.parametrize("flag", ["-m", "--multirun"])
def test_the_flag_of_a_sweep_may_stand_anywhere(flag: str) -> None:
    assert flag_first(["data=synthetic", flag, "seed=0,1"]) == [flag, "data=synthetic", "seed=0,1"]


@pytest.mark.parametrize(
    "arguments", [["method=kd", "method.temperature=3"], ["-m", "seed=0,1", "optim.lr=1"], ["method={"]]
)
def test_anything_else_is_left_as_it_is(arguments: list[str]) -> None:
    assert hold_back(arguments) == arguments


NEEDED = {"folder": ["data.root=x"], "table": ["data.file=x.csv"]}  # by a choice that has no value of its own


def compose_all(combinations: Sequence[tuple[str, str, str]], *further: Iterator[str]) -> None:
    """Compose each combination, with the next choice of each further group."""
    with initialize_config_module(version_base="1.3", config_module="skinkd.conf"):
        for method, backbone, data in combinations:
            chosen = [f"method={method}", f"backbone={backbone}", f"data={data}", "backbone.name=x"]
            chosen += [next(group) for group in further]
            config = compose("train", overrides=chosen + NEEDED.get(data, []))
            plain = OmegaConf.to_container(config, resolve=True)
            assert plain["method"]["name"] == method and plain["data"]["name"] in (data, "dermamnist")


PLAIN = ("augment", "optim", "strategy", "precision", "logger")  # groups that no choice of another group looks at


def test_every_choice_of_method_backbone_and_data_composes() -> None:
    """Methods whose file chooses a network meet a network of every kind; of all groups each choice is met."""
    further = [itertools.cycle([f"{group}={one}" for one in choices(group)]) for group in PLAIN]
    data, backbones = itertools.cycle(choices("data")), itertools.cycle(choices("backbone"))
    conf = files("skinkd.conf")
    choosing = [name for name in choices("method") if "backbone" in (conf / f"method/{name}.yaml").read_text()]
    assert {"ssdkd", "mskd"} <= set(choosing) < set(choices("method"))
    # the files of a kind have the same settings, and differ in their values
    kinds = {tuple(OmegaConf.load(str(conf / f"backbone/{name}.yaml"))): name for name in choices("backbone")}
    assert len(choices("method")) >= len(choices("backbone")) > len(kinds) > 1
    others = [name for name in choices("method") if name not in choosing]
    pairs = [*itertools.product(choosing, kinds.values()), *((one, next(backbones)) for one in others)]
    assert len(others) >= max(len(choices(group)) for group in ("backbone", "data", *PLAIN))
    compose_all([(method, backbone, next(data)) for method, backbone in pairs], *further)


@pytest.mark.slow
def test_every_combination_of_method_backbone_and_data_composes_and_resolves() -> None:
    compose_all(list(itertools.product(choices("method"), choices("backbone"), choices("data"))))


def test_a_value_that_must_be_given_is_asked_for(run: Callable[..., train_process.Result]) -> None:
    result = run("data=folder", "backbone.pretrained=false")
    assert result.code == 2
    assert result.err == "error: data.root has no value and needs one; give data.root=<value>\n"


@pytest.mark.parametrize("group", ["experiment", "sweep"])
def test_every_choice_of_a_group_that_chooses_in_others_composes(group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKINKD_WEIGHTS", "weights")  # a folder that some experiments ask for
    with initialize_config_module(version_base="1.3", config_module="skinkd.conf"):
        for choice in choices(group):
            if not choice.startswith("lite_study_"):  # test_study_plan.py composes these
                OmegaConf.to_container(compose("train", overrides=[f"{group}={choice}"]), resolve=True)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., train_process.Result]:
    """Runs ``python -m skinkd.train``."""
    return lambda *arguments: train_process.run(arguments, folder=tmp_path)


def test_a_mistake_on_the_command_line_is_one_sentence_and_exit_code_2() -> None:
    """As a user types it: nothing is forked."""
    command = [sys.executable, "-m", "skinkd.train", "method=swkd"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("error: method=swkd is not a choice; did you mean 'swskd'")
    assert len(result.stderr.splitlines()) == 1


def test_help_lists_groups_and_examples(run: Callable[..., train_process.Result]) -> None:
    result = run("--help")
    assert result.code == 0
    for word in (
        "method: ",
        "swskd",
        "backbone: ",
        "experiment: ",
        "python -m skinkd.train -m",
        "force=true",
    ):
        assert word in result.out


def test_cfg_job_shows_what_will_run(run: Callable[..., train_process.Result]) -> None:
    result = run("--cfg", "job", "method=swskd", "method.temperature=7")
    assert result.code == 0
    assert "temperature: 7" in result.out
