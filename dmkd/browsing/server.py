"""The page on this machine: a small web server that answers only whoever has its address, which holds a secret."""

import json
import secrets
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from dmkd.browsing.desk import Desk
from dmkd.stores import UsageError

PAGE = Path(__file__).parent / "page"
PORT = 8710
PORTS_TRIED = 20
LOCAL = "127.0.0.1"
LONGEST_BODY = 4 * 2**20  # of what is saved: 500,000 ids
MEDIA_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
CHANGES = ("save",)  # questions that write, which no link can ask
PICTURES = "image/"

# Nothing from elsewhere is loaded or told, and no other page can look in.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def make_app(desk: Desk, token: str, host: str = LOCAL) -> Starlette:
    """The page below ``/TOKEN/``, and its questions below ``/TOKEN/ask/``. Everything else is refused in a sentence: other
    addresses, and where ``host`` is this machine alone, other names of it, by which another page might reach it."""
    # Read once: no address names a file.
    files = {file.relative_to(PAGE).as_posix(): file for file in sorted(PAGE.rglob("*")) if file.suffix in MEDIA_TYPES}

    async def page(request: Request) -> Response:
        if not _has_token(request, token):
            return _refused()
        name = request.path_params.get("name") or "index.html"
        if name not in files:
            return PlainTextResponse("There is no such file.\n", 404)
        return Response(files[name].read_bytes(), media_type=MEDIA_TYPES[files[name].suffix])

    async def ask(request: Request) -> Response:
        if not _has_token(request, token):
            return _refused()
        question = request.path_params["question"]
        asked: Mapping[str, Any] = request.query_params
        if question in CHANGES:
            if request.method != "POST" or not _is_own(request):
                return JSONResponse({"error": "Only the page itself can save."}, 403)
            asked = await _body(request)
        answer = await run_in_threadpool(desk.answer, question, asked)
        # A picture of an image does not change: its id decides it.
        keep = answer.status == 200 and answer.media_type.startswith(PICTURES)
        headers = {"Cache-Control": "private, max-age=3600" if keep else "no-store"}
        return Response(answer.body, answer.status, headers, answer.media_type)

    async def elsewhere(request: Request) -> Response:
        return _refused()

    names = [LOCAL, "localhost"] if host in (LOCAL, "localhost") else ["*"]  # of ::1 older starlettes know no names
    return Starlette(
        routes=[
            Route("/{token}/ask/{question}", ask, methods=["GET", "POST"]),
            Route("/{token}/", page),
            Route("/{token}/{name:path}", page),
            Route("/{rest:path}", elsewhere),
        ],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=names, www_redirect=False),
            Middleware(BaseHTTPMiddleware, dispatch=_with_headers),
        ],
    )


def serve(desk: Desk, host: str, port: int | None, started: Callable[[str], None]) -> None:
    """Serve until interrupted. ``port`` None: 8710, or the next that is free. ``started`` gets the page's address.

    Raises ``UsageError`` for a host or a port that can't be had."""
    listening = _listen(host, port)
    token = secrets.token_urlsafe(18)
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    desk.follow()
    config = uvicorn.Config(
        make_app(desk, token, host), log_level="warning", access_log=False, timeout_graceful_shutdown=1
    )
    started(f"http://{shown}:{listening.getsockname()[1]}/{token}/")
    with listening:
        uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int | None) -> socket.socket:
    """A socket that takes connections from now on, so that a browser that is sent to it at once waits instead of failing."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    first = PORT if port is None else port
    for number in range(first, first + (PORTS_TRIED if port is None else 1)):
        taken = socket.socket(family, socket.SOCK_STREAM)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind((host, number))
            taken.listen()
            return taken
        except OSError as error:
            taken.close()
            reason = error.strerror or str(error)
    raise UsageError(f"No page can be served at {host}, port {number}: {reason}. Give another --port or --host.")


def _has_token(request: Request, token: str) -> bool:
    return secrets.compare_digest(str(request.path_params["token"]).encode(), token.encode())


def _refused() -> Response:
    return PlainTextResponse("This page opens by the whole address that dmkd browse printed.\n", 403)


def _is_own(request: Request) -> bool:
    """Whether a request comes from the page, and not from another one that a browser has open."""
    origin = request.headers.get("origin")
    return origin is not None and origin.split("://")[-1] == request.headers.get("host")


async def _body(request: Request) -> dict[str, str]:
    """A JSON object of texts; {} for anything else."""
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > LONGEST_BODY:
            return {}
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return (
        {str(key): value for key, value in found.items() if isinstance(value, str)} if isinstance(found, dict) else {}
    )


async def _with_headers(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await answer(request)
    response.headers.update(HEADERS)
    return response
