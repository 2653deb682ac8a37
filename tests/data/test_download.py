"""Against a server on this machine that drops connections, sends wrong bytes, and may or may not know ranges."""

import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from skinkd.data import ham10000, isic2019, medmnist, verbs
from skinkd.data.download import Connection, download, fetch, unzip
from skinkd.data.medmnist_sets import SETS
from skinkd.data.source import Source
from skinkd.errors import UserError

DATA = np.random.default_rng(0).bytes(3_000_000)
MD5 = f"md5:{hashlib.md5(DATA).hexdigest()}"
QUICK = Connection(attempts=3, timeout=60, pause=0.01)


@dataclass
class Server:
    """What to serve, how to misbehave, and what was asked."""

    files: dict[str, bytes] = field(default_factory=dict)
    drops: int = 0  # connections to end after `drop_after` bytes of the body
    drop_after: int = 1_000_000
    ranges: bool = True
    wrong_range: bool = False
    refuse: list[int] = field(default_factory=list)  # status codes of the next answers
    etag: str = '"1"'
    names_length: bool = True  # says how long the file is where it has no more bytes of it
    tells_etag: bool = True  # also then
    asked: list[tuple[str, str]] = field(default_factory=list)  # path, Range header
    address: str = ""


def handler(state: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            span = self.headers.get("Range", "")
            state.asked.append((self.path, span))
            if state.refuse:
                self.send_error(state.refuse.pop(0))
                return
            data = state.files.get(self.path)
            if data is None:
                self.send_error(404)
                return
            begin = 0
            same = self.headers.get("If-Range", state.etag) == state.etag
            if span and state.ranges and same:
                begin = int(span.removeprefix("bytes=").rstrip("-"))
                if begin >= len(data):
                    self.send_response(416)
                    if state.names_length:
                        self.send_header("Content-Range", f"bytes */{len(data)}")
                    if state.tells_etag:
                        self.send_header("ETag", state.etag)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206)
                told = begin + 7 if state.wrong_range else begin
                self.send_header("Content-Range", f"bytes {told}-{len(data) - 1}/{len(data)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(data) - begin))
            self.send_header("ETag", state.etag)
            self.end_headers()
            body = data[begin:]
            if state.drops:
                state.drops -= 1
                body = body[: state.drop_after]
            self.wfile.write(body)
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server({"/file": DATA})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler(state)) as http:
        state.address = f"http://127.0.0.1:{http.server_address[1]}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        http.shutdown()
        thread.join()


def get(server: Server, target: Path, checksum: str | None = MD5) -> Path:
    return fetch(f"{server.address}/file", target, checksum=checksum, connection=QUICK)


def get_all(server: Server, source: Source, root: Path, **table: object) -> list[str]:
    """Download a dataset from the server; what is said."""
    said: list[str] = []
    download(source, table, root, address=server.address, connection=QUICK, say=said.append)
    return said


def only(target: Path) -> None:
    """Nothing but the file and its lock is left."""
    assert {path.name for path in target.parent.iterdir()} == {target.name, f".{target.name}.lock"}


def test_a_whole_file_is_fetched_once(server: Server, tmp_path: Path) -> None:
    target = get(server, tmp_path / "deep" / "file.bin")
    assert target.read_bytes() == DATA
    only(target)
    get(server, target)
    assert len(server.asked) == 1
    target.write_bytes(DATA[:-1])  # there, but not the published file
    assert get(server, target).read_bytes() == DATA


@pytest.mark.parametrize("checksum", [MD5, f"sha256:{hashlib.sha256(DATA).hexdigest()}", None])
def test_dropped_connections_are_resumed(server: Server, tmp_path: Path, checksum: str | None) -> None:
    server.drops, server.drop_after = 5, 400_000  # more drops than attempts, but each gains
    assert get(server, tmp_path / "file.bin", checksum).read_bytes() == DATA
    assert [span for _, span in server.asked] == ["", *(f"bytes={400_000 * k}-" for k in range(1, 6))]
    only(tmp_path / "file.bin")


def test_a_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    server.drops, server.ranges = 2, False
    assert get(server, tmp_path / "file.bin").read_bytes() == DATA
    assert len(server.asked) == 3


