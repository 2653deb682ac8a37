"""Files against a server that drops connections, sends wrong bytes, and may or may not know ranges."""

import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from file_server import DATA, MD5, QUICK, Server, archive, serving

from skinkd.data.download import fetch, unzip
from skinkd.errors import UserError


@pytest.fixture
def server() -> Iterator[Server]:
    with serving({"/file": DATA}) as listening:
        yield listening


def get(server: Server, target: Path, checksum: str | None = MD5) -> Path:
    return fetch(f"{server.address}/file", target, checksum=checksum, connection=QUICK)


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
