"""What a visitor may tell the model, and which keys say it."""

from collections.abc import Sequence
from typing import Any

from sfv.play.session import MAX_ACTION

ARROWS = {
    "forward": ("ArrowUp", "w"),
    "backward": ("ArrowDown", "s"),
    "left": ("ArrowLeft", "a"),
    "right": ("ArrowRight", "d"),
}
TURNS = ("turn", "steer", "rotate", "look")
MAX_OFFERED = 12


class Actions:
    """The actions of a model.

    Args:
        text: its text encoder; one with a list of `actions` takes no others.
        seen: actions of the episodes at hand; an encoder that reads any text gets these as buttons.
    """

    def __init__(self, text: Any, seen: Sequence[str] = ()) -> None:
        known: Sequence[str] | None = getattr(text, "actions", None)
        self.takes_any = known is None
        offered = dict.fromkeys(seen if known is None else known)
        self.offered = [action for action in offered if action]
        if known is None:
            self.offered = self.offered[:MAX_OFFERED]

    def check(self, given: Any) -> str:
        """Take an action from outside.

        Raises:
            ValueError: it is no text, or none that the model knows.
        """
        if not isinstance(given, str) or not given.strip():
            raise ValueError(f"the action is {given!r:.60}; wanted is a text")
        action = given.strip()
        if len(action) > MAX_ACTION or not action.isprintable():
            raise ValueError(
                f"the action has {len(action)} characters; allowed are {MAX_ACTION} printable ones"
            )
        if not self.takes_any and action not in self.offered:
            raise ValueError(
                f"this model does not know the action {action!r:.60}; it knows {', '.join(self.offered)}"
            )
        return action

    def offered_keys(self) -> list[list[str]]:
        """The keys of each action offered: a digit, and arrows where the name says a direction."""
        found = [[str(i + 1)] if i < 9 else [] for i in range(len(self.offered))]
        for direction, keys in ARROWS.items():
            meant = [i for i, action in enumerate(self.offered) if direction in action.split()]
            if meant:
                first = min(meant, key=lambda i: _rank(self.offered[i]))
                found[first] = [*keys, *found[first]]
        return found


def _rank(action: str) -> tuple[bool, int]:
    """Turning comes before stepping aside, and short names before long ones."""
    words = action.split()
    return not any(word in TURNS for word in words), len(words)
