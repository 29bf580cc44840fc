"""The human column: means over raters and episodes, intervals, and how far raters agree."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from sfv.files import read_json
from sfv.metrics.protocol import (
    MetricValue,
    Passport,
    Row,
    mean_value,
    paired_difference,
    report_json,
)
from sfv.report.rating.answers import CRITERIA, MARKER, Answer, read_answers

MIN_RATERS = 3
"""The paper has at least three a video."""

HUMAN = "human"


def krippendorff_alpha(units: Sequence[Sequence[float | int]]) -> float:
    """Krippendorff's alpha for scores on an interval scale.

    1 is agreement, 0 is what chance gives, below 0 is systematic disagreement (Krippendorff 2011,
    "Computing Krippendorff's Alpha-Reliability", difference function (a - b)²).

    Args:
        units: the scores that each rated thing got; things with fewer than two are left out.

    Returns:
        alpha; NaN where fewer than two things can be compared or all scores are equal.
    """
    pairable = [list(scores) for scores in units if len(scores) > 1]
    values = [score for scores in pairable for score in scores]
    num = len(values)
    if len(pairable) < 2:
        return math.nan
    observed = math.fsum(_spread(scores) / (len(scores) - 1) for scores in pairable) / num
    expected = _spread(values) / (num * (num - 1))
    return 1 - observed / expected if expected else math.nan


def _spread(values: Sequence[float | int]) -> float:
    """Sum of (a - b)² over all ordered pairs."""
    mean = math.fsum(values) / len(values)
    return 2 * len(values) * math.fsum((value - mean) ** 2 for value in values)


def summarise(folder: Path, seed: int = 0) -> dict[str, Any]:
    """Make a report, as `report.json`, of a folder of ratings: one row a system.

    The intervals are over episodes; what one rater's taste adds is in alpha.

    Raises:
        ValueError: nobody has rated anything, or a CSV cannot be read.
        FileNotFoundError: it is no folder of ratings.
    """
    if not (folder / MARKER).is_file():
        raise FileNotFoundError(f"{folder} is no folder of ratings ({MARKER} is missing)")
    asked = read_json(folder / MARKER)
    answers = [a for path in sorted(folder.glob("*.csv")) for a in read_answers(path)]
    if not answers:
        raise ValueError(f"{folder}: nobody has rated yet; start sfv rate and open its page")
    videos = [(video["episode"], video["system"]) for video in asked["videos"]]
    scores = _by_video(answers)
    values = {
        system: _values(
            [scores[key] for key in videos if key[1] == system], _passport(asked, answers, seed)
        )
        for system in sorted({system for _, system in videos})
    }
    num = len({episode for episode, _ in videos})
    report = report_json({s: Row(num, found) for s, found in values.items()}, {})
    report["differences"] = _differences(values)
    report["settings"] = {
        "raters": sorted({answer.rater for answer in answers}),
        "videos": len(videos),
        "videos with fewer than 3 raters": sum(len(scores[v]) < MIN_RATERS for v in videos),
        "alpha": {name: _rounded(value) for name, value in agreement(scores).items()},
        "seed": seed,
    }
    return report


def agreement(scores: Mapping[Any, Sequence[Answer]]) -> dict[str, float]:
    """Alpha of each criterion and of their mean."""
    found = {
        name: krippendorff_alpha([[a.scores[i] for a in given] for given in scores.values()])
        for i, name in enumerate(CRITERIA)
    }
    means = [[_mean(a.scores) for a in given] for given in scores.values()]
    return {HUMAN: krippendorff_alpha(means), **found}


def _by_video(answers: Sequence[Answer]) -> dict[tuple[str, str], list[Answer]]:
    found: dict[tuple[str, str], list[Answer]] = defaultdict(list)
    for answer in answers:
        found[answer.video].append(answer)
    return found


def _values(episodes: Sequence[Sequence[Answer]], passport: Passport) -> dict[str, MetricValue]:
    """The mean over raters of every episode, averaged; NaN for an episode that nobody rated."""
    from dataclasses import replace

    columns = {HUMAN: [[_mean(a.scores) for a in given] for given in episodes]}
    for i, name in enumerate(CRITERIA):
        columns[f"{HUMAN}_{name}"] = [[a.scores[i] for a in given] for given in episodes]
    return {
        name: mean_value([_mean(scores) for scores in column], replace(passport, metric=name))
        for name, column in columns.items()
    }


def _passport(asked: Mapping[str, Any], answers: Sequence[Answer], seed: int) -> Passport:
    num = len({answer.rater for answer in answers})
    settings = (
        f"{num} raters, criteria {', '.join(asked['criteria'])}, {asked['together']} at a time"
    )
    return Passport(HUMAN, "long", len(asked["videos"]), settings=settings, seed=seed)


def _differences(values: Mapping[str, Mapping[str, MetricValue]]) -> list[dict[str, Any]]:
    found = []
    for against, row in combinations(values, 2):
        for metric, value in values[row].items():
            gap = paired_difference(values[against][metric], value)
            if gap.low is not None and gap.high is not None:
                ends = {"value": gap.value, "low": gap.low, "high": gap.high, "n": gap.count}
                found.append({"metric": metric, "row": row, "against": against, **ends})
    return found


def _mean(values: Sequence[float | int]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _rounded(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None
