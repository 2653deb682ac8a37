"""Bad input: one sentence that says how to mend it, exit code 2, nothing half-written.

What is refused before training is given to the program in this process, the rest to a process of its own.
"""

import os
import resource
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
import train_process
from train_process import Act, Result, only_run

from skinkd.config import cli
from skinkd.train import train

Job = Callable[..., Result]

METADATA = "HAM10000_metadata.csv"


@pytest.fixture
def ham(synthetic_folder: Path, tmp_path: Path) -> Path:
    """A copy of the synthetic images, to be spoiled."""
    shutil.copytree(synthetic_folder, tmp_path / "data" / "ham10000", ignore=shutil.ignore_patterns("*segmentation*"))
    return tmp_path / "data" / "ham10000"


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Job:
    """Runs the program of ``python -m skinkd.train`` in this process, to an end with an exit code."""

    def run(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["skinkd.train", *arguments])
        monkeypatch.chdir(tmp_path)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main(train, "train")
        code = ended.value.code
        assert isinstance(code, int)
        return Result(code, *capsys.readouterr())

    return run


@pytest.fixture
def refused(main: Job, tiny: list[str], tmp_path: Path) -> Job:
    """As ``job``, in this process."""

    def run(*overrides: str, output: Path | None = None) -> Result:
        return main(*tiny, f"paths.output_dir={output or tmp_path / 'outputs'}", *overrides)

    return run


@pytest.fixture
def on_ham(synthetic_root: Path, tiny: list[str], tmp_path: Path) -> Callable[..., list[str]]:
    """The arguments of a run on the copy of the images."""
    settings = [text for text in tiny if not text.startswith(("data=", "data.root", "data.table"))]

    def arguments(*overrides: str) -> list[str]:
        paths = [f"paths.data_dir={tmp_path / 'data'}", f"paths.output_dir={tmp_path / 'outputs'}"]
        return [*settings, *paths, "data=ham10000", "trainer.max_epochs=1", *overrides]

    return arguments


def rows(root: Path) -> pd.DataFrame:
    return pd.read_csv(root / METADATA, dtype=str, keep_default_na=False)


def images(root: Path) -> list[Path]:
    return sorted(root.glob("HAM10000_images_part_*/*.jpg"))


def no_data(root: Path) -> list[str]:
    shutil.rmtree(root)
    return ["no HAM10000 metadata", str(root), "HAM10000_metadata.csv", "HAM10000_images_part_1", "SKINKD_DATA_DIR"]


def no_images(root: Path) -> list[str]:
    for folder in root.glob("HAM10000_images_*"):
        shutil.rmtree(folder)
    return ["metadata but no images", "HAM10000_images_part_1"]


def column_missing(root: Path) -> list[str]:
    rows(root).drop(columns="dx").to_csv(root / METADATA, index=False)
    return [str(root / METADATA), "'dx'", "lesion_id, image_id, dx"]


def image_missing(root: Path) -> list[str]:
    name = images(root)[3]
    name.unlink()
    return ["1 of the 120 images", name.stem, "data.on_bad_image=skip"]


def image_truncated(root: Path) -> list[str]:
    name = images(root)[5]
    name.write_bytes(name.read_bytes()[:-400])
    return [f"{name} is truncated", "data.on_bad_image=skip"]


def image_empty(root: Path) -> list[str]:
    images(root)[0].write_bytes(b"")
    return [f"{images(root)[0]} is empty"]


def text_as_image(root: Path) -> list[str]:
    images(root)[7].write_text("<html>404 not found</html>" * 100)
    return [f"{images(root)[7]} is not an image"]


def unknown_class(root: Path) -> list[str]:
    table = rows(root)
    table.loc[4, "dx"] = "melanoma"
    table.to_csv(root / METADATA, index=False)
    return ["dx='melanoma'", "valid: akiec, bcc, bkl, df, mel, nv, vasc"]


def class_absent(root: Path) -> list[str]:
    """Two lesions of a class cannot be in three parts."""
    table = rows(root)
    few = table["lesion_id"][table["dx"] == "df"].unique()[:2]
    table[(table["dx"] != "df") | table["lesion_id"].isin(few)].to_csv(root / METADATA, index=False)
    return ["class 'df' is absent from", "of 2 lesions"]


