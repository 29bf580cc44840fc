"""What our pages with a server have in common: who may ask, requests that are read with care, listening.

Every application is made by `application`, so that no server goes without its guard, and served by `serve`,
so that none waits for ever for a request.
"""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Lifespan, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from sfv.report import address

MAX_BYTES = 20_000
MAX_HEAD_BYTES = 16_384
MAX_CONNECTIONS = 256
MAX_NUMBER = 10**9 - 1
REQUEST_S = 10.0
"""How long a whole request may take to come."""
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
Endpoint = Callable[[Request], Awaitable[Response]]


class _Number(Convertor[int]):
    """A number in a path; a longer one is no address, and never meets `int`."""

    regex = "[0-9]{1,9}"

    def convert(self, value: str) -> int:
        return int(value)

    def to_string(self, value: int) -> str:
        return str(value)


register_url_convertor("number", _Number())


def application(
    routes: Sequence[BaseRoute], hosts: Sequence[str], lifespan: Lifespan[Starlette] | None = None
) -> Starlette:
    """Build an application behind its guard.

    Args:
        routes: of the application; numbers in paths are `{name:number}`.
        hosts: names under which it may be asked for, or "*".
        lifespan: what surrounds its life.
    """
    guard = Middleware(_Guard, hosts=hosts)
    return Starlette(routes=routes, middleware=[guard], lifespan=lifespan)


class _Guard:
    """Refuses other names than the server's and other sites' pages, and answers nonsense with 400.

    The first page itself may be linked to from anywhere.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refused = self._refused(scope)
        if refused is not None:
            await refused(scope, receive, send)
            return
        begun = False

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except ValueError as error:  # of a header that a framework reads, say
            if begun:
                raise
            await _fault(str(error), 400, HEADERS)(scope, receive, send)

    def _refused(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not address.is_asked_for(host, self.hosts):
            return _fault("this server is not known by that name", 400, HEADERS)
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if scope["path"] != "/" and not address.is_own_page(host, origin, site):
            return _fault("another site asks for this; open the page itself", 403, HEADERS)
        return None


def _fault(text: str, status: int, headers: Mapping[str, str]) -> JSONResponse:
    return JSONResponse({"error": text}, status, headers=dict(headers))


def refusing(
    endpoint: Endpoint,
    headers: Mapping[str, str] = HEADERS,
    statuses: Mapping[type[ValueError], int] = {},
) -> Endpoint:
    """Answer a wrong request with one line and its status, 500 where a file could not be used.

    Args:
        endpoint: raises ValueError for a wrong request.
        headers: of the answer.
        statuses: of kinds of errors; any other is 400.
    """

    async def checked(request: Request) -> Response:
        try:
            return await endpoint(request)
        except ValueError as error:
            return _fault(str(error), statuses.get(type(error), 400), headers)
        except OSError as error:
            return _fault(str(error), 500, headers)

    return checked


def number(content: Mapping[str, Any], name: str) -> int:
    """A number of a request.

    Raises:
        ValueError: it is none, or has more than nine digits.
    """
    value = content.get(name)
    if type(value) is not int or abs(value) > MAX_NUMBER:
        raise ValueError(f"{name} is {value!r:.60}; wanted is its number")
    return value


async def read_json(request: Request) -> dict[str, Any]:
    """Read a JSON object; another content type would let other sites send forms here.

    Raises:
        ValueError: it is none, or longer than 20 kB, or does not come in time.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ValueError(f"the content type is {kind!r:.60}; wanted is application/json")
    try:
        async with asyncio.timeout(REQUEST_S):
            body = await _read(request)
    except TimeoutError:
        raise ValueError(f"the request did not come whole within {REQUEST_S:g} s") from None
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError("the request holds no JSON") from error
    if not isinstance(content, dict):
        raise ValueError("the request holds no JSON object")
    return content


async def _read(request: Request) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BYTES:
            raise ValueError(f"the request is longer than {MAX_BYTES} bytes")
    return body


class _Impatient(H11Protocol):
    """Ends a connection on which no whole request comes in time, and refuses too many of them."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._deadline = self.loop.call_later(REQUEST_S, self._end_idle)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._deadline.cancel()
        self._deadline = self.loop.call_later(REQUEST_S, self._end_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        super().connection_lost(exc)

    def _end_idle(self) -> None:
        """Nothing is being answered: the request has not come, or not its end."""
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()


def serve(make_app: MakeApp, host: str, port: int) -> None:
    """Serve until interrupted.

    Args:
        make_app: is told the names under which the page may be asked for, and the port.
        host: address to listen on.
        port: 0 takes a free one.

    Raises:
        ValueError: there is no such port.
        OSError: the port is taken, or the address is none of this computer's.
    """
    with listen(host, port) as listening:
        where, number = listening.getsockname()[:2]
        hosts = [*address.HERE, where] if address.is_here(where) else ["*"]
        if "*" in hosts:
            print(
                f"warning: {host} is no address of this computer alone; whoever reaches it gets in"
            )
        print(f"open {address.url(host, number)} in a browser; Ctrl-C ends", flush=True)
        server(make_app(hosts, number)).run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """Listen on an address; see `serve`."""
    address.check_port(port)
    name = address.plain(host)
    family = socket.AF_INET6 if ":" in name else socket.AF_INET
    try:
        return socket.create_server((name, port), family=family)
    except (OSError, UnicodeError) as error:
        raise OSError(f"cannot listen on {host}:{port} ({error}); give another --port") from error


def server(app: Starlette) -> uvicorn.Server:
    """A server with our limits."""
    config = uvicorn.Config(
        app,
        http=_Impatient,
        ws="none",
        log_level="warning",
        proxy_headers=False,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        timeout_graceful_shutdown=PATIENCE_S,
    )
    return uvicorn.Server(config)
