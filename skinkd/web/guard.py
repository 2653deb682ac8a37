"""What every request must satisfy, and what every response says, so that no other site or machine can use the page."""

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
"""Names of this machine. A site that lets its own name point here (DNS rebinding) sends that name, and is refused."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}


class Guard:
    """ASGI middleware: refuses requests that name another host or come from another site, and adds ``HEADERS``."""

    def __init__(self, app: ASGIApp, *, host: str, sentences: dict[str, str]) -> None:
        self.app, self.names, self.sentences = app, {host, *LOCAL_NAMES}, sentences

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with 403."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        problem = self._problem(scope)
        if problem:
            refusal = PlainTextResponse(self.sentences[problem], status_code=403)
            await refusal(scope, receive, send_with_headers)
        else:
            await self.app(scope, receive, send_with_headers)

    def _problem(self, scope: Scope) -> str | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if len(headers.getlist("host")) != 1 or _hostname(host) not in self.names:
            return "other_host"
        if scope["method"] in ("GET", "HEAD"):
            return None
        # a browser sends these two; a program on this machine, such as curl, sends neither
        if headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return "other_site"
        if headers.get("origin", f"http://{host}") != f"http://{host}":
            return "other_site"
        return None


def _hostname(host: str) -> str | None:
    """Return the name in a Host header, without its port; None for a header that is none."""
    try:
        parts = urlsplit(f"//{host}")
        parts.port  # noqa: B018 - raises for a port that is no number
    except ValueError:
        return None
    return parts.hostname if parts.netloc == host and "@" not in host else None
