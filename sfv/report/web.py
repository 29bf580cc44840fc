"""What pages with a server have in common: headers, requests that are read with care, listening."""

import json
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request

LOOPBACK = ["127.0.0.1", "localhost"]
MAX_BYTES = 20_000
PATIENCE_S = 3
"""How long the end waits for answers that are still on their way; a stream would never be done."""
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src data:; media-src 'self'; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'self'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
MakeApp = Callable[[list[str], int], Starlette]


def trusted(hosts: list[str]) -> Middleware:
    """Refuse other names than `hosts`: no other site can have its name resolved to this computer."""
    return Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)


async def read_json(request: Request) -> dict[str, Any]:
    """Read a JSON object; another content type would let other sites send forms here.

    Raises:
        ValueError: it is none, or longer than 20 kB.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ValueError(f"the content type is {kind!r:.60}; wanted is application/json")
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BYTES:
            raise ValueError(f"the request is longer than {MAX_BYTES} bytes")
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError("the request holds no JSON") from error
    if not isinstance(content, dict):
        raise ValueError("the request holds no JSON object")
    return content


def serve(make_app: MakeApp, host: str, port: int) -> None:
    """Serve until interrupted.

    Args:
        make_app: is told the names under which the page may be asked for, and the port.
        host: address to listen on.
        port: 0 takes a free one.

    Raises:
        OSError: the port is taken.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise OSError(f"cannot listen on {host}:{port} ({error}); give another --port") from error
    hosts = LOOPBACK if host in LOOPBACK else ["*"]
    shown = f"[{host}]" if ":" in host else host
    with listening:
        number = listening.getsockname()[1]
        print(f"open http://{shown}:{number}/ in a browser; Ctrl-C ends", flush=True)
        config = uvicorn.Config(
            make_app(hosts, number), log_level="warning", timeout_graceful_shutdown=PATIENCE_S
        )
        uvicorn.Server(config).run(sockets=[listening])