SPOILED = [
    no_data,
    no_images,
    column_missing,
    image_missing,
    image_truncated,
    image_empty,
    text_as_image,
    unknown_class,
    class_absent,
]


def check(result: Result, words: list[str], output: Path) -> None:
    assert result.code == 2, result.err
    assert result.err.startswith("error: ") and result.err.count("\n") == 1, result.err
    for word in words:
        assert word in result.err
    left = [path for path in output.rglob("*") if path.is_file()] if output.is_dir() else []
    assert left == []


@pytest.mark.parametrize("spoil", SPOILED, ids=lambda function: function.__name__)
def test_bad_data(
    main: Job, on_ham: Callable[..., list[str]], ham: Path, tmp_path: Path, spoil: Callable[[Path], list[str]]
) -> None:
    words = spoil(ham)
    check(main(*on_ham()), words, tmp_path / "outputs")


def test_damaged_images_are_left_out_when_asked(on_ham: Callable[..., list[str]], ham: Path, tmp_path: Path) -> None:
    lost = {images(ham)[3].stem, images(ham)[5].stem}
    image_missing(ham)
    images(ham)[4].write_bytes(images(ham)[4].read_bytes()[:-400])
    result = train_process.run(on_ham("data.on_bad_image=skip"), folder=tmp_path / "job")
    assert result.code == 0, result.err
    splits = pd.read_csv(only_run(tmp_path / "outputs") / "splits.csv")
    assert len(splits) == 118 and not lost & set(splits["image_id"])


no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without a GPU is told")
SETTINGS = [
    (["data.batch_size=500"], ["data.batch_size=500", "training images", "or less"]),
    (["data.image_size=8"], ["image_size=8", "test_resnet", "give at least 32"]),
    (["backbone.name=resnet5000"], ["backbone.name=resnet5000", "did you mean"]),
    (["backbone.weights=nowhere.pth"], ["backbone.weights=nowhere.pth", "does not exist"]),
    (["data.fractions={train: 0.9, val: 0.1, test: 0.1}"], ["data.fractions", "1.1"]),
    (["data.fold=7", "data.folds=3"], ["data.fold=7", "0 to 2"]),
    (["protocol=groupd"], ["protocol=groupd", "'grouped'"]),
    (["class_weights=inverted"], ["class_weights=inverted", "'inverse'"]),
    (["data.near_duplicate_bits=999"], ["data.near_duplicate_bits=999", "between 0 and 256"]),
    (["monitor.mode=biggest"], ["monitor.mode=biggest", "min"]),
    (["method=swskd", "method.rectify_mode=swop"], ["method.rectify_mode=swop", "'swap'"]),
    (["method=tsskd", "method.ratio=0"], ["method.ratio=0", "above 0"]),
    (["method.loss_weights.ce=-1"], ["method.loss_weights.ce=-1", "out of range"]),
    (["config=nowhere.yaml"], ["config=nowhere.yaml", "config.yaml of a run folder"]),
    pytest.param(["strategy=gpu"], ["CUDA GPU", "strategy=cpu"], marks=no_gpu),
    pytest.param(["strategy=ddp"], ["CUDA GPU", "ddp_cpu"], marks=no_gpu),
    pytest.param(["precision=fp16"], ["precision=fp16", "bf16"], marks=no_gpu),
]


@pytest.mark.parametrize(("overrides", "words"), SETTINGS, ids=lambda value: value[0] if "=" in value[0] else "")
def test_bad_settings(refused: Job, tmp_path: Path, overrides: list[str], words: list[str]) -> None:
    check(refused(*overrides), words, tmp_path / "outputs")


def test_no_network_for_pretrained_weights(job: Job, tmp_path: Path) -> None:
    unreachable = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    result = job("backbone.pretrained=true", env=unreachable)
    words = ["pretrained weights of test_resnet.r160_in1k", "backbone.pretrained=false", "backbone.weights=<file>"]
    check(result, words, tmp_path / "outputs")


