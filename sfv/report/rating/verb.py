"""`sfv rate`: people judge videos without knowing who made them."""

from pathlib import Path

from sfv.extras import require
from sfv.files import locked, write_json
from sfv.report.address import check_port
from sfv.report.html import write_report
from sfv.report.rating.agreement import MIN_RATERS, summarise
from sfv.report.rating.answers import Ratings
from sfv.report.rating.videos import find_videos
from sfv.report.table import format_table


def rate(
    folders: list[Path] = [],  # noqa: B006 (read only)
    out: Path = Path("ratings"),
    together: int = 2,
    seed: int = 0,
    host: str = "127.0.0.1",
    port: int = 8010,
    summary: bool = False,
) -> None:
    """Serve a page on which people rate videos blindly, or sum up what they said.

    Each rater sees every video once, beside other systems' videos of the same episode, in an order of
    their own and without names, and gives three scores from 0 to 1. The folder --out gets RATER.csv after
    every answer; a rater who comes back goes on where they stopped. With --summary: the human column with
    intervals over episodes, and Krippendorff's alpha; also as report.json and report.html.

    Args:
        folders: one a system, with EPISODE.mp4 (and EPISODE.txt, one action a line); or a folder of
            `sfv rollout`, whose rows are systems.
        out: the folder of ratings.
        together: videos at a time; 1 shows single ones.
        seed: of the orders.
        host: address to listen on; others than this computer's own let everybody in who reaches it.
        port: of the page.
        summary: sum up, serve nothing.
    """
    if summary:
        print("\n".join(sum_up(out, seed)))
        return
    check_port(port)
    if not folders:
        raise ValueError("no folder of videos; give one a system: sfv rate FOLDER... --out ratings")
    ratings = Ratings(out, find_videos(folders), together, seed)
    systems = {video.system for video in ratings.videos.values()}
    print(f"{len(ratings.videos)} videos of {len(systems)} systems; answers go to {out}")
    with locked(out, "another sfv rate serves these ratings; use its page, or end it"):
        serve(ratings, host, port)


def serve(ratings: Ratings, host: str, port: int) -> None:
    """Serve until interrupted.

    Raises:
        ValueError: the extra `play` is not installed.
        OSError: the port is taken.
    """
    require("play", "rating pages", "starlette", "uvicorn")
    from sfv.report import web
    from sfv.report.rating.server import make_app

    web.serve(lambda hosts, _: make_app(ratings, hosts), host, port)


def sum_up(folder: Path, seed: int) -> list[str]:
    """Write report.json and report.html of a folder of ratings and return what to print."""
    report = summarise(folder, seed)
    write_json(folder / "report.json", report)
    said = report["settings"]
    alphas = ", ".join(
        f"{name} {'–' if value is None else f'{value:.3f}'}"
        for name, value in said["alpha"].items()
    )
    notes = [
        f"{len(said['raters'])} raters. Krippendorff's alpha (interval scale; 1 is agreement, 0 chance): "
        f"{alphas}. Intervals are over episodes."
    ]
    few = said[f"videos with fewer than {MIN_RATERS} raters"]
    if few:
        notes.append(f"{few} of {said['videos']} videos have fewer than {MIN_RATERS} raters.")
    write_report(folder / "report.html", report, title="Human rating", notes=notes)
    return [format_table(report), *notes, f"report: {folder / 'report.html'}"]
