"""Whether learning a chunk did harm: the test that decides if Θ rolls back."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """What learning one chunk did to losses; NaN where not measured.

    Args:
        trained: mean training loss.
        before: held-out loss on the pair, before it was learned.
        after: the same, afterwards.
        first: held-out loss on the episode's first pair, now.
        reference: the same before all learning.
    """

    trained: float
    before: float
    after: float
    first: float
    reference: float


def did_harm(outcome: Outcome, margin: float, measured: bool, finite: bool) -> bool:
    """Whether to undo it.

    The newest pair shows a step that was too large. The first one, held against its loss before all
    learning, shows a slow collapse, in which each update still suits the frames that the last one spoiled.

    Args:
        outcome: the losses.
        margin: the share by which a loss may grow.
        measured: held-out losses were taken.
        finite: Θ holds only numbers.
    """
    if not finite or not math.isfinite(outcome.trained):
        return True
    if not measured:
        return False
    if not (math.isfinite(outcome.after) and math.isfinite(outcome.first)):
        return True
    factor = 1 + margin
    return outcome.after > factor * outcome.before or outcome.first > factor * outcome.reference
