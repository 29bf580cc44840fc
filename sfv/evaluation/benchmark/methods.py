"""Rows of a benchmark: no memory, kinds of memory, baselines that remember otherwise, and controls."""

from dataclasses import dataclass, replace
from typing import Literal

from sfv.evaluation.return_walks import Order, Whose
from sfv.fast.addressed_learner import AddressedSettings
from sfv.fast.settings import FastSettings
from sfv.generation.settings import GenerationSettings
from sfv.types import MemoryKind

Protocol = Literal["return", "open"]
"""`return`: the true way out is seen and learned, the way back is generated. `open`: only the first
chunk is true."""
PROTOCOLS: tuple[Protocol, ...] = ("return", "open")

Context = Literal["newest", "long", "retrieval"]
"""What a chunk follows: f_p frames; as many as the compute of fast learning buys; f_p frames and,
before them, the past chunk at the nearest pose."""

Made = Literal["sampled", "read", "decoded"]
"""Where frames come from: Φ samples them; an addressed memory says them, without Φ; or they are the truth,
through the codec and back."""

BASE = "none"
DECODED = "decoded_truth"
CONTROLS = ("other_walk", "other_scene", "shuffled")


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Args:
        fast: how Θ learns; None: no temporal LoRA.
        context: what a chunk follows.
        memory: whose memory a walk goes back with.
        order: in which order the way out is learned.
        addressed: how the model's addressed memory is written; None: it has none in this row.
        made: where frames come from.

    Raises:
        ValueError: parts that do not go together.
    """

    fast: FastSettings | None = None
    context: Context = "newest"
    memory: Whose = "own"
    order: Order = "walked"
    addressed: AddressedSettings | None = None
    made: Made = "sampled"

    def __post_init__(self) -> None:
        if self.fast is not None and self.fast.own_chunks and self.context != "newest":
            raise ValueError(
                f"a row with fast learning and context {self.context!r} that learns own chunks: set "
                "fast.own_chunks: false, or leave fast out, or take context newest"
            )
        if self.kind is None and (self.memory, self.order) != ("own", "walked"):
            raise ValueError(
                f"a row without fast learning has no memory {self.memory!r} in order {self.order!r}; "
                "give it fast settings"
            )
        plain = (self.fast, self.context, self.order) == (None, "newest", "walked")
        if self.addressed is not None and not plain:
            raise ValueError(
                "a row with an addressed memory takes neither fast settings nor another context or order; "
                "leave them out"
            )
        if self.made != "sampled" and (self.made == "read") != (self.addressed is not None):
            raise ValueError(
                f"a row that is {self.made}: read needs an addressed memory, decoded has no memory; give "
                "or leave out addressed"
            )
        if self.made == "decoded" and (self.fast is not None or self.context != "newest"):
            raise ValueError("a row that is decoded has neither fast settings nor another context")

    @property
    def kind(self) -> MemoryKind | None:
        """Kind of memory; None: none."""
        if self.addressed is not None:
            return "addressed"
        return None if self.fast is None else "temp_lora"

    @property
    def is_guarded(self) -> bool:
        """Whether a guard may undo what is learned."""
        return self.fast is not None and self.fast.guard is not None

    @property
    def protocols(self) -> tuple[Protocol, ...]:
        """Controls need a true way out, and so does a memory of true chunks in another context."""
        in_context = self.fast is not None and self.context != "newest"
        plain = (self.memory, self.order) == ("own", "walked") and not in_context
        return PROTOCOLS if plain and self.made != "read" else ("return",)

    def settings(self, shared: GenerationSettings) -> GenerationSettings:
        """Settings with this row's memory; what a memory says of itself is never written."""
        if self.fast is not None:
            return replace(shared, fast=self.fast)
        if self.addressed is None:
            return shared
        own = self.addressed.own_chunks and self.made != "read"
        return replace(shared, addressed=replace(self.addressed, own_chunks=own))


def standard(
    fast: FastSettings,
    addressed: AddressedSettings = AddressedSettings(),  # noqa: B008 (frozen)
) -> dict[str, Method]:
    """The rows that every benchmark knows, by name.

    Args:
        fast: of the row `fast`; baselines and controls take as many steps.
        addressed: of the rows with an addressed memory, for models that have one.
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
        "addressed": Method(addressed=addressed),
        "other_addressed": Method(addressed=addressed, memory="other_walk"),
        "readout": Method(addressed=addressed, made="read"),
        DECODED: Method(made="decoded"),
    }
