"""What raters said: one CSV a rater, written whole after every answer; and who is asked what next."""

import csv
import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sfv.files import claim_folder, write_bytes, write_json
from sfv.report.rating.videos import Video
from sfv.rng import seed_of
from sfv.texts import read_text

CRITERIA = {
    "quality": "Sharp, natural pictures without artefacts.",
    "coherence": "Places and things stay the same, also when the video comes back to them.",
    "actions": "What happens is what the actions say.",
}
"""The paper has three criteria in [0, 1]; the wording is ours."""

MARKER = "rating.json"
FIELDS = ("rater", "episode", "system", "shown_at", *CRITERIA, "video_sha256")
RATER = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


@dataclass(frozen=True)
class Answer:
    """How one rater judged one video: a score in [0, 1] for each criterion, in their order."""

    rater: str
    video: tuple[str, str]
    scores: tuple[float, ...]


class Ratings:
    """A folder of ratings of fixed videos.

    Args:
        folder: new, or one of the same videos and seed.
        videos: what is rated.
        together: videos of one episode that a rater sees at a time.
        seed: of the order, which every rater has their own of.

    Raises:
        FileExistsError: the folder belongs to other videos.
        ValueError: a setting is out of range, or a CSV was changed by hand into nonsense.
    """

    def __init__(self, folder: Path, videos: Sequence[Video], together: int, seed: int) -> None:
        if together < 1:
            raise ValueError(f"--together is {together}; show 1 video at a time, or more")
        self.folder, self.seed, self.together = folder, seed, together
        self.videos = {video.key: video for video in videos}
        claim_folder(folder, MARKER, "a folder of ratings")
        _claim(folder / MARKER, {**_described(videos), "together": together, "seed": seed})

    def tasks(self, rater: Any) -> list[list[Video]]:
        """All that a rater is asked, in their order: videos of one episode, side by side.

        Each video comes once; which ones stand together, on which side and when is drawn for each rater.
        """
        rng = np.random.default_rng(seed_of(self.seed, "rating-order", check_rater(rater)))
        tasks = []
        for episode in sorted({video.episode for video in self.videos.values()}):
            shown = [video for video in self.videos.values() if video.episode == episode]
            shown = [shown[i] for i in rng.permutation(len(shown))]
            tasks += [shown[i : i + self.together] for i in range(0, len(shown), self.together)]
        return [tasks[i] for i in rng.permutation(len(tasks))]

    def answers(self, rater: Any) -> list[Answer]:
        """What a rater has answered so far."""
        path = self._file(rater)
        return read_answers(path) if path.is_file() else []

    def num_done(self, rater: Any) -> int:
        """Tasks that a rater has answered; the next one has this number."""
        answered = {answer.video for answer in self.answers(rater)}
        done = [{video.key for video in task} <= answered for task in self.tasks(rater)]
        return done.index(False) if False in done else len(done)

    def add(self, rater: Any, task: int, scores: Any) -> None:
        """Keep the scores of a task.

        Args:
            rater: who.
            task: its number in their order.
            scores: as they came in: should be a list a video, of a number in [0, 1] a criterion.

        Raises:
            ValueError: it is not the task that comes next, or scores are missing or out of range.
        """
        due = self.num_done(rater)
        tasks = self.tasks(rater)
        if task != due or due == len(tasks):
            raise ValueError(f"task {task} is not the next one of {rater}, which is {due}")
        check_scores(scores, len(tasks[task]))
        known = self._file(rater).read_bytes() if due else f"{','.join(FIELDS)}\n".encode()
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        for place, (video, values) in enumerate(zip(tasks[task], scores, strict=True)):
            shown_at = f"{task}.{place}"
            writer.writerow([rater, *video.key, shown_at, *values, video.sha256])
        write_bytes(self._file(rater), known + text.getvalue().encode())

    def _file(self, rater: Any) -> Path:
        return self.folder / f"{check_rater(rater)}.csv"


def check_rater(rater: Any) -> str:
    """Return the rater's name.

    Raises:
        ValueError: it could be mistaken for something else in a file's name or a table.
    """
    if not isinstance(rater, str) or not RATER.fullmatch(rater):
        raise ValueError(
            f"the rater is {rater!r:.60}; allowed are 1 to 32 small letters, digits, - and _"
        )
    return rater


def check_scores(scores: Any, num_videos: int) -> None:
    """Check that there is a number in [0, 1] for each video and criterion.

    Raises:
        ValueError: there is not.
    """
    whole = isinstance(scores, list | tuple) and len(scores) == num_videos
    whole = whole and all(isinstance(s, list | tuple) and len(s) == len(CRITERIA) for s in scores)
    if not whole:
        raise ValueError(
            f"the scores are {scores!r:.60}; wanted is a list of {len(CRITERIA)} for each of "
            f"{num_videos} videos"
        )
    for score in (score for video in scores for score in video):
        is_number = isinstance(score, int | float) and not isinstance(score, bool)
        if not is_number or not 0 <= score <= 1:
            raise ValueError(f"a score is {score!r:.60}; allowed are numbers from 0 to 1")


def read_answers(path: Path) -> list[Answer]:
    """Read one rater's CSV.

    Raises:
        ValueError: names the line that is not as it was written.
    """
    found = []
    for line, row in enumerate(csv.DictReader(io.StringIO(read_text(path))), start=2):
        try:
            scores = tuple(float(row[name]) for name in CRITERIA)
            rater, video = check_rater(row["rater"]), (row["episode"], row["system"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {line}: {error}; was it edited?") from error
        if not all(math.isfinite(score) and 0 <= score <= 1 for score in scores):
            raise ValueError(f"{path}, line {line}: scores {scores} are outside 0 to 1")
        found.append(Answer(rater, video, scores))
    return found


def _described(videos: Sequence[Video]) -> dict[str, Any]:
    return {
        "criteria": CRITERIA,
        "videos": [
            {"episode": video.episode, "system": video.system, "sha256": video.sha256}
            for video in videos
        ],
    }


def _claim(path: Path, content: dict[str, Any]) -> None:
    if not path.exists():
        write_json(path, content)
        return
    known = json.loads(path.read_text())
    different = [name for name in content if known.get(name) != content[name]]
    if different:
        raise FileExistsError(
            f"{path.parent} holds ratings with other {', '.join(different)}; give another --out, or the "
            "folders and settings of then to go on"
        )