@pytest.mark.parametrize("place", ["below a file", "a file itself"])
def test_outputs_that_cannot_be_written(refused: Job, tmp_path: Path, place: str) -> None:
    """A regular file in the way stops everybody, also the superuser."""
    file = tmp_path / "file"
    file.write_text("not a folder")
    output = file / "outputs" if place == "below a file" else file
    result = refused(f"paths.cache_dir={output}/cache", output=output)
    check(result, [str(output), "set paths.output_dir"], tmp_path / "outputs")
    assert file.read_text() == "not a folder"


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_outputs_without_permission(refused: Job, tmp_path: Path) -> None:
    output = tmp_path / "outputs"
    output.mkdir(mode=0o500)
    check(refused(f"paths.cache_dir={output}/cache"), [str(output), "set paths.output_dir"], output)


def test_a_full_disk_keeps_the_earlier_checkpoint(job: Job, tmp_path: Path) -> None:
    """No file may grow beyond 4 kB from the second epoch on: its checkpoint cannot be written."""
    full = Act(
        "skinkd.training.callbacks:EpochSeed.on_train_epoch_start",
        2,
        partial(resource.setrlimit, resource.RLIMIT_FSIZE, (4096, 4096)),
    )
    result = job(act=full)
    assert result.code == 2
    assert result.err.startswith("error: the disk is full") and result.err.count("\n") == 1, result.err
    folder = only_run(tmp_path / "outputs")
    for name in ("best", "last"):
        stored = torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert stored["epoch"] == 0
    assert not (folder / "metrics.json").exists()
    assert not [path for path in folder.rglob("*") if "tmp" in path.name]
    # with room again, the same command goes on
    assert job().code == 0
    assert pd.read_csv(folder / "history.csv")["epoch"].tolist() == [1, 2]


def test_a_diverging_run_names_term_and_step_and_keeps_the_last_good_checkpoint(job: Job, tmp_path: Path) -> None:
    """The second epoch's learning rate is 10^30 times the first's."""
    overrides = [
        "trainer.max_epochs=3",
        "optim=adam_multistep",
        "optim.lr=1e-3",
        "optim.schedule.at=[0.34]",
        "optim.schedule.factor=1e30",
    ]
    result = job(*overrides)
    assert result.code == 2
    assert "loss term 'ce' became NaN or infinite at training step 6" in result.err, result.err
    assert "lower optim.lr" in result.err and result.err.count("\n") == 1
    folder = only_run(tmp_path / "outputs")
    for name in ("best", "last"):
        state = torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert state["epoch"] == 0
        assert all(value.isfinite().all() for value in state["state_dict"].values())
    assert not (folder / "metrics.json").exists()


def test_divergence_in_the_first_epoch(job: Job, tmp_path: Path) -> None:
    result = job("optim.lr=1e30", "method=swskd", "data.image_size=64")
    assert result.code == 2
    assert "became NaN or infinite at training step" in result.err and result.err.count("\n") == 1, result.err
    assert not (only_run(tmp_path / "outputs") / "checkpoints").exists()


def test_a_monitor_that_nothing_measures(job: Job, tmp_path: Path) -> None:
    result = job("monitor.metric=val/auroc")
    assert result.code == 2
    assert "monitor.metric=val/auroc is not measured on validation" in result.err and "'val/auroc_macro'" in result.err
    assert result.err.count("\n") == 1, result.err
    assert not (only_run(tmp_path / "outputs") / "checkpoints").exists()


@pytest.mark.parametrize(("term", "step"), [("kd", 3), ("ce", 7)])
def test_the_diverging_term_is_named(
    trained: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, term: str, step: int
) -> None:
    from skinkd.methods.base import Method
    from skinkd.methods.terms import TrainingDivergedError

    combine = Method.combine

    def poisoned(self: Method, **terms: Callable[[], torch.Tensor]) -> torch.Tensor:
        healthy = terms[term]
        if self.trainer.global_step == step:
            terms[term] = lambda: healthy() * float("inf")
        return combine(self, **terms)

    monkeypatch.setattr(Method, "combine", poisoned)
    with pytest.raises(TrainingDivergedError, match=f"loss term '{term}' .* at training step {step};"):
        trained("method=tsskd")
