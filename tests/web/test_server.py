"""The server as programs and other sites meet it: what it answers, what it refuses, and how it ends."""

import http.client
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from served import Served, behaviour, served

from skinkd.web.server import read_texts

SENTENCES = read_texts()["refused"]
BYTES = {"Content-Type": "application/octet-stream"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(behaviour(upload=1.5), tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.address, trust_env=False, timeout=60) as client:
        yield client


def refused(response: httpx.Response, status: int, sentence: str) -> bool:
    return response.status_code == status and response.json() == {"error": sentence}


def test_the_bytes_of_an_image_are_answered(client: httpx.Client) -> None:
    response = client.post("/predict", content=b"12345", headers=BYTES)
    assert (response.status_code, response.json()["bytes"]) == (200, 5)


def test_what_the_worker_refuses_is_a_sentence(client: httpx.Client) -> None:
    assert refused(client.post("/predict", content=b"refuse"), 422, "the image is a drawing")


@pytest.mark.parametrize(
    ("image", "status", "why"), [(b"memory", 500, "memory"), (b"crash", 500, "crashed"), (b"fault", 500, "fault")]
)
def test_a_failure_is_a_sentence_and_the_next_image_is_answered(
    client: httpx.Client, image: bytes, status: int, why: str
) -> None:
    assert refused(client.post("/predict", content=image), status, SENTENCES[why])
    assert client.post("/predict", content=b"one").status_code == 200


def test_an_answer_that_is_no_json_is_a_failure(client: httpx.Client) -> None:
    """A probability that is not a number ends the worker's message, not the server."""
    assert client.post("/predict", content=b"nan").status_code == 500
    assert client.post("/predict", content=b"one").status_code == 200


# ------------------------------------------------------------- size and time of a body


def test_an_empty_body_is_refused(client: httpx.Client) -> None:
    assert refused(client.post("/predict", content=b""), 400, SENTENCES["empty"])


@pytest.mark.parametrize("size", [10**6, 10**6 + 1])
@pytest.mark.parametrize("announced", [True, False])
def test_the_limit_of_a_body(client: httpx.Client, size: int, announced: bool) -> None:
    content = b"x" * size if announced else (b"x" * part for part in (400_000, 400_000, size - 800_000))
    response = client.post("/predict", content=content)
    if size <= 10**6:
        assert response.json()["bytes"] == size
    else:
        assert refused(response, 413, SENTENCES["too_large"].format(megabytes="1"))


def raw(server: Served, *parts: bytes, pause: float = 0) -> bytes:
    """Send bytes and return the answer up to the end of the connection."""
    address = urlsplit(server.address)
    assert address.hostname and address.port
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
        return answer


HEAD = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\n"


def test_a_body_that_never_comes_is_given_up(server: Served) -> None:
    answer = raw(server, HEAD + b"Content-Length: 100\r\n\r\n", b"a few")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"error": SENTENCES["slow"]}


def test_a_body_without_end_is_cut_off(server: Served) -> None:
    """Sent in chunks of unknown number, it is refused at the limit while more is to come."""
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    answer = raw(server, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 17)
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_form_is_refused(client: httpx.Client) -> None:
    """So no name of a file reaches the server, and no parser of forms puts an image on a disk."""
    response = client.post("/predict", files={"image": ("../../image.jpg", b"one", "image/jpeg")})
    assert refused(response, 415, SENTENCES["form"])


# ------------------------------------------------------------- other hosts and other sites


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "127.0.0.1:x", "", "a@127.0.0.1"]
)
@pytest.mark.parametrize("path", ["/", "/about.json", "/predict"])
def test_another_name_of_this_machine_is_refused(client: httpx.Client, host: str, path: str) -> None:
    method = "POST" if path == "/predict" else "GET"
    response = client.request(method, path, headers={"Host": host}, content=b"one" if method == "POST" else None)
    assert (response.status_code, response.text) == (403, SENTENCES["other_host"])


def test_no_name_and_two_names_are_refused(server: Served) -> None:
    assert b" 403 " in raw(server, b"GET / HTTP/1.0\r\n\r\n")
    two = raw(server, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
    assert two.split()[1] in (b"400", b"403")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "localhost:4321", "[::1]:8000", "LOCALHOST"])
def test_the_names_of_this_machine_are_taken(client: httpx.Client, host: str) -> None:
    assert client.get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "https://127.0.0.1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
    ],
)
def test_a_request_from_another_site_is_refused(client: httpx.Client, headers: dict[str, str]) -> None:
    response = client.post("/predict", content=b"one", headers=headers)
    assert (response.status_code, response.text) == (403, SENTENCES["other_site"])


