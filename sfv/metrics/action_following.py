"""Does a generated chunk show the action that was asked for?

An inverse model (`ActionReader`), trained on true videos, reads the action back from the frames. Its
reading of the true video is the ceiling: what it misreads there says nothing about the generator.
The floor is chance: its own readings, put on chunks at random.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from sfv.metrics.frame import lpips
from sfv.metrics.video import check_pair, check_video
from sfv.metrics.video_mean import VideoMean

Spans = Sequence[tuple[str, int, int]]
"""What was asked for: (action, first frame, one past the last frame), one a chunk."""


@runtime_checkable
class ActionReader(Protocol):
    """Reads actions from frames; `name`, `sha256` and `resize` go into the passport."""

    actions: tuple[str, ...]
    name: str
    sha256: str
    resize: str

    def __call__(self, video: Float[Tensor, "t 3 height width"]) -> Float[Tensor, "pairs a"]:
        """Probability of every action between each frame and the next."""
        ...


def vote(probabilities: Float[Tensor, "pairs a"]) -> int:
    """The action that most pairs of frames show; among equals the one of larger mean probability."""
    votes = torch.bincount(probabilities.argmax(dim=1), minlength=probabilities.shape[1])
    return int((votes + probabilities.mean(dim=0) / 2).argmax())  # a mean is at most one vote


def check_spans(spans: Spans, num_frames: int, actions: Sequence[str]) -> None:
    """Refuse chunks outside the video, without a pair of frames, or of unknown actions.

    Raises:
        ValueError: names the chunk.
    """
    for action, start, stop in spans:
        if not 0 <= start < stop <= num_frames or stop - max(0, start - 1) < 2:
            raise ValueError(
                f"action {action!r} in frames {start} to {stop} of a video of {num_frames} frames; "
                "0 <= start < stop <= frames is needed, and a pair of frames to read"
            )
        if action not in actions:
            raise ValueError(
                f"action {action!r} is not known to the reader, which reads {list(actions)}: train "
                "one that knows it, or leave the episode out"
            )


def read_chunks(
    video: Shaped[Tensor, "t 3 height width"], spans: Spans, reader: ActionReader
) -> list[str]:
    """The action read from each chunk, from the pair that leads into it to its last pair.

    Raises:
        ValueError: as `check_spans`.
    """
    frames = check_video(video)
    check_spans(spans, len(frames), reader.actions)
    if not spans:
        return []
    probabilities = reader(frames)
    # Pair i leads from frame i to i + 1, so frame `start` is led into by pair start - 1.
    parts = [probabilities[max(0, start - 1) : stop - 1] for _, start, stop in spans]
    return [reader.actions[vote(part)] for part in parts]


def share_read(read: Sequence[str], asked: Sequence[str]) -> float:
    """Share of chunks whose action was read back; NaN without chunks."""
    if not asked:
        return float("nan")
    return sum(a == b for a, b in zip(read, asked, strict=True)) / len(asked)


def chance(read: Sequence[str], asked: Sequence[str]) -> float:
    """What `share_read` is on average when the readings are put on the chunks at random."""
    if not asked:
        return float("nan")
    readings, wanted = Counter(read), Counter(asked)
    return sum(readings[action] * num for action, num in wanted.items()) / len(asked) ** 2


@dataclass(frozen=True)
class Swap:
    """One chunk made twice from one context and one noise, under two actions.

    Attributes:
        context: true frames before it; the last of them leads into the chunk.
        asked: the action of the episode.
        other: the action put in its place.
        made: the chunk under `asked`.
        swapped: the chunk under `other`.
    """

    context: Shaped[Tensor, "t 3 height width"]
    asked: str
    other: str
    made: Shaped[Tensor, "t2 3 height width"]
    swapped: Shaped[Tensor, "t2 3 height width"]


@dataclass(frozen=True)
class SwapScore:
    """What a swap did.

    Attributes:
        obeyed: 1 if the swapped chunk is read as the other action, else 0.
        kept: 1 if it is still read as the first action: the action was ignored.
        read_asked: 1 if the chunk under the first action is read as that.
        change: mean LPIPS between the two chunks; 0 says that the action changes nothing.
    """

    obeyed: float
    kept: float
    read_asked: float
    change: float


def score_swap(swap: Swap, reader: ActionReader) -> SwapScore:
    """Read both chunks and compare them.

    Raises:
        ValueError: the two actions are equal, or the chunks do not fit.
    """
    if swap.asked == swap.other:
        raise ValueError(f"both chunks were made under {swap.asked!r}; swap it for another action")
    check_pair(swap.made, swap.swapped)
    first, second = (
        _read_one(swap.context[-1:], chunk, action, reader)
        for chunk, action in ((swap.made, swap.asked), (swap.swapped, swap.other))
    )
    change = float(lpips(swap.made[None], swap.swapped[None]).mean())
    return SwapScore(
        obeyed=float(second == swap.other),
        kept=float(second == swap.asked),
        read_asked=float(first == swap.asked),
        change=change,
    )


def _read_one(last: Tensor, chunk: Tensor, action: str, reader: ActionReader) -> str:
    return read_chunks(torch.cat([last, chunk]), [(action, 1, 1 + len(chunk))], reader)[0]


class ActionAccuracy(VideoMean):
    """Mean over videos of the share of chunks whose action is read back.

    Args:
        reader: an inverse model.
    """

    higher_is_better = True

    def __init__(self, reader: ActionReader) -> None:
        super().__init__()
        self.reader = reader

    def update(self, video: Tensor, spans: Sequence[Spans]) -> None:
        """Add a batch, `b t 3 height width`, with what was asked for in each video."""
        for one, chunks in zip(video, spans, strict=True):
            read = read_chunks(one, chunks, self.reader)
            share = share_read(read, [action for action, _, _ in chunks])
            self._add(torch.tensor([[share]], dtype=torch.float64))
