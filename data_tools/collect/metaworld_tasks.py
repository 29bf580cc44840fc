"""The tasks of Meta-World in words: what is handled, how, and what each phase is called.

The phases of a carrying task are: reach for the THING, grasp the THING, lift the THING, ACT, PLACE,
release the THING. Tasks that slide, press, turn or open something have one word for it instead. All
phases are canonical texts of `data_tools.language`.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["carry", "tool", "slide", "work", "reach"]


@dataclass(frozen=True)
class Task:
    """One task.

    Args:
        sentence: the whole task, one imperative sentence.
        thing: what the hand goes to, without the article.
        kind: `carry` lifts the thing to a place, `tool` uses it on a second thing, `slide` moves it
            over the table, `work` moves a part of a machine, `reach` handles nothing.
        act: what is done with the thing; for `tool`, once the second thing moves.
        place: the end of a `carry`, when the thing goes down again; for `tool` the way to the
            second thing.
    """

    sentence: str
    thing: str
    kind: Kind
    act: str
    place: str = ""


TASKS = {
    "assembly": Task(
        "put the ring on the peg", "ring", "carry",
        "carry the ring to the peg", "place the ring on the peg",
    ),
    "basketball": Task(
        "put the basketball through the hoop", "basketball", "carry",
        "carry the basketball to the hoop", "place the basketball in the hoop",
    ),
    "bin-picking": Task(
        "move the cube to the other bin", "cube", "carry",
        "carry the cube to the other bin", "place the cube in the other bin",
    ),
    "box-close": Task(
        "close the box with its lid", "lid", "carry",
        "carry the lid to the box", "place the lid on the box",
    ),
    "button-press": Task("press the button", "button", "work", "press the button"),
    "button-press-topdown": Task(
        "press the button from above", "button", "work",
        "press the button",
    ),
    "button-press-topdown-wall": Task(
        "press the button behind the wall from above", "button", "work",
        "press the button",
    ),
    "button-press-wall": Task(
        "press the button behind the wall", "button", "work",
        "press the button",
    ),
    "coffee-button": Task(
        "press the button of the coffee machine", "coffee machine button", "work",
        "press the coffee machine button",
    ),
    "coffee-pull": Task(
        "pull the mug from the coffee machine", "mug", "slide",
        "pull the mug from the coffee machine",
    ),
    "coffee-push": Task(
        "push the mug to the coffee machine", "mug", "slide",
        "push the mug to the coffee machine",
    ),
    "dial-turn": Task("turn the dial", "dial", "work", "turn the dial"),
    "disassemble": Task(
        "remove the ring from the peg", "ring", "carry",
        "remove the ring from the peg",
    ),
    "door-close": Task("close the door", "door", "work", "close the door"),
    "door-lock": Task("lock the door", "lock", "work", "lock the door"),
    "door-open": Task("open the door", "door handle", "work", "open the door"),
    "door-unlock": Task("unlock the door", "lock", "work", "unlock the door"),
    "drawer-close": Task("close the drawer", "drawer", "work", "close the drawer"),
    "drawer-open": Task("open the drawer", "drawer handle", "work", "open the drawer"),
    "faucet-close": Task("turn off the faucet", "faucet", "work", "turn off the faucet"),
    "faucet-open": Task("turn on the faucet", "faucet", "work", "turn on the faucet"),
    "hammer": Task(
        "hit the nail with the hammer", "hammer", "tool",
        "hit the nail", "carry the hammer to the nail",
    ),
    "hand-insert": Task(
        "put the block into the hole", "block", "carry",
        "carry the block to the hole", "place the block in the hole",
    ),
    "handle-press": Task("press the handle down", "handle", "work", "press the handle"),
    "handle-press-side": Task(
        "press the handle at the side down", "handle", "work",
        "press the handle",
    ),
    "handle-pull": Task("pull the handle up", "handle", "work", "pull the handle"),
    "handle-pull-side": Task(
        "pull the handle at the side up", "handle", "work",
        "pull the handle",
    ),
    "lever-pull": Task("lift the lever", "lever", "work", "lift the lever"),
    "peg-insert-side": Task(
        "put the peg into the hole at the side", "peg", "carry",
        "carry the peg to the hole", "place the peg in the hole",
    ),
    "peg-unplug-side": Task(
        "pull the peg from the socket", "peg", "slide",
        "pull the peg from the socket",
    ),
    "pick-out-of-hole": Task(
        "take the puck out of the hole", "puck", "carry",
        "carry the puck to the goal", "place the puck at the goal",
    ),
    "pick-place": Task(
        "carry the puck to the goal", "puck", "carry",
        "carry the puck to the goal", "place the puck at the goal",
    ),
    "pick-place-wall": Task(
        "carry the puck over the wall to the goal", "puck", "carry",
        "carry the puck to the goal", "place the puck at the goal",
    ),
    "plate-slide": Task(
        "push the plate into the net", "plate", "slide",
        "push the plate into the net",
    ),
    "plate-slide-back": Task(
        "pull the plate from the net", "plate", "slide",
        "pull the plate from the net",
    ),
    "plate-slide-back-side": Task(
        "pull the plate sideways from the net", "plate", "slide",
        "pull the plate from the net",
    ),
    "plate-slide-side": Task(
        "push the plate sideways into the net", "plate", "slide",
        "push the plate into the net",
    ),
    "push": Task("push the puck to the goal", "puck", "slide", "push the puck to the goal"),
    "push-back": Task(
        "pull the block to the goal", "block", "slide",
        "pull the block to the goal",
    ),
    "push-wall": Task(
        "push the puck around the wall to the goal", "puck", "slide",
        "push the puck to the goal",
    ),
    "reach": Task("reach for the goal", "goal", "reach", "reach for the goal"),
    "reach-wall": Task("reach over the wall for the goal", "goal", "reach", "reach for the goal"),
    "shelf-place": Task(
        "put the block on the shelf", "block", "carry",
        "carry the block to the shelf", "place the block on the shelf",
    ),
    "soccer": Task("push the ball into the net", "ball", "slide", "push the ball into the net"),
    "stick-pull": Task(
        "pull the thermos with the stick", "stick", "tool",
        "pull the thermos", "carry the stick to the thermos",
    ),
    "stick-push": Task(
        "push the thermos with the stick", "stick", "tool",
        "push the thermos", "carry the stick to the thermos",
    ),
    "sweep": Task(
        "push the block off the table", "block", "slide",
        "push the block off the table",
    ),
    "sweep-into": Task(
        "push the block into the hole", "block", "slide",
        "push the block into the hole",
    ),
    "window-close": Task("close the window", "window handle", "work", "close the window"),
    "window-open": Task("open the window", "window handle", "work", "open the window"),
}  # fmt: skip
"""Every task with a scripted policy, by its name without the version."""

HELD_OUT = ("bin-picking", "box-close", "door-lock", "door-unlock", "hand-insert")
"""Tasks of the test split alone; Meta-World's benchmark ML45 holds the same five out."""

KNOWN = tuple(name for name in TASKS if name not in HELD_OUT)
