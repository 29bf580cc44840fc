"""Minecraft's keys and mouse in words, for one chunk of ticks."""

from dataclasses import dataclass, replace

KEYS = {
    "key.keyboard.w": "forward",
    "key.keyboard.s": "back",
    "key.keyboard.a": "left",
    "key.keyboard.d": "right",
    "key.keyboard.space": "jump",
    "key.keyboard.left.shift": "sneak",
    "key.keyboard.left.control": "sprint",
    "key.keyboard.q": "drop",
    "key.keyboard.e": "inventory",
    "key.keyboard.f": "swap",
}
"""The bindings of the recordings."""

DEGREES_PER_COUNT = 0.15
"""Of the mouse: the factor of the data set's own loader."""
TURN_DEGREES = 10.0
"""Less than this in a chunk is not worth a word."""
HELD_SHARE = 0.5
"""Share of a chunk's ticks for which a key of movement has to be held to be worth a word."""


@dataclass(frozen=True)
class Tick:
    """One twentieth of a second.

    Args:
        held: names of the held controls.
        dx: counts of the mouse to the right.
        dy: counts of the mouse down.
        menu: a menu is open.
        hotbar: the chosen slot, from 0.
        new_attack: the attack button went down in this tick.
    """

    held: frozenset[str]
    dx: float
    dy: float
    menu: bool = False
    hotbar: int = 0
    new_attack: bool = False

    def without_attack(self) -> "Tick":
        """The same with the attack button up."""
        return replace(self, held=self.held - {"attack"})


def words(ticks: list[Tick]) -> str:
    """Say in words what was done in some ticks: movement, turning, then hands."""
    said = [*_movement(ticks), *_turning(ticks), *_hands(ticks)]
    if not said:
        return "stand still"
    return said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"


def _share(ticks: list[Tick], name: str) -> float:
    return sum(name in tick.held for tick in ticks) / len(ticks)


def _movement(ticks: list[Tick]) -> list[str]:
    """Opposite keys cancel each other out."""
    ahead = _share(ticks, "forward") - _share(ticks, "back")
    aside = _share(ticks, "right") - _share(ticks, "left")
    gait = "walk"
    if _share(ticks, "sneak") >= HELD_SHARE:
        gait = "sneak"
    elif _share(ticks, "sprint") >= HELD_SHARE:
        gait = "sprint"
    said = []
    if abs(ahead) >= HELD_SHARE:
        said.append(f"{gait} {'forward' if ahead > 0 else 'backward'}")
    if abs(aside) >= HELD_SHARE:
        said.append(f"step {'right' if aside > 0 else 'left'}")
    if any("jump" in tick.held for tick in ticks):
        said.append("jump")
    return said


def _turning(ticks: list[Tick]) -> list[str]:
    right = sum(tick.dx for tick in ticks) * DEGREES_PER_COUNT
    down = sum(tick.dy for tick in ticks) * DEGREES_PER_COUNT
    said = []
    if abs(right) >= TURN_DEGREES:
        said.append(f"turn {'right' if right > 0 else 'left'}")
    if abs(down) >= TURN_DEGREES:
        said.append(f"look {'down' if down > 0 else 'up'}")
    return said


def _hands(ticks: list[Tick]) -> list[str]:
    """A click counts as well as a held button."""
    names = (("attack", "attack"), ("use", "use the item"), ("drop", "drop the item"))
    said = [text for name, text in names if any(name in tick.held for tick in ticks)]
    if ticks[0].hotbar != ticks[-1].hotbar:
        said.append("switch the item")
    return said
