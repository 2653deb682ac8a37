"""A server that sends more than a file may have fills no disk, whether it says how much it sends or not."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from skinkd.data.download import Connection, download, fetch
from skinkd.data.source import TABLE_BYTES, File, Source
from skinkd.errors import UserError

QUICK = Connection(attempts=2, timeout=60, pause=0.01)
SENT = 5_000_000


@pytest.fixture
def server() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            if "long" in self.path:  # a length that is a lie to come
                self.send_header("Content-Length", str(10**12))
            self.end_headers()
            try:
                for _ in range(SENT // 100_000):
                    self.wfile.write(bytes(100_000))
            except OSError:  # the client has left
                pass

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as answering:
        serve = threading.Thread(target=answering.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        serve.start()
        yield f"http://127.0.0.1:{answering.server_port}"
        answering.shutdown()


@pytest.mark.parametrize("path", ["long", "unannounced"])
def test_more_bytes_than_a_file_may_have_are_not_kept(server: str, path: str, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=rf"/{path} sends \d+ bytes or more, and the file has at most 2000000; see whether"
    ):
        fetch(f"{server}/{path}", tmp_path / "file", checksum=None, connection=QUICK, most_bytes=2_000_000)
    assert not [left for left in tmp_path.iterdir() if left.stat().st_size]


def test_a_file_of_the_most_bytes_comes_whole(server: str, tmp_path: Path) -> None:
    target = fetch(f"{server}/x", tmp_path / "file", checksum=None, connection=QUICK, most_bytes=SENT)
    assert target.stat().st_size == SENT


def test_a_part_that_is_too_large_already_goes(server: str, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(bytes(3_000_000))
    with pytest.raises(UserError, match="at most 2000000"):
        fetch(f"{server}/x", tmp_path / "file", checksum=None, connection=QUICK, most_bytes=2_000_000)
    assert not (tmp_path / "file.part").exists()


def test_every_file_and_listing_of_a_dataset_has_its_limit(server: str, tmp_path: Path) -> None:
    assert File(name="x").most_bytes > 10 * TABLE_BYTES
    table = Source(licence="x", files=lambda _: [File(name="a.csv", most_bytes=1000)])
    listed = Source(licence="x", listing=lambda get: [File(name=get("long").decode())])
    for source, most in ((table, 1000), (listed, TABLE_BYTES)):
        with pytest.raises(UserError, match=f"at most {most};"):
            download(source, {}, tmp_path, address=server, connection=QUICK, say=print)
