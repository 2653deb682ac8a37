"""Published datasets, as their hosts would send them, in the layout that their loaders read."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from file_server import DATA, MD5, QUICK, Server, archive, serving
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from skinkd.data import ham10000, isic2019, medmnist, verbs
from skinkd.data.download import download
from skinkd.data.medmnist_sets import SETS
from skinkd.data.source import Source
from skinkd.errors import UserError


@pytest.fixture
def server() -> Iterator[Server]:
    with serving({}) as listening:
        yield listening


def get_all(server: Server, source: Source, root: Path, **table: object) -> list[str]:
    """Download a dataset from the server; what is said."""
    said: list[str] = []
    download(source, table, root, address=server.address, connection=QUICK, say=said.append)
    return said


METADATA = b"lesion_id,image_id,dx\nHAM_1,ISIC_1,nv\nHAM_2,ISIC_2,mel\n"


def dataverse(server: Server, files: dict[str, bytes], *, tabular: bool) -> None:
    entries = []
    for number, (label, data) in enumerate(files.items()):
        record: dict[str, object] = {"id": number, "md5": hashlib.md5(data).hexdigest()}
        path = f"/api/access/datafile/{number}"
        if tabular and "metadata" in label:
            record |= {"originalFileFormat": "text/csv", "md5": "0" * 32}
            path += "?format=original"
        server.files[path] = data
        entries.append({"label": label, "dataFile": record})
    listing = {"status": "OK", "data": {"latestVersion": {"files": entries}}}
    path = "/api/datasets/:persistentId/?persistentId=doi:10.7910/DVN/DBW86T"
    server.files[path] = json.dumps(listing).encode()


@pytest.mark.parametrize("tabular", [True, False])
def test_ham10000_comes_out_in_its_own_layout(server: Server, tmp_path: Path, tabular: bool) -> None:
    files = {
        "HAM10000_images_part_1.zip": archive({"ISIC_1.jpg": b"one"}),
        "HAM10000_images_part_2.zip": archive({"ISIC_2.jpg": b"two"}),
        "HAM10000_metadata.tab" if tabular else "HAM10000_metadata.csv": METADATA,
        "ISIC2018_Task3_Test_GroundTruth.csv": b"other",
    }
    dataverse(server, files, tabular=tabular)
    server.drops, server.drop_after = 2, 60
    said = get_all(server, ham10000.SOURCE, tmp_path)
    assert (tmp_path / "HAM10000_images_part_1/ISIC_1.jpg").read_bytes() == b"one"
    assert (tmp_path / "HAM10000_images_part_2/ISIC_2.jpg").read_bytes() == b"two"
    assert (tmp_path / "HAM10000_metadata.csv").read_text().startswith("lesion_id")
    assert said == ["HAM10000_images_part_1: 1 files", "HAM10000_images_part_2: 1 files"]
    assert not any("datafile/3" in path for path, _ in server.asked)
    del files["HAM10000_images_part_2.zip"]
    dataverse(server, files, tabular=tabular)
    with pytest.raises(UserError, match="lists no HAM10000_images_part_2"):
        get_all(server, ham10000.SOURCE, tmp_path)


PAGE = b'<html lang="en">\n<p>Sign in, please</html>' + b"x" * 9999


@pytest.mark.parametrize("before", [None, PAGE, b"image_id,dx\nISIC_1,nv\n", b""])
def test_metadata_without_a_checksum_are_read_before_they_are_kept(
    server: Server, tmp_path: Path, before: bytes | None
) -> None:
    files = {f"HAM10000_images_part_{part}.zip": archive({f"ISIC_{part}.jpg": b"one"}) for part in (1, 2)}
    dataverse(server, files | {"HAM10000_metadata.tab": METADATA}, tabular=True)
    path, table = "/api/access/datafile/2?format=original", tmp_path / "HAM10000_metadata.csv"
    if before is not None:
        table.write_bytes(before)
    server.files[path] = PAGE
    with pytest.raises(
        UserError, match=r"neither copy is the published file \(.* get HAM10000_metadata\.csv by hand"
    ) as error:
        get_all(server, ham10000.SOURCE, tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 800
    assert not table.exists() and not list(tmp_path.glob("*.part*"))
    assert sum(asked == path for asked, _ in server.asked) == 2
    server.files[path] = METADATA
    get_all(server, ham10000.SOURCE, tmp_path)
    assert table.read_bytes() == METADATA
    if before is not None:
        table.write_bytes(before)
        get_all(server, ham10000.SOURCE, tmp_path)
        assert table.read_bytes() == METADATA


@pytest.mark.parametrize(
    ("flag", "size", "words"),
    [
        ("dermamnst", 28, "did you mean 'dermamnist'"),
        ("dermamnist", 32, r"data\.size=32 .* use one of 28, 64, 128, 224"),
        ("chestmnist", 28, "several labels"),
    ],
)
def test_a_set_that_cannot_be_used_is_not_fetched(
    server: Server, tmp_path: Path, flag: str, size: int, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        get_all(server, medmnist.SOURCE, tmp_path, flag=flag, size=size)
    assert not server.asked and not list(tmp_path.iterdir())


def verb(*overrides: str) -> None:
    """Run ``python -m skinkd.data download`` on the configuration that the overrides compose."""
    with initialize_config_module("skinkd.conf", version_base="1.3"):
        settings = OmegaConf.to_container(compose("data_verbs", list(overrides)), resolve=True)
    verbs.download(settings)  # type: ignore[arg-type]


def test_the_closing_hint_is_a_command_that_composes(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dermamnist_64.npz").write_bytes(DATA)  # there already: nothing is asked for
    monkeypatch.setitem(SETS["dermamnist"].md5, 64, MD5.removeprefix("md5:"))
    verb("data=medmnist", f"data.root={tmp_path}", "data.size=64")
    assert capsys.readouterr().out.endswith("verify data=medmnist data.flag=dermamnist data.size=64\n")
    files = {f"HAM10000_images_part_{part}.zip": archive({f"ISIC_{part}.jpg": b"one"}) for part in (1, 2)}
    dataverse(server, files | {"HAM10000_metadata.tab": METADATA}, tabular=True)
    verb("data=ham10000", f"data.root={tmp_path}", "data.name=mine", f"download.address={server.address}")
    assert capsys.readouterr().out.endswith("verify data=ham10000\n")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["data=table", "data.file=x.csv"],
            "data=table is not downloaded, as its loader has no SOURCE that says where the files are; choose a public",
        ),
        (["data=folder", "data.root=/data"], "data=folder is not downloaded"),
        (["data=isic2019", "data.root=null"], r"data\.root=None is no folder to download into"),
        (
            ["data=ham10000", "data.table._target_=skinkd.data.ham10000.ham"],
            r"must be a function load_<name> of a module",
        ),
        (["data=medmnist", "data.flag=foo"], r"data\.flag=foo is not a valid value"),
    ],
)
def test_what_the_verb_cannot_download_is_one_sentence(words: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        verb(*words)


def test_the_others_are_checked_against_published_sums(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/dermamnist_64.npz"] = b"not MedMNIST"
    with pytest.raises(UserError, match=r"published file \(md5:b70a2f56"):
        get_all(server, medmnist.SOURCE, tmp_path, flag="dermamnist", size=64)
    tables = {name: name.encode() for name in isic2019.SHA256}
    server.files |= {f"/{name}": data for name, data in tables.items()}
    server.files["/ISIC_2019_Training_Input.zip"] = archive({"ISIC_2019_Training_Input/ISIC_1.jpg": b"1"})
    with pytest.raises(UserError, match=r"published file \(sha256:"):
        get_all(server, isic2019.SOURCE, tmp_path)
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in tables.items()}
    monkeypatch.setattr(isic2019, "SHA256", sums)
    assert get_all(server, isic2019.SOURCE, tmp_path) == ["ISIC_2019_Training_Input: 1 files"]
    assert (tmp_path / "ISIC_2019_Training_Input/ISIC_1.jpg").read_bytes() == b"1"
