"""Scores of action following: actions read back, and the swap test."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from sfv.metrics.action_following import (
    ActionReader,
    Spans,
    Swap,
    SwapScore,
    chance,
    check_spans,
    read_chunks,
    score_swap,
    share_read,
)
from sfv.metrics.protocol import MetricValue, Passport, Protocol, mean_value
from sfv.metrics.suite_common import Progress, check_lists, lpips_passport, quiet, videos_hash

_READING = "majority over the frame pairs of a chunk"


def score_actions(
    videos: Sequence[Tensor],
    asked: Sequence[Spans],
    reader: ActionReader,
    *,
    reference: Sequence[Tensor] | None = None,
    protocol: Protocol = "long",
    context: str = "",
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, MetricValue]:
    """Share of chunks whose action an inverse model reads back.

    `action_accuracy`, with `action_accuracy_floor` (its readings put on the episode's chunks at random)
    and, with the true videos, `action_accuracy_ceiling` (the true video read in the same way).

    Args:
        videos: one an episode.
        asked: for each episode the generated chunks, as (action, first frame, one past the last).
        reader: the inverse model.
        reference: the true videos, at least as long.
        protocol: what was generated.
        context: which frames are true, for the passports.
        seed: for the passports.
        progress: told what is measured.

    Raises:
        ValueError: lists or chunks that do not fit, or actions that the reader does not know.
    """
    check_lists(videos, asked, "videos", "lists of chunks")
    for i, (video, spans) in enumerate(zip(videos, asked, strict=True)):
        try:
            check_spans(spans, len(video), reader.actions)
        except ValueError as error:
            raise ValueError(f"episode {i}: {error}") from None
    base = replace(
        _passport(reader, len(videos), seed), protocol=protocol, context=context, settings=_READING
    )
    tell = progress or quiet
    true = None
    if reference is not None:
        check_lists(videos, reference, "videos", "reference videos")
        true = [b[: len(a)] for a, b in zip(videos, reference, strict=True)]
        base = replace(base, reference_sha256=videos_hash(true))
    actions = [[action for action, _, _ in spans] for spans in asked]
    read = _read_all("action_accuracy", videos, asked, reader, tell)
    found = {"action_accuracy": _shares(share_read, read, actions)}
    found["action_accuracy_floor"] = _shares(chance, read, actions)
    if true is not None:
        ceiling = _read_all("action_accuracy_ceiling", true, asked, reader, tell)
        found["action_accuracy_ceiling"] = _shares(share_read, ceiling, actions)
    return {name: mean_value(each, replace(base, metric=name)) for name, each in found.items()}


def score_swaps(
    swaps: Sequence[Sequence[Swap]],
    reader: ActionReader,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, MetricValue]:
    """The swap test: other action, same context and noise.

    `swap_obeyed`: share of swapped chunks that are read as the other action. `swap_kept`: share still
    read as the first one. `swap_read`: share of the chunks under the first action that are read as it.
    `swap_change`: LPIPS between the two chunks. All are means over each episode's swaps, then over
    episodes.

    Args:
        swaps: for each episode its swaps; an episode without any does not count.
        reader: the inverse model.
        seed: for the passports.
        progress: told what is measured.
    """
    tell = progress or quiet
    scores: list[list[SwapScore]] = []
    for i, of_episode in enumerate(swaps):
        tell("swaps", i, len(swaps))
        scores.append([score_swap(swap, reader) for swap in of_episode])
    tell("swaps", len(swaps), len(swaps))
    base = replace(
        _passport(reader, len(swaps), seed),
        context="true frames before each chunk; one noise for both actions",
        settings=_READING,
    )
    perceptual = replace(lpips_passport(base, "alex"), resize="none", settings="LPIPS between both")
    wanted: dict[str, tuple[Callable[[SwapScore], float], Passport]] = {
        "swap_obeyed": (lambda score: score.obeyed, base),
        "swap_kept": (lambda score: score.kept, base),
        "swap_read": (lambda score: score.read_asked, base),
        "swap_change": (lambda score: score.change, perceptual),
    }
    return {
        name: mean_value(
            [_mean([get(score) for score in each]) for each in scores],
            replace(passport, metric=name),
        )
        for name, (get, passport) in wanted.items()
    }


def _passport(reader: ActionReader, count: int, seed: int) -> Passport:
    return Passport(
        "",
        "next_chunk",
        count,
        seed=seed,
        network=reader.name,
        network_sha256=reader.sha256,
        resize=reader.resize,
    )


def _read_all(
    what: str,
    videos: Sequence[Tensor],
    asked: Sequence[Spans],
    reader: ActionReader,
    tell: Progress,
) -> list[list[str]]:
    found = []
    for i, (video, spans) in enumerate(zip(videos, asked, strict=True)):
        tell(what, i, len(videos))
        found.append(read_chunks(video, spans, reader))
    tell(what, len(videos), len(videos))
    return found


def _shares(
    share: Callable[[Sequence[str], Sequence[str]], float],
    read: Sequence[Sequence[str]],
    asked: Sequence[Sequence[str]],
) -> list[float]:
    return [share(a, b) for a, b in zip(read, asked, strict=True)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