def test_a_later_command_goes_on_where_the_first_gave_up(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    server.drops, server.drop_after = 99, 500
    (tmp_path / "file.bin.part").write_bytes(DATA[:2_000_000])
    (tmp_path / "file.bin.part.etag").write_text('"1"')
    server.drop_after = 0
    with pytest.raises(UserError, match="goes on where it stopped"):
        get(server, target)
    assert not target.exists() and (tmp_path / "file.bin.part").stat().st_size == 2_000_000
    server.drops = 0
    server.asked.clear()
    assert get(server, target).read_bytes() == DATA
    assert server.asked == [("/file", "bytes=2000000-")]


def test_a_file_that_changed_meanwhile_begins_anew(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(b"x" * 2_000_000)
    (tmp_path / "file.bin.part.etag").write_text('"0"')
    assert get(server, tmp_path / "file.bin").read_bytes() == DATA
    assert len(server.asked) == 1


@pytest.mark.parametrize("part", [b"x" * 2_000_000, b"x" * len(DATA), b"x" * (len(DATA) + 5)])
def test_a_wrong_part_is_thrown_away(server: Server, tmp_path: Path, part: bytes) -> None:
    (tmp_path / "file.bin.part").write_bytes(part)
    assert get(server, tmp_path / "file.bin").read_bytes() == DATA
    only(tmp_path / "file.bin")


@pytest.mark.parametrize(("checksum", "etag", "tells"), [(MD5, "", True), (None, '"1"', True), (None, '"1"', False)])
def test_a_whole_part_is_taken(server: Server, tmp_path: Path, checksum: str | None, etag: str, tells: bool) -> None:
    """Killed between the last byte and the renaming."""
    (tmp_path / "file.bin.part").write_bytes(DATA)
    (tmp_path / "file.bin.part.etag").write_text(etag)
    server.tells_etag = tells
    assert get(server, tmp_path / "file.bin", checksum).read_bytes() == DATA
    assert server.asked == [("/file", f"bytes={len(DATA)}-")]
    only(tmp_path / "file.bin")


@pytest.mark.parametrize(("etag", "length"), [("", len(DATA)), ('"1"', len(DATA) + 5), ('"0"', len(DATA))])
def test_a_part_that_may_not_be_whole_is_not_taken(server: Server, tmp_path: Path, etag: str, length: int) -> None:
    (tmp_path / "file.bin.part").write_bytes(b"x" * length)
    (tmp_path / "file.bin.part.etag").write_text(etag)
    assert get(server, tmp_path / "file.bin", None).read_bytes() == DATA
    server.names_length = False
    (tmp_path / "other.bin.part").write_bytes(b"x" * length)
    (tmp_path / "other.bin.part.etag").write_text('"1"')
    assert get(server, tmp_path / "other.bin", None).read_bytes() == DATA


def test_a_server_that_lies_about_the_range(server: Server, tmp_path: Path) -> None:
    server.drops, server.wrong_range = 1, True
    assert get(server, tmp_path / "file.bin").read_bytes() == DATA


def test_wrong_bytes_are_never_kept(server: Server, tmp_path: Path) -> None:
    server.files["/file"] = DATA[:-1] + b"?"
    with pytest.raises(UserError, match="downloaded twice, and neither copy is the published file"):
        get(server, tmp_path / "file.bin")
    assert [path.name for path in tmp_path.iterdir()] == [".file.bin.lock"]
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("codes", "words"),
    [([403], "answers 403"), ([404], "answers 404"), ([503] * 3, "cannot be downloaded: it answers 503")],
)
def test_refusals(server: Server, tmp_path: Path, codes: list[int], words: str) -> None:
    server.refuse = list(codes)
    with pytest.raises(UserError, match=words):
        get(server, tmp_path / "file.bin")
    assert len(server.asked) == len(codes)


def test_a_busy_server_is_asked_again_and_an_absent_one_is_named(server: Server, tmp_path: Path) -> None:
    server.refuse = [503, 429]
    assert get(server, tmp_path / "file.bin").read_bytes() == DATA
    with pytest.raises(UserError, match="check the connection"):
        fetch("http://127.0.0.1:9/file", tmp_path / "other.bin", checksum=None, connection=QUICK)


def archive(names: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name, data in names.items():
            file.writestr(name, data)
    return stream.getvalue()


def test_unzip(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(archive({"in/a.jpg": b"aaa", "in/b.jpg": b"bb", "__MACOSX/in/a.jpg": b"?"}))
    assert unzip(path, tmp_path / "out") == 2
    assert (tmp_path / "out/in/a.jpg").read_bytes() == b"aaa"
    (tmp_path / "out/in/b.jpg").write_bytes(b"b")  # unpacked half-way
    assert unzip(path, tmp_path / "out") == 2 and (tmp_path / "out/in/b.jpg").read_bytes() == b"bb"
    assert not (tmp_path / "out/__MACOSX").exists()
    kept = (tmp_path / "out/in/a.jpg").stat().st_mtime_ns
    (tmp_path / "out/in/b.jpg").write_bytes(b"bx")  # of the right size
    assert unzip(path, tmp_path / "out") == 2 and (tmp_path / "out/in/b.jpg").read_bytes() == b"bb"
    assert (tmp_path / "out/in/a.jpg").stat().st_mtime_ns == kept
    data = path.read_bytes()
    path.write_bytes(data.replace(b"aaa", b"aba"))
    with pytest.raises(UserError, match="is damaged"):
        unzip(path, tmp_path / "again")
    assert not list((tmp_path / "again").rglob("*.jpg")) and not list((tmp_path / "again").rglob(".*"))
    path.write_bytes(archive({"../outside.jpg": b"x"}))
    with pytest.raises(UserError, match="is not safe"):
        unzip(path, tmp_path / "safe")
    assert not (tmp_path / "outside.jpg").exists()


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


def test_an_archive_bomb_is_not_unpacked(tmp_path: Path) -> None:
    archive = tmp_path / "bomb.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("zeros.bin", bytes(20_000_000))
    with pytest.raises(UserError, match=r"bomb\.zip is not safe: it would unpack to 20000000 bytes"):
        unzip(archive, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_no_redirect_leaves_https() -> None:
    from urllib.request import Request

    from skinkd.data.download import _StaysEncrypted

    handler = _StaysEncrypted()
    for url in ("http://a.example/x", "ftp://a.example/x"):
        with pytest.raises(UserError, match="not encrypted"):
            handler.redirect_request(Request("https://a.example/x"), None, 302, "Found", {}, url)
    assert handler.redirect_request(Request("https://a.example/x"), None, 302, "Found", {}, "https://b.example/y")
    assert handler.redirect_request(Request("http://a.example/x"), None, 302, "Found", {}, "http://b.example/y")
