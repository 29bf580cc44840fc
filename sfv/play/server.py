"""The playground's server: pages ask for chunks, hear how they come about, and fetch pictures and files.

A visitor is known by a cookie that no script and no other site can read. No route takes a path, and
nothing is changed by a GET.
"""

import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route

from sfv.fast.memory_file import SUFFIX, save_memory
from sfv.play.describe import LABELS, describe_starts, video_of
from sfv.play.hall import MAX_STREAMS, Busy, Full, Hall, NoVisit, Visitor
from sfv.play.session import Node, NoRoom, UnknownNode
from sfv.report import web

PAGE = Path(__file__).with_name("page.html")
POLICY = web.HEADERS["Content-Security-Policy"].replace("img-src", "img-src 'self'")
HEADERS = {**web.HEADERS, "Content-Security-Policy": POLICY}
STATUS: dict[type[ValueError], int] = {
    NoVisit: 403,
    UnknownNode: 404,
    Busy: 409,
    NoRoom: 409,
    Full: 503,
}
"""Of errors; any other is 400."""


def make_app(hall: Hall, hosts: list[str], port: int) -> Starlette:
    """Build the application.

    Args:
        hall: visitors and model; closed with the application.
        hosts: names under which the page may be asked for.
        port: of the page; browsers send cookies of one host to all its ports, so it is in their name.
    """
    pages = _Pages(hall, f"sfv-play-{port}")

    @asynccontextmanager
    async def living(_: Starlette) -> AsyncIterator[None]:
        yield
        hall.close()

    routes = [
        Route("/", pages.page),
        Route("/hall", _refusing(pages.hall_state)),
        Route("/start/{index:number}.png", _refusing(pages.start_picture)),
        Route("/events", _refusing(pages.events)),
        Route("/frames/{number:number}/{row:str}.png", _refusing(pages.frames)),
        Route("/video/{number:number}.mp4", _refusing(pages.video)),
        Route("/memory/{number:number}.safetensors", _refusing(pages.memory)),
        *(
            Route(f"/{name}", _refusing(getattr(pages, name)), methods=["POST"])
            for name in ("begin", "go", "show", "rewind", "remove", "stop", "leave")
        ),
    ]
    return web.application(routes, hosts, living)