def test_the_page_itself_may_ask(client: httpx.Client, server: Served) -> None:
    headers = {"Origin": server.address, "Sec-Fetch-Site": "same-origin"}
    assert client.post("/predict", content=b"one", headers=headers).status_code == 200


def test_no_other_site_may_read(client: httpx.Client) -> None:
    asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    for response in (client.get("/about.json", headers=asked), client.options("/predict", headers=asked)):
        assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "path", ["/", "/page.css", "/page.js", "/icon.svg", "/about.json", "/examples/mel", "/nowhere"]
)
def test_every_answer_has_the_headers(client: httpx.Client, path: str) -> None:
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy and "*" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "server" not in headers


# ------------------------------------------------------------- paths


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../etc/passwd",
        "/..%2f..%2f..%2fetc%2fpasswd",
        "/examples/../../server.py",
        "/examples/..%2f..%2fserver.py",
        "/examples/%2e%2e/page.css",
        "/examples/bcc",
        "//etc/passwd",
        "/page.html",
        "/texts.json",
    ],
)
def test_no_path_leads_to_another_file(server: Served, path: str) -> None:
    address = urlsplit(server.address)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=20)
    connection.request("GET", path)  # as it is written: httpx would take out the dots
    response = connection.getresponse()
    assert (response.status, json.loads(response.read())) == (404, {"error": SENTENCES["missing"]})
    connection.close()


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_other_methods_are_refused(client: httpx.Client, method: str) -> None:
    assert refused(client.request(method, "/predict"), 405, SENTENCES["method"])


# ------------------------------------------------------------- several at once, time, end


def test_two_at_once_are_both_answered_and_a_third_is_told(client: httpx.Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda size: client.post("/predict", content=b"slow" + b" " * size), range(1, 9)))
    answered = [response.json()["bytes"] for response in answers if response.status_code == 200]
    assert len(answered) >= 2
    assert set(answered) <= {size + 4 for size in range(1, 9)}
    others = [response for response in answers if response.status_code != 200]
    assert others and all(refused(response, 503, SENTENCES["busy"]) for response in others)


def test_an_image_that_hangs_is_given_up_and_ctrl_c_ends_it(tmp_path: Path) -> None:
    with served(behaviour(seconds=1), tmp_path / "server") as server:
        response = httpx.post(f"{server.address}/predict", content=b"hang", timeout=60, trust_env=False)
        assert refused(response, 504, SENTENCES["timeout"])
        assert httpx.post(f"{server.address}/predict", content=b"one", timeout=60, trust_env=False).status_code == 200
        assert server.interrupt() == 0
    assert server.output.endswith(f"{read_texts()['terminal']['ended']}\n")
    assert "Traceback" not in server.output and "hang" not in server.output
    assert list((tmp_path / "server").iterdir()) == []


@pytest.mark.parametrize("body", ["hangs", "comes slowly"])
def test_ctrl_c_does_not_wait_for_an_image(tmp_path: Path, body: str) -> None:
    with served(behaviour(seconds=600), tmp_path / "server") as server, ThreadPoolExecutor(2) as pool:
        rest = b"hang" if body == "hangs" else b"h"
        asking = [pool.submit(raw, server, HEAD + b"Content-Length: 4\r\n\r\n" + rest) for _ in range(2)]
        time.sleep(0.5)
        began = time.monotonic()
        assert server.interrupt() == 0
        assert time.monotonic() - began < 10
        for answer in asking:
            assert json.loads(answer.result().partition(b"\r\n\r\n")[2]) == {"error": SENTENCES["stopped"]}
    assert "Traceback" not in server.output


def test_a_port_in_use_is_one_sentence(server: Served, tmp_path: Path) -> None:
    port = urlsplit(server.address).port
    done = subprocess.run(
        behaviour(port=port or 0), capture_output=True, text=True, timeout=60, env=os.environ, cwd=Path(__file__).parent
    )
    assert f"UserError: port={port} of 127.0.0.1 is in use; give another, or port=0 for any free port" in done.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.org", "::"])
def test_an_address_that_others_reach_is_refused(host: str, tmp_path: Path) -> None:
    from skinkd.errors import UserError
    from skinkd.web.serve import listen

    with pytest.raises(UserError, match=f"^host={host} is no address of this machine alone"):
        listen(host, 0)
