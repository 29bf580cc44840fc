"""The rating page's server: it tells a rater's next videos without names, and keeps what they answer."""

from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from sfv.report.rating.answers import CRITERIA, Ratings, check_rater
from sfv.report.web import HEADERS, application, number, read_json, refusing

PAGE = Path(__file__).with_name("page.html")


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
        rater, task = check_rater(content.get("rater")), number(content, "task")
        scores: Any = content.get("scores")
        ratings.add(rater, task, scores)
        return JSONResponse(_state(ratings, rater), headers=HEADERS)

    async def video(request: Request) -> Response:
        task, place = request.path_params["task"], request.path_params["place"]
        tasks = ratings.tasks(_rater(request))
        if task >= len(tasks) or place >= len(tasks[task]):
            raise ValueError(f"there is no video {place} in task {task}")
        path = tasks[task][place].path
        if path.resolve() != path or not path.is_file():
            raise ValueError("the video was moved or replaced by a link since the server began")
        return FileResponse(path, media_type="video/mp4", headers=HEADERS)

    routes = [
        Route("/", page),
        Route("/next", refusing(next_task)),
        Route("/answer", refusing(answer), methods=["POST"]),
        Route("/video/{task:number}/{place:number}", refusing(video)),
    ]
    return application(routes, hosts)


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
