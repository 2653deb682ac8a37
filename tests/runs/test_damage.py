"""Damaged files of a run: each is named in one sentence, and computed again where something else tells what it held."""

import io
import json
import resource
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from skinkd.build.checkpoints import open_checkpoint
from skinkd.errors import UserError
from skinkd.runs.checkpoints import BEFORE, BEST, LAST, damage, find_last, mend_best, write_checkpoint
from skinkd.runs.folder import RunFolder
from skinkd.runs.history import read_history

Trained = Callable[..., Path]

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[: 2 * len(data) // 3 + 1],
    "empty": lambda data: b"",
    "garbage": lambda data: bytes(np.random.default_rng(0).integers(0, 256, len(data), np.uint8)),
}


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def state(seed: int) -> dict[str, object]:
    generator = torch.Generator().manual_seed(seed)
    return {"weights": torch.randn(40, 5, generator=generator), "epoch": seed, "name": "x", "steps": torch.arange(9)}


def same(one: dict[str, object], other: dict[str, object]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[name], other[name]) if isinstance(one[name], torch.Tensor) else one[name] == other[name]  # type: ignore[arg-type]
        for name in one
    )


def test_a_checkpoint_for_which_the_disk_has_no_room_leaves_the_earlier_one(tmp_path: Path) -> None:
    """The limit of a file's size stands in for a full disk: the write itself fails."""
    path = tmp_path / LAST
    write_checkpoint(state(1), path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write_checkpoint(state(2), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.filename == str(path)
    assert [one.name for one in tmp_path.iterdir()] == [LAST]
    assert same(torch.load(path, weights_only=True), state(1))


def test_no_flipped_bit_is_read_as_another_number(tmp_path: Path) -> None:
    """Of any bit of the file: either it is found, or it changes nothing that is read."""
    path = tmp_path / LAST
    write_checkpoint(state(1), path)
    data = path.read_bytes()
    found = 0
    for bit in np.random.default_rng(0).choice(8 * len(data), 600, replace=False):
        path.write_bytes(flipped(data, int(bit)))
        if damage(path):
            found += 1
        else:
            assert same(torch.load(path, weights_only=True), state(1)), bit
    assert found > 100


def test_every_bit_of_the_weights_is_guarded(tmp_path: Path) -> None:
    path = tmp_path / LAST
    write_checkpoint(state(1), path)
    data = path.read_bytes()
    begin = data.index(state(1)["weights"].numpy().tobytes())  # type: ignore[attr-defined]
    for bit in np.random.default_rng(0).choice(8 * 800, 50, replace=False):
        path.write_bytes(flipped(data, 8 * begin + int(bit)))
        assert "has changed since it was written" in str(damage(path))


@pytest.mark.parametrize("length", [0, 1, 100, 0.3, 0.9, -1])
def test_a_cut_checkpoint_is_found(tmp_path: Path, length: float) -> None:
    path = tmp_path / LAST
    write_checkpoint(state(1), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(length * len(data)) if isinstance(length, float) else length])
    assert damage(path)


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    for epoch in range(3):
        write_checkpoint(state(epoch), tmp_path / LAST)
        assert find_last(tmp_path) == tmp_path / LAST
    assert same(torch.load(tmp_path / LAST), state(2)) and same(torch.load(tmp_path / BEFORE), state(1))
    assert sorted(path.name for path in tmp_path.iterdir()) == [LAST, BEFORE]


@pytest.mark.parametrize("kind", DAMAGES)
def test_the_one_before_is_used_and_never_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    for epoch in range(2):
        write_checkpoint(state(epoch), tmp_path / LAST)
    (tmp_path / LAST).write_bytes(DAMAGES[kind]((tmp_path / LAST).read_bytes()))
    assert find_last(tmp_path) == tmp_path / BEFORE
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and str(tmp_path / LAST) in said and BEFORE in said
    write_checkpoint(state(1), tmp_path / LAST)  # the damaged file does not replace the good one
    assert same(torch.load(tmp_path / BEFORE), state(0)) and same(torch.load(tmp_path / LAST), state(1))


def test_best_is_the_last_resort_and_then_one_sentence(tmp_path: Path) -> None:
    assert find_last(tmp_path) is None
    for name in (LAST, LAST, BEST):
        write_checkpoint(state(1), tmp_path / name)
    for name in (LAST, BEFORE):
        (tmp_path / name).write_bytes(b"")
    assert find_last(tmp_path) == tmp_path / BEST
    for name in (LAST, BEFORE, BEST):
        (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(UserError, match=r"every checkpoint to go on from is damaged: .*force=true"):
        find_last(tmp_path)


def epoch(number: int, scores: list[float]) -> dict[str, object]:
    rows = [{"epoch": float(index + 1), "val/f1": score} for index, score in enumerate(scores)]
    return {"epoch": number - 1, "callbacks": {"History": {"rows": rows}}, "state_dict": {"a": torch.tensor([number])}}


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize(("scores", "mended"), [((0.1, 0.2, 0.3), 3), ((0.1, 0.3, 0.2), 2), ((0.3, 0.2, 0.1), None)])
def test_a_damaged_best_checkpoint_is_written_again_if_its_epoch_is_kept(
    tmp_path: Path, mode: str, scores: tuple[float, ...], mended: int | None
) -> None:
    signed = [score if mode == "max" else -score for score in scores]
    for number in (2, 3):
        write_checkpoint(epoch(number, signed[:number]), tmp_path / LAST)
    (tmp_path / BEST).write_bytes(b"garbage")
    if mended:
        mend_best(tmp_path, metric="val/f1", mode=mode)
        assert int(torch.load(tmp_path / BEST)["state_dict"]["a"]) == mended
    else:
        with pytest.raises(UserError, match="no other checkpoint is of the best epoch, 1"):
            mend_best(tmp_path, metric="val/f1", mode=mode)


@pytest.mark.parametrize("mode", ["max", "min"])
def test_an_epoch_that_was_not_measured_is_not_the_best(tmp_path: Path, mode: str) -> None:
    stored: Any = epoch(2, [float("nan"), 0.5])
    for rows in (stored["callbacks"]["History"]["rows"], [{"epoch": 1.0}, {"epoch": 2.0, "val/f1": 0.5}]):
        stored["callbacks"]["History"]["rows"] = rows
        write_checkpoint(stored, tmp_path / LAST)
        (tmp_path / BEST).write_bytes(b"")
        mend_best(tmp_path, metric="val/f1", mode=mode)
        assert int(torch.load(tmp_path / BEST)["state_dict"]["a"]) == 2


def test_a_changed_checkpoint_is_refused_by_whoever_reads_it(finished: Path, tmp_path: Path) -> None:
    path = tmp_path / BEST
    data = (finished / "checkpoints" / BEST).read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        part = max(archive.infolist(), key=lambda info: info.file_size)
    path.write_bytes(flipped(data, 8 * (part.header_offset + 1000)))
    with pytest.raises(UserError, match=r"cannot be read as a checkpoint: its part .* has changed"):
        open_checkpoint(path, setting="run")


TEXTS = ["config.yaml", "splits.csv", "history.csv"]
FILES = ["metrics.json", *TEXTS, "checkpoints/best.ckpt", "checkpoints/last.ckpt"]


@pytest.mark.parametrize(("kind", "names"), [("cut", [[name] for name in FILES]), ("garbage", [TEXTS])])
def test_a_damaged_run_goes_on_to_the_same_bytes(
    finished: Path,
    trained: Trained,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    names: list[list[str]],
) -> None:
    """Files of a run that lacks its metrics: what the run has lost is computed again and said in one line.

    Each file is cut alone. All texts become garbage, which is no text, at once; that checkpoints and metrics of garbage are
    damaged too is tested above and below.
    """
    kept = ["metrics.json", "config.yaml", "splits.csv", "predictions/test.csv"]
    for damaged in names:
        folder = tmp_path / "outputs" / finished.name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(finished, folder)
        if damaged != ["metrics.json"]:
            (folder / "metrics.json").unlink()
        for name in damaged:
            (folder / name).write_bytes(DAMAGES[kind]((folder / name).read_bytes()))
        capsys.readouterr()
        assert trained() == folder
        said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
        for name in damaged:
            assert name == "history.csv" or sum(str(folder / name) in line for line in said) == 1, (name, said)
        for other in kept:
            expected, found = (each / other for each in (finished, folder))
            if other == "config.yaml":  # paths differ
                assert len(found.read_text().splitlines()) == len(expected.read_text().splitlines())
            else:
                assert found.read_bytes() == expected.read_bytes(), (damaged, other)
        assert len(read_history(folder).rows) == 2


def test_a_damaged_file_does_not_hide_other_data(finished: Path, trained: Trained, tmp_path: Path) -> None:
    """Damaged splits, and data that have changed meanwhile: the checkpoint tells."""
    folder = tmp_path / "outputs" / finished.name
    shutil.copytree(finished, folder)
    (folder / "metrics.json").unlink()
    (folder / "splits.csv").write_bytes(b"")
    stored = torch.load(folder / "checkpoints" / LAST, weights_only=True)
    stored["skinkd"]["images"]["train"][0] = "another"
    write_checkpoint(stored, folder / "checkpoints" / LAST)
    with pytest.raises(UserError, match=r"splits\.csv is damaged, and the checkpoints are of other images"):
        trained()


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "\x00\x01", '{"test/n": '])
def test_damaged_metrics_are_no_finished_run(tmp_path: Path, text: str) -> None:
    folder = RunFolder(tmp_path)
    (tmp_path / "metrics.json").write_text(text)
    assert not folder.finished and not folder.finished_with(test=True)
    with pytest.raises(UserError, match=r"metrics\.json is damaged"):
        folder.metrics()
    folder.write_text("metrics.json", json.dumps({"test/n": 3}))
    assert folder.finished_with(test=True)


@pytest.mark.parametrize(
    "data", [b"\xff\xfe", b"epoch,seconds\n1,x\n", b"a,b\n1,2\n", b"epoch,seconds\n1,2,3\n", b'epoch\n"']
)
def test_a_damaged_history_is_one_sentence(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "history.csv").write_bytes(data)
    with pytest.raises(UserError, match=r"history\.csv"):
        read_history(tmp_path)
