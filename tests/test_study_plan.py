"""The study of fine-tuned networks: equal budgets, the choice on validation, blocks in their order, what is packed."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from hydra import compose, initialize_config_module

from study import __main__ as main
from study import choice, packing, plan, rows, variants
from study.collect import TEACHERS

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKINKD_WEIGHTS", "/weights")


def trials(values: list[float | None], states: list[str] | None = None, **settings: list[Any]) -> pd.DataFrame:
    states = states or ["complete"] * len(values)
    columns = {"number": range(1, len(values) + 1), "state": states, "value": values, "epochs": 2, "seconds": 1.0}
    return pd.DataFrame({**columns, **settings, "folder": "run"})


def test_all_rows_have_the_budget_of_the_row_with_the_fewest_trials() -> None:
    whole = trials([0.1, 0.2, 0.3])
    failed = trials([0.1, None, 0.3], ["complete", "failed", "complete"])
    cut = trials([0.1, None, 0.3], ["complete", "unfinished", "complete"])  # the third ended before the second
    assert choice.equal_trials({"a": whole, "b": failed}) == 3
    assert choice.equal_trials({"a": whole, "b": cut}) == 1


def test_the_highest_value_within_the_budget_is_chosen_and_the_earlier_of_equal_ones() -> None:
    table = trials([0.5, None, 0.6, 0.6, 0.9], ["complete", "failed", "complete", "complete", "complete"])
    assert choice.best_trial(table, 4)["number"] == 3
    assert choice.best_trial(table, 5)["number"] == 5
    with pytest.raises(SystemExit, match="no settings can be chosen"):
        choice.best_trial(trials([None], ["failed"]), 1)


def test_the_page_of_trials_shows_each_trial_of_the_budget_and_marks_the_chosen_one() -> None:
    table = trials([0.5, 0.75, 0.9], **{"optim.lr": [0.00123456, 0.002, 0.003], "augment": ["rga", "basic", "rga"]})
    page = choice.trials_page({"kd": table}, 2)
    assert "| 1 | 0.00123 | rga | complete | 0.5000 |" in page
    assert "| 2 | 0.002 | basic | complete | **0.7500** |" in page
    assert "0.9000" not in page


@pytest.mark.parametrize("chosen", [{}, {"optim.lr": 0.002, "optim.weight_decay": 0.1, "augment": "rga"}])
def test_a_rows_file_has_its_method_its_network_and_the_chosen_settings(chosen: dict[str, Any], tmp_path: Path) -> None:
    for name, row in rows.ROWS.items():
        text = rows.experiment_text(name, chosen, "a comment")
        assert text.startswith("# @package _global_\n# a comment\n")
        body = yaml.safe_load(text)
        assert body["defaults"][0] == "lite_study"
        assert {"override /method": row.method} in body["defaults"]
        assert ({"override /augment": "rga"} in body["defaults"]) == bool(chosen)
        assert body.get("optim", {}) == ({"lr": 0.002, "weight_decay": 0.1} if chosen else {})


def test_every_row_is_an_experiment_with_the_studys_regime() -> None:
    for name, row in rows.ROWS.items():
        with initialize_config_module(version_base="1.3", config_module="skinkd.conf"):
            config = compose("train", overrides=[f"experiment=lite_study_{name}"])
        assert config.method.name == row.method
        assert (config.data.folds, config.data.image_size, config.trainer.max_epochs) == (5, 96, 6)
        start = config.backbone.get("conv_weights") or config.backbone.weights
        assert start == f"/weights/tf_efficientnet_lite{2 if 'teacher' in name else 0}.safetensors"
        assert config.loss.label_smoothing == (0.1 if name == "label_smoothing" else 0.0)


def test_trial_n_has_the_same_learning_rate_and_augmentation_in_every_row() -> None:
    drawn = {}
    for name in ("supervised", "swskd", "ssdkd"):
        search = plan.plan_of(name, Path("teacher") if rows.ROWS[name].teacher else None, plan.TRIAL)
        drawn[name] = plan.draw(search, 3)
        assert [set(one) for one in drawn[name]] == [set(search.space)] * 3
        command = search.overrides(drawn[name][0]) + search.extra
        assert {"trainer.max_epochs=2", "data.fold=0", "evaluation.test=false"} <= set(command)
    common = [[(one["optim.lr"], one["augment"]) for one in every] for every in drawn.values()]
    assert common[0] == common[1] == common[2]
    assert len({lr for lr, _ in common[0]}) == 3
    again = plan.plan_of("swskd", None, plan.TRIAL)
    assert drawn["swskd"][:2] == plan.draw(again, 2)  # of the number alone


@pytest.mark.parametrize("regime", rows.REGIMES)
def test_a_block_has_each_run_once_with_its_teachers_before_it(regime: str) -> None:
    block = plan.make_block(list(rows.ROWS), 2, 1, [], True, regime)
    assert sorted(job.label for job in block) == sorted(f"{name} fold 2 seed 1" for name in rows.ROWS)
    for place, job in enumerate(block):
        assert {"data.fold=2", "seed=1"} <= set(job.overrides) and "evaluation.test=false" not in job.overrides
        assert all(need in block[:place] for need in job.needs)
        for need in job.needs:
            assert f"method.teacher.ckpt={need.folder}" in job.overrides
    (ssdkd,) = (job for job in block if job.label.startswith("ssdkd"))
    assert [need.label for need in ssdkd.needs] == ["teacher_head fold 2 seed 1"]
    assert len({job.folder for job in block}) == len(block)


def test_a_further_seed_begins_with_the_rows_that_have_no_teacher() -> None:
    names = list(rows.ROWS)
    assert main.in_turn(names, 0) == [names]
    alone, taught = main.in_turn(names, 1)
    assert sorted([*alone, *taught]) == sorted(names)
    assert {"supervised", "swskd", "hybrid_features"} <= set(alone) and {"teacher", "kd", "mskd"} <= set(taught)
    assert main.in_turn(["kd"], 1) == [["kd"]]


@pytest.mark.parametrize("regime", variants.SETS)
@pytest.mark.parametrize(("kind", "test"), [("ablations", True), ("remedies", False)])
def test_a_variant_changes_its_row_alone_and_keeps_its_teacher(regime: str, kind: str, test: bool) -> None:
    found = variants.make_variants(variants.SETS[regime][kind], 0, 0, [], test, regime)
    chosen = {job.label.split()[0]: job for job in plan.make_block(list(rows.ROWS), 0, 0, [], test, regime)}
    for variant, job in found.items():
        assert (job.folder == chosen[variant.row].folder) == (not variant.settings), variant
        assert [need.folder for need in job.needs] == [need.folder for need in chosen[variant.row].needs]
        assert ("evaluation.test=false" in job.overrides) == (not test)
    jobs = variants.teachers_first(found.values())
    assert len({job.folder for job in jobs}) == len(jobs)
    assert all(
        need.folder in [one.folder for one in jobs[:place]] for place, job in enumerate(jobs) for need in job.needs
    )
    rows_in_turn = [job.label.split()[0] for job in jobs]
    taught = [row for row in rows_in_turn if row not in TEACHERS]
    assert rows_in_turn == [*rows_in_turn[: len(jobs) - len(taught)], *taught] and len(taught) == len(found)


def test_an_override_of_the_frozen_teacher_goes_to_the_rows_that_have_one() -> None:
    block = plan.make_block(["supervised", "ssdkd"], 0, 0, [layout := "method.teacher.channels_last=true"], True)
    assert {job.label.split()[0]: layout in job.overrides for job in block} == {
        **dict.fromkeys(("supervised", "teacher"), False),
        **dict.fromkeys(("teacher_head", "ssdkd"), True),
    }


def test_a_run_has_one_line_in_the_table_of_results(tmp_path: Path) -> None:
    line = {
        "regime": "scratch",
        "row": "kd",
        "variant": "2 epochs",
        "fold": 0,
        "seed": 0,
        **dict.fromkeys(variants.SCORES, 0.25),
    }
    variants.stored([line, line | {"seed": 1, "accuracy": 0.75}], tmp_path / "table.csv")
    table = variants.stored([line | {"accuracy": 0.5}], tmp_path / "table.csv")  # trained again
    assert table["accuracy"].tolist() == [0.5, 0.75]
    assert "| `kd` | 2 epochs | 2 | 0.250 | 0.250 | 0.625 |" in variants.variant_table(table)


def test_runs_without_an_archive_are_not_left_out_silently(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "HERE", tmp_path)
    with pytest.raises(SystemExit, match=r"scratch\.tar\.xz stay as they are"):
        packing.pack_rows(tmp_path, "scratch")
    for seed in (0, 1):
        folder = tmp_path / "outputs" / f"run{seed}"
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(f"seed: {seed}\n")
        (folder / "metrics.json").write_text("{}")
    with pytest.raises(SystemExit, match="seed 1 has no archive"):
        packing.pack_rows(tmp_path / "outputs", "scratch")
    assert not list(tmp_path.glob("*.xz"))
    packing.pack_rows(tmp_path / "outputs", "fine_tuned")
    for name, seed in (("runs.tar.xz", 0), ("runs_seed1.tar.xz", 1)):
        with tarfile.open(tmp_path / name) as tar:
            assert {entry.split("/")[0] for entry in tar.getnames()} == {f"run{seed}"}


def test_an_ablations_run_is_packed_from_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "HERE", tmp_path)
    monkeypatch.setitem(variants.RESULTS, "ablations", tmp_path / "ablations.csv")
    names = {"run0": ("fine_tuned", "FRB alone"), "run1": ("fine_tuned", "as chosen"), "run2": ("scratch", "FRB alone")}
    table = pd.DataFrame([{"regime": of, "variant": said, "folder": name} for name, (of, said) in names.items()])
    table.to_csv(tmp_path / "ablations.csv", index=False)
    for folder in (tmp_path / "variants" / "run0", tmp_path / "run1"):
        with pytest.raises(SystemExit, match=r"ablations\.tar\.xz stays as it is"):
            packing.pack_ablations(tmp_path, "fine_tuned")
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text("{}")
    packing.pack_ablations(tmp_path, "fine_tuned")
    with tarfile.open(tmp_path / "ablations.tar.xz") as tar:
        assert tar.getnames() == ["run0/metrics.json", "run1/metrics.json"]
    with pytest.raises(SystemExit, match="scratch has no archive"):
        packing.pack_ablations(tmp_path, "scratch")


@pytest.mark.slow
def test_tune_and_folds_end_to_end(tmp_path: Path) -> None:
    weights = ROOT.parent / "shared" / "weights"
    if not weights.is_dir():
        pytest.skip(f"{weights} with ImageNet weights is not there")
    environment = os.environ | {"SKINKD_WEIGHTS": str(weights), "SKINKD_OUTPUT_DIR": str(tmp_path / "outputs")}

    def call(*words: str) -> str:
        command = [
            sys.executable,
            "-m",
            "benchmarks.study",
            *words,
            "--cpu",
            "--out",
            str(tmp_path / "out"),
            "--cores",
            "1",
        ]
        return subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout

    told = call("tune", "--seconds", "600", "--trials", "1", "--rows", "supervised", "kd")
    assert "kd: 1 of 1 trials complete" in told
    table = pd.read_csv(tmp_path / "out" / "tune" / "kd.csv")
    assert table["state"].tolist() == ["complete"] and {"optim.lr", "augment"} <= set(table.columns)
    told = call("folds", "--seconds", "900", "--rows", "supervised", "kd", "--folds", "1", "--seeds", "0")
    assert "3 runs" in told and "FAILED" not in told
    with tarfile.open(tmp_path / "out" / "folds.tar.xz") as tar:
        names = tar.getnames()
    assert len({name.split("/")[0] for name in names}) == 3
    assert sum(name.endswith("predictions/test.float32.csv") for name in names) == 3
    told = call("remedies", "--seconds", "600", "--rows", "supervised", "--seeds", "0")
    assert "2 runs" in told and "| `supervised` | 4 epochs | 1 |" in told
    assert "not begun: 3 jobs" in call(
        "folds", "--seconds", "0", "--rows", "supervised", "kd", "--folds", "2", "--seeds", "0"
    )
