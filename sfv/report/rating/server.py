"""The rating page's server: it tells a rater's next videos without names, and keeps what they answer."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from sfv.report.rating.answers import CRITERIA, Ratings, check_rater
from sfv.report.web import HEADERS, read_json, trusted

PAGE = Path(__file__).with_name("page.html")
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
        content = await read_json(request)
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
    return Starlette(routes=routes, middleware=[trusted(hosts)])


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
