"""The page's server: the page, what it says of the network, the drawn examples, and the answer on an image."""

import asyncio
import json
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from skinkd.errors import UserError
from skinkd.web.guard import Guard
from skinkd.web.worker import Worker, WorkerError

PAGE = files("skinkd.web") / "page"
LINGER_SECONDS = 2
"""Time for which a body that is too large is still received."""
STATIC = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
"""Files that are sent as they are, with their media types."""
STATUS = {"timeout": 504, "crashed": 500, "memory": 500, "fault": 500, "stopped": 503}
"""HTTP status of each reason of a WorkerError."""


class Limits(NamedTuple):
    """Bounds of a request.

    Attributes:
        megabytes: most of the body, in MB of 10⁶ bytes.
        upload_seconds: most time that sending the body may take.
        waiting: most images that wait or are answered at once.
    """

    megabytes: float
    upload_seconds: float
    waiting: int


class RefusedError(Exception):
    """An answer that is one sentence for the user, with its HTTP status."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


def read_texts() -> dict[str, Any]:
    """Return the words of the page, from ``page/texts.json``."""
    return json.loads((PAGE / "texts.json").read_text(encoding="utf-8"))


def make_app(worker: Worker, *, host: str, limits: Limits) -> Guard:
    """Return the application around a worker whose network is open.

    Args:
        worker: answers about images; it is stopped when the application ends.
        host: the address that the server is bound to.
        limits: bounds of a request.
    """
    texts = read_texts()
    page = _render(texts["page"])
    waiting = asyncio.Semaphore(limits.waiting)

    async def predict(request: Request) -> Response:
        if waiting.locked():
            raise RefusedError(503, texts["refused"]["busy"])
        async with waiting:
            image = await _body(request, limits, texts["refused"])
            try:
                return JSONResponse(await run_in_threadpool(worker.ask, image))
            except UserError as error:
                raise RefusedError(422, str(error)) from error
            except WorkerError as error:
                raise RefusedError(STATUS[error.reason], texts["refused"][error.reason]) from error

    async def about(_: Request) -> Response:
        shown = {name: value for name, value in worker.about.items() if name != "examples"}
        names = [example["name"] for example in worker.about["examples"]]
        return JSONResponse({**shown, "examples": names, "megabytes": limits.megabytes, "texts": texts})

    async def example(request: Request) -> Response:
        for drawn in worker.about["examples"]:
            if drawn["name"] == request.path_params["name"]:
                return Response(b64decode(drawn["jpeg"]), media_type="image/jpeg")
        raise HTTPException(404)

    async def refuse(_: Request, error: Exception) -> Response:
        assert isinstance(error, RefusedError)
        # what is left of the body is not read
        return JSONResponse({"error": error.sentence}, error.status, headers={"Connection": "close"})

    async def missing(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        sentence = texts["refused"]["method" if error.status_code == 405 else "missing"]
        return JSONResponse({"error": sentence}, error.status_code, headers=error.headers)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(worker.stop)

    app = Starlette(
        routes=[
            Route("/", _constant(page, "text/html")),
            *(Route(f"/{name}", _constant((PAGE / name).read_bytes(), kind)) for name, kind in STATIC.items()),
            Route("/about.json", about),
            Route("/examples/{name}", example),
            Route("/predict", predict, methods=["POST"]),
        ],
        exception_handlers={RefusedError: refuse, HTTPException: missing},
        lifespan=lifespan,
    )
    return Guard(app, host=host, sentences=texts["refused"])


def _render(texts: dict[str, str]) -> bytes:
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    template = environment.from_string((PAGE / "page.html").read_text(encoding="utf-8"))
    return template.render(texts=texts).encode()


def _constant(content: bytes, media_type: str) -> Any:
    async def respond(_: Request) -> Response:
        return Response(content, media_type=media_type)

    return respond


async def _body(request: Request, limits: Limits, sentences: dict[str, str]) -> bytes:
    """Return the body of a request, which is never on a disk.

    What comes beyond the limit is not kept. It is received for a moment, since a client that still sends when the connection
    closes does not see the answer.

    Raises:
        RefusedError: it is empty, is a form, is larger than the limit, or takes too long.
    """
    if request.headers.get("content-type", "").startswith(("multipart/", "application/x-www-form-urlencoded")):
        raise RefusedError(415, sentences["form"])
    most, received, body = int(limits.megabytes * 1e6), 0, bytearray()
    try:
        async with asyncio.timeout(limits.upload_seconds) as end:
            async for chunk in request.stream():
                if received <= most < received + len(chunk):
                    end.reschedule(asyncio.get_running_loop().time() + LINGER_SECONDS)
                received += len(chunk)
                if received <= most:
                    body += chunk
    except TimeoutError:
        if received <= most:
            raise RefusedError(408, sentences["slow"]) from None
    except ClientDisconnect:
        raise RefusedError(400, sentences["empty"]) from None
    except asyncio.CancelledError:  # Ctrl-C
        raise RefusedError(503, sentences["stopped"]) from None
    if received > most:
        raise RefusedError(413, sentences["too_large"].format(megabytes=f"{limits.megabytes:g}"))
    if not body:
        raise RefusedError(400, sentences["empty"])
    return bytes(body)
