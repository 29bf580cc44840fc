"""The rating page's server: it tells a rater's next videos without names, and keeps what they answer."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from sfv.report.rating.answers import CRITERIA, Ratings, check_rater

PAGE = Path(__file__).with_name("page.html")
MAX_BYTES = 20_000
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src data:; media-src 'self'; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'self'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
Endpoint = Callable[[Request], Awaitable[Response]]


def make_app(ratings: Ratings, hosts: list[str]) -> Starlette:
    """Build the application.

    A video is named by its place in the rater's own order, so its address tells nothing, and no path of
    a file ever comes from outside.

    Args:
        ratings: what is asked and where answers go.
        hosts: names under which the page may be asked for; others are refused, so that no other site
            can have its name resolved to this computer.
    """

    async def page(_: Request) -> Response:
        return HTMLResponse(PAGE.read_text(), headers=HEADERS)

    async def next_task(request: Request) -> Response:
        return JSONResponse(_state(ratings, _rater(request)), headers=HEADERS)

    async def answer(request: Request) -> Response:
        content = await _json(request)
        rater, task = check_rater(content.get("rater")), content.get("task")
        if type(task) is not int:
            raise ValueError(f"the task is {task!r:.60}; wanted is its number")
        scores: Any = content.get("scores")
        ratings.add(rater, task, scores)
        return JSONResponse(_state(ratings, rater), headers=HEADERS)

    async def video(request: Request) -> Response:
        task, place = request.path_params["task"], request.path_params["place"]
        tasks = ratings.tasks(_rater(request))
        if task >= len(tasks) or place >= len(tasks[task]):
            raise ValueError(f"there is no video {place} in task {task}")
        return FileResponse(tasks[task][place].path, media_type="video/mp4", headers=HEADERS)

    routes = [
        Route("/", page),
        Route("/next", _refusing(next_task)),
        Route("/answer", _refusing(answer), methods=["POST"]),
        Route("/video/{task:int}/{place:int}", _refusing(video)),
    ]
    trusted = Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)
    return Starlette(routes=routes, middleware=[trusted])


def _state(ratings: Ratings, rater: str) -> dict[str, Any]:
    tasks, done = ratings.tasks(rater), ratings.num_done(rater)
    shown = tasks[done] if done < len(tasks) else []
    return {
        "done": done,
        "total": len(tasks),
        "videos": len(shown),
        "actions": shown[0].actions if shown else [],
        "criteria": CRITERIA,
    }


def _rater(request: Request) -> str:
    return check_rater(request.query_params.get("rater"))


async def _json(request: Request) -> dict[str, Any]:
    """Read a JSON object; another content type would let other sites send forms here."""
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


def _refusing(endpoint: Endpoint) -> Endpoint:
    """Answer 400 with one line where the request is wrong, 500 where an answer could not be kept."""

    async def checked(request: Request) -> Response:
        try:
            return await endpoint(request)
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 400, headers=HEADERS)
        except OSError as error:
            return JSONResponse({"error": str(error)}, 500, headers=HEADERS)

    return checked