class _Pages:
    """What is answered.

    Args:
        hall: visitors and model.
        cookie: its name.
    """

    def __init__(self, hall: Hall, cookie: str) -> None:
        self.hall, self.cookie = hall, cookie

    async def page(self, _: Request) -> Response:
        return HTMLResponse(PAGE.read_text(), headers=HEADERS)

    async def hall_state(self, request: Request) -> Response:
        """What every visitor may know, and the visit of this one."""
        hall, world = self.hall, self.hall.player.world
        try:
            visit = hall.state(self._visitor(request))
        except NoVisit:
            visit = None
        return _json(
            {
                "visit": visit,
                "starts": describe_starts(hall.starts),
                "memories": [
                    {"row": row, "kind": kind, "label": LABELS[row]}
                    for row, kind in hall.player.memories.items()
                ],
                "actions": hall.actions.offered,
                "keys": hall.actions.offered_keys(),
                "takes_any": hall.actions.takes_any,
                "frames": {"context": world.num_context, "generated": world.num_generated},
                "memory_mb": hall.memory_bytes / 1e6,
                "idle_minutes": hall.limits.idle_s / 60,
            }
        )

    async def start_picture(self, request: Request) -> Response:
        index = request.path_params["index"]
        if index >= len(self.hall.pictures):
            raise UnknownNode(f"there is no start {index}")
        return Response(self.hall.pictures[index], media_type="image/png", headers=HEADERS)

    async def begin(self, request: Request) -> Response:
        content = await web.read_json(request)
        known = request.cookies.get(self.cookie)
        memory = content.get("memory", "fast")
        token = self.hall.enter(known, web.number(content, "start"), memory)
        answer = _json(self.hall.state(self.hall.find(token)))
        answer.set_cookie(self.cookie, token, httponly=True, samesite="strict", path="/")
        return answer

    async def go(self, request: Request) -> Response:
        visitor, content = self._visitor(request), await web.read_json(request)
        action = self.hall.actions.check(content.get("action"))
        self.hall.go(visitor, web.number(content, "node"), action)
        return _json(self.hall.state(visitor), 202)

    async def show(self, request: Request) -> Response:
        visitor, content = self._visitor(request), await web.read_json(request)
        self.hall.show(visitor, web.number(content, "node"))
        return _json(self.hall.state(visitor), 202)

    async def rewind(self, request: Request) -> Response:
        visitor, content = self._visitor(request), await web.read_json(request)
        self.hall.rewind(visitor, web.number(content, "node"))
        return _json(self.hall.state(visitor))

    async def remove(self, request: Request) -> Response:
        visitor, content = self._visitor(request), await web.read_json(request)
        self.hall.remove(visitor, web.number(content, "node"))
        return _json(self.hall.state(visitor))

    async def stop(self, request: Request) -> Response:
        visitor, _ = self._visitor(request), await web.read_json(request)
        self.hall.stop(visitor)
        return _json(self.hall.state(visitor))

    async def leave(self, request: Request) -> Response:
        await web.read_json(request)
        self.hall.leave(request.cookies.get(self.cookie, ""))
        answer = _json({})
        answer.delete_cookie(self.cookie, path="/", httponly=True, samesite="strict")
        return answer

    async def events(self, request: Request) -> Response:
        visitor = self._visitor(request)
        if len(visitor.streams) >= MAX_STREAMS:
            raise Busy(f"{MAX_STREAMS} pages of this visit are open; close one")

        async def told() -> AsyncIterator[str]:
            async for event in self.hall.listen(visitor):
                yield ": alive\n\n" if event is None else f"data: {json.dumps(event)}\n\n"

        return StreamingResponse(told(), media_type="text/event-stream", headers=HEADERS)

    async def frames(self, request: Request) -> Response:
        node, row = self._node(request), request.path_params["row"]
        rows = node.made.strips
        if row not in rows:
            raise UnknownNode(f"there is no row {row!r:.20}; there are {', '.join(rows)}")
        return Response(node.made.strips[row], media_type="image/png", headers=HEADERS)

    async def video(self, request: Request) -> Response:
        visitor, node = self._visitor(request), self._node(request)
        visit, world = visitor.visit, self.hall.player.world
        height = node.made.latents["none"].shape[3] * world.codec.spatial_factor
        path, start = visit.path(node.number), visit.start
        clip = await run_in_threadpool(video_of, path, height, start.fps)
        name = f"{start.name}-chunk-{node.depth:04d}.mp4"
        return Response(clip, media_type="video/mp4", headers={**HEADERS, **_as_file(name)})

    async def memory(self, request: Request) -> Response:
        node = self._node(request)
        if node.made.memory is None:
            raise UnknownNode("this visit has no memory; begin anew with one")
        folder = tempfile.TemporaryDirectory(prefix="sfv-play-")
        path = Path(folder.name) / f"memory{SUFFIX}"
        await run_in_threadpool(save_memory, path, node.made.memory)
        name = f"{node.made.memory.header.episode}.chunk-{node.depth:04d}{SUFFIX}"
        headers, clean = {**HEADERS, **_as_file(name)}, BackgroundTask(folder.cleanup)
        return FileResponse(
            path, media_type="application/octet-stream", headers=headers, background=clean
        )

    def _visitor(self, request: Request) -> Visitor:
        return self.hall.find(request.cookies.get(self.cookie))

    def _node(self, request: Request) -> Node:
        return self._visitor(request).visit.node(request.path_params["number"])


def _json(content: Any, status: int = 200) -> JSONResponse:
    return JSONResponse(content, status, headers=HEADERS)


def _as_file(name: str) -> dict[str, str]:
    """Let a browser save it; names of episodes and files are checked where they are read."""
    plain = name.encode("ascii", "replace").decode().replace('"', "_").replace("?", "_")
    return {"Content-Disposition": f'attachment; filename="{plain}"'}


def _refusing(endpoint: web.Endpoint) -> web.Endpoint:
    return web.refusing(endpoint, HEADERS, STATUS)
