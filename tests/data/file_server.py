"""A server on this machine that drops connections, sends wrong bytes, and may or may not know ranges."""

import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from skinkd.data.download import Connection

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


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Server]:
    """Serve files on this machine."""
    state = Server(files)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler(state)) as http:
        state.address = f"http://127.0.0.1:{http.server_address[1]}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        http.shutdown()
        thread.join()


def archive(names: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name, data in names.items():
            file.writestr(name, data)
    return stream.getvalue()
