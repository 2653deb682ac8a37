import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from hydra import compose, initialize_config_module

from skinkd.data import verbs  # noqa: F401  # so that no child imports it
from skinkd.data.__main__ import VERBS, main

with initialize_config_module(version_base="1.3", config_module="skinkd.conf"):  # nor composes it anew
    compose("data_verbs", ["data=ham10000"])
CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the verb as ``python -m skinkd.data`` does, in a child that need not import everything again."""
    out, err = folder / ".stdout", folder / ".stderr"
    child = os.fork()
    if not child:
        code = 70
        try:
            os.chdir(folder)
            os.environ |= {"SKINKD_DATA_DIR": str(folder), "SKINKD_OUTPUT_DIR": str(folder / "out")}
            sys.argv = ["skinkd.data", *words]
            with out.open("w") as sys.stdout, err.open("w") as sys.stderr:
                try:
                    main()
                    code = 0
                except SystemExit as end:
                    code = int(end.code or 0)
                except BaseException:
                    traceback.print_exc()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return subprocess.CompletedProcess(words, code, out.read_text(), err.read_text())


@pytest.fixture
def data(ham_folder: Callable[..., Path]) -> Path:
    return ham_folder(lesions=dict.fromkeys(CLASSES, 5)).parent


def test_verify_ends_with_1_if_there_is_a_problem(data: Path) -> None:
    good = run(data, "verify", "data=ham10000")
    assert good.returncode == 0 and good.stdout.endswith("0 problems\n"), good.stderr
    next((data / "ham10000" / "HAM10000_images_part_1").iterdir()).unlink()
    bad = run(data, "verify", "data=ham10000")
    assert bad.returncode == 1 and "is missing\n1 problems\n" in bad.stdout
    (data / "ham10000" / "HAM10000_metadata.csv").write_text("a,b\n")
    bad = run(data, "verify", "data=ham10000")
    assert bad.returncode == 1 and "problem: " in bad.stdout and "has no column" in bad.stdout
    assert not bad.stderr


def test_split_writes_what_it_says_and_measures_against_another(data: Path) -> None:
    first = run(data, "split", "data=ham10000", "protocol=image_level", "out=a")
    assert first.returncode == 0, first.stderr
    report = json.loads((data / "a" / "splits_report.json").read_text())
    assert report["groups_in_two_parts"] > 0 and report["near_duplicates"]["bits"] == 32
    second = run(data, "split", "data=ham10000", "out=b", "against=a/splits.csv")
    assert second.returncode == 0, second.stderr
    report = json.loads((data / "b" / "splits_report.json").read_text())
    own, other = (pd.read_csv(data / name / "splits.csv") for name in "ba")
    for mine in ("train", "val", "test"):
        for theirs in ("train", "val", "test"):
            groups = set(other["group"][other["split"] == theirs])
            expected = sum(group in groups for group in own["group"][own["split"] == mine])
            assert report["against"]["images"][f"{mine} of this, {theirs} of the other"] == expected
    assert report["groups_in_two_parts"] == 0 and "0 groups are in more than one part" in second.stdout


def test_a_second_split_may_lack_groups_and_name_its_parts_as_it_likes(data: Path) -> None:
    assert run(data, "split", "data=ham10000", "protocol=image_level", "out=a").returncode == 0
    other = pd.read_csv(data / "a" / "splits.csv")
    words = {"train": "Training", "val": "validation", "test": "TEST"}
    other.assign(split=other["split"].map(words))[["image_id", "split"]].to_csv(data / "other.csv", index=False)
    counts = []
    for file in ("a/splits.csv", "other.csv"):
        done = run(data, "split", "data=ham10000", "out=b", f"against={file}")
        assert done.returncode == 0, done.stderr
        counts.append(json.loads((data / "b" / "splits_report.json").read_text())["against"]["images"])
    assert counts[0] == counts[1] and sum(counts[1].values()) > 0
    bad = run(data, "split", "data=ham10000", "out=b", "against=3")
    assert bad.returncode == 2 and bad.stderr.count("\n") == 1


def test_describe_shows_images_that_cannot_be_split(ham_folder: Callable[..., Path]) -> None:
    data = ham_folder(lesions=dict.fromkeys(CLASSES, 5) | {"df": 1}).parent
    done = run(data, "describe", "data=ham10000", "out=d", "sheet.images_of_class=2")
    assert done.returncode == 0 and "not split: class 'df' is absent" in done.stdout, done.stderr
    assert "<td>df</td>" in (data / "d" / "description.html").read_text()


def test_prepare_describe_and_augment(data: Path) -> None:
    done = run(data, "prepare", "data=ham10000", "data.image_size=16")
    assert done.returncode == 0 and len(list((data / "out" / "cache").glob("images-*"))) == 1, done.stderr
    done = run(data, "describe", "data=ham10000", "out=d", "sheet.images_of_class=2")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (data / "d").iterdir()} == {*("contact_sheet.png", "classes.png", "description.html")}
    small = ("data.image_size=32", "sheet.images=2")
    done = run(data, "augment", "data=ham10000", "augment=hair", *small, "out=d")
    assert done.returncode == 0 and (data / "d" / "augment.png").stat().st_size > 1000, done.stderr


FEW = ("data=synthetic", "data.table.images=84")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["verfy"], "did you mean 'verify'"),
        ([], "needs a verb; valid: augment"),
        (["verify", "data=ham1000"], "did you mean 'ham10000'"),
        (["download", "data=synthetic"], "data=synthetic is not downloaded"),
        (["augment", "data=synthetic", "data.image_size=0"], "data.image_size=0 is out of range"),
        (["augment", "data=synthetic", "sheet.images=0"], "sheet.images=0 is out of range"),
        (["describe", "data=synthetic", "sheet.images_of_class=0"], "sheet.images_of_class=0 is out of range"),
        (["augment", "data=synthetic", "seed=-1"], "seed=-1 is out of range"),
        (["prepare", *FEW, "data.cache_size=abc"], "data.cache_size=abc is out of range"),
        (["split", "data=folder", "data.root=2019"], "2019"),  # Hydra makes a number of it
        (["split", "data=table", "data.file=2019"], "2019"),
        (["prepare", *FEW, "data.cache_size=0"], "data.cache_size=0 is out of range"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, words: list[str], sentence: str) -> None:
    done = run(tmp_path, *words)
    assert done.returncode == 2 and sentence in done.stderr and done.stderr.count("\n") == 1


def test_help_names_every_verb(tmp_path: Path) -> None:
    text = run(tmp_path, "--help").stdout
    assert all(f"\n{verb} " in text for verb in VERBS)
