"""Rows of a benchmark: no memory, fast learning, baselines that remember otherwise, and controls."""

from dataclasses import dataclass, replace
from typing import Literal

from sfv.evaluation.return_walks import Order, Whose
from sfv.fast.settings import FastSettings

Protocol = Literal["return", "open"]
"""`return`: the true way out is seen and learned, the way back is generated. `open`: only the first
chunk is true."""
PROTOCOLS: tuple[Protocol, ...] = ("return", "open")

Context = Literal["newest", "long", "retrieval"]
"""What a chunk follows: f_p frames; as many as the compute of fast learning buys; f_p frames and,
before them, the past chunk at the nearest pose."""

BASE = "none"
CONTROLS = ("other_walk", "other_scene", "shuffled")


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Args:
        fast: how Θ learns; None: without memory.
        context: what a chunk follows.
        memory: whose memory a walk goes back with.
        order: in which order the way out is learned.

    Raises:
        ValueError: parts that do not go together.
    """

    fast: FastSettings | None = None
    context: Context = "newest"
    memory: Whose = "own"
    order: Order = "walked"

    def __post_init__(self) -> None:
        if self.fast is not None and self.fast.own_chunks and self.context != "newest":
            raise ValueError(
                f"a row with fast learning and context {self.context!r} that learns own chunks: set "
                "fast.own_chunks: false, or leave fast out, or take context newest"
            )
        if self.fast is None and (self.memory, self.order) != ("own", "walked"):
            raise ValueError(
                f"a row without fast learning has no memory {self.memory!r} in order {self.order!r}; "
                "give it fast settings"
            )

    @property
    def protocols(self) -> tuple[Protocol, ...]:
        """Controls need a true way out, and so does a memory of true chunks in another context."""
        in_context = self.fast is not None and self.context != "newest"
        plain = (self.memory, self.order) == ("own", "walked") and not in_context
        return PROTOCOLS if plain else ("return",)


def standard(fast: FastSettings) -> dict[str, Method]:
    """The rows that every benchmark knows, by name.

    Args:
        fast: of the row `fast`; baselines and controls take as many steps.
    """
    return {
        BASE: Method(),
        "fast": Method(fast),
        "long_context": Method(context="long"),
        "retrieval": Method(context="retrieval"),
        "retrieval_fast": Method(replace(fast, own_chunks=False), context="retrieval"),
        "text_style": Method(replace(fast, rule="text_style")),
        "whole_history": Method(replace(fast, rule="whole_history")),
        "single_frame": Method(replace(fast, rule="single_frame")),
        "other_walk": Method(fast, memory="other_walk"),
        "other_scene": Method(fast, memory="other_scene"),
        "shuffled": Method(fast, order="shuffled"),
    }
