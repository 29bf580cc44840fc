"""Convert Minecraft recordings of VPT contractors and MineRL BASALT: mp4 with one JSON line a tick.

    python -m data_tools.convert.vpt --recordings data/10.0 --split-file contractors.json --out data/vpt

Keys and mouse become words, one text a chunk. See docs/datasets/vpt.md.
"""

import argparse
import itertools
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.convert import common, options
from data_tools.convert.recording import (
    BadInput,
    Details,
    NotWanted,
    Recording,
    Skip,
    Source,
    Span,
    compact,
    need_dir,
    number,
    read_jsonl,
)
from data_tools.convert.timeline import Layout, first_frame
from data_tools.convert.vpt_words import KEYS, Tick, words
from sfv.names import is_hidden

TICKS_PER_SECOND = 20
NAME = re.compile(r"(?P<contractor>.+)-(?P<session>[0-9a-f]{12})-\d{8}-\d{6}")
"""File names: contractor's alias, session, date, time."""

IN_MENU = "ticks with a menu open"
STUCK = "ticks whose attack button was stuck from the start"


@dataclass(frozen=True)
class Payload:
    """What a worker has to know besides the recording.

    Args:
        ticks: the action file.
        keep_menus: give ticks with a menu open the text "use the menu", else leave them out.
    """

    ticks: Path
    keep_menus: bool


def find(folder: Path, scene_by: str, scene: str, keep_menus: bool) -> Source:
    """List the recordings: pairs of NAME.mp4 and NAME.jsonl.

    Raises:
        SetupError: no such folder.
    """
    need_dir(folder, "the folder of NAME.mp4 and NAME.jsonl (--recordings)")
    names = {path.stem for path in folder.iterdir() if path.suffix in (".mp4", ".jsonl")}
    recordings, skips = [], []
    for name in sorted(names):
        video, ticks = folder / f"{name}.mp4", folder / f"{name}.jsonl"
        if is_hidden(video, folder):
            skips.append(Skip(name, "hidden file", fault=False))
            continue
        lacking = [path.suffix for path in (video, ticks) if not path.is_file()]
        if lacking:
            skips.append(Skip(name, f"recording lacks its {lacking[0]} file"))
            continue
        place = scene or _scene(name, scene_by)
        recordings.append(Recording(name, place, video, payload=Payload(ticks, keep_menus)))
    return Source(
        name="vpt",
        domain="game",
        licence="MIT as mirrors state it; Minecraft's pictures under its own terms",
        source="VPT contractor recordings, Minecraft",
        recordings=tuple(recordings),
        skips=tuple(skips),
        scene_hint="names are ALIAS-SESSION-DATE-TIME; rename the files, or name one --scene for all",
        settings={"keep_menus": keep_menus, "scene_by": scene_by, "scene": scene},
    )


def read_details(recording: Recording, layout: Layout) -> Details:
    """Cut the ticks into chunks and put each chunk into words.

    Raises:
        BadInput: a line that is not as it should be.
    """
    payload: Payload = recording.payload
    ticks = [_tick(line, payload.ticks.name, i) for i, line in enumerate(read_jsonl(payload.ticks))]
    if not ticks:
        raise BadInput(f"action file without a line: {payload.ticks.name}")
    ticks, stuck = _release_attack(ticks)
    spans, begin = [], 0
    for menu, group in itertools.groupby(ticks, key=lambda tick: tick.menu):
        end = begin + len(list(group))
        if not menu:
            spans += _chunks(ticks, begin, end, layout)
        elif payload.keep_menus:
            spans.append(Span("use the menu", begin / TICKS_PER_SECOND, end / TICKS_PER_SECOND))
        begin = end
    in_menu = sum(tick.menu for tick in ticks)
    if not spans:
        raise NotWanted("a menu is open all the time")
    left_out = ((IN_MENU, 0 if payload.keep_menus else in_menu), (STUCK, stuck))
    return Details(tuple(spans), left_out=left_out)


def _chunks(ticks: list[Tick], begin: int, end: int, layout: Layout) -> list[Span]:
    """Spans on the grid of chunks that the stretch of ticks begin <= i < end will be cut by."""
    first = first_frame(begin / TICKS_PER_SECOND, layout.fps)
    stop = first_frame(end / TICKS_PER_SECOND, layout.fps)
    spans = []
    for start in range(first, stop, layout.chunk_frames):
        until = min(start + layout.chunk_frames, stop)
        # A frame shows what the tick before it did.
        low = max(begin, round((start - 1) * TICKS_PER_SECOND / layout.fps))
        high = max(low + 1, round((until - 1) * TICKS_PER_SECOND / layout.fps))
        part = ticks[low : min(high, end)]
        spans.append(Span(words(part), start / layout.fps, until / layout.fps, _raw(part, low)))
    return spans


def _raw(ticks: list[Tick], first: int) -> dict[str, Any]:
    """Held controls as runs, and the mouse's way tick by tick."""
    runs = itertools.groupby(" ".join(sorted(tick.held)) for tick in ticks)
    return {
        "first_tick": first,
        "held": [[names, len(list(group))] for names, group in runs],
        "dx": [compact(tick.dx) for tick in ticks],
        "dy": [compact(tick.dy) for tick in ticks],
        "hotbar": [tick.hotbar for tick in ticks][-1],
    }


def _tick(line: dict[str, Any], name: str, index: int) -> Tick:
    """Read one line; keys that are not bound to an action are passed over."""
    where = f"{name} line {index + 1}"
    keyboard, mouse = line.get("keyboard"), line.get("mouse")
    if not isinstance(keyboard, dict) or not isinstance(mouse, dict):
        raise BadInput(f"tick without keyboard or mouse: {where}")
    keys, buttons, new = keyboard.get("keys"), mouse.get("buttons"), mouse.get("newButtons")
    if not isinstance(keys, list) or not isinstance(buttons, list):
        raise BadInput(f"tick without keyboard.keys or mouse.buttons: {where}")
    held = {KEYS[key] for key in keys if isinstance(key, str) and key in KEYS}
    names = {0: "attack", 1: "use", 2: "pick"}
    held |= {names[b] for b in buttons if isinstance(b, int) and b in names}
    return Tick(
        held=frozenset(held),
        dx=number(mouse.get("dx"), f"{where} dx"),
        dy=number(mouse.get("dy"), f"{where} dy"),
        menu=bool(line.get("isGuiOpen", False)),
        hotbar=int(number(line.get("hotbar", 0), f"{where} hotbar")),
        new_attack=isinstance(new, list) and 0 in new,
    )


def _release_attack(ticks: list[Tick]) -> tuple[list[Tick], int]:
    """Some recordings begin with the attack button held although nobody presses it.

    As the data set's own loader does, attack is ignored from there to the next real press.
    """
    if not ticks[0].new_attack:
        return ticks, 0
    pressed = next((i for i, tick in enumerate(ticks) if i > 0 and tick.new_attack), len(ticks))
    stuck = sum("attack" in tick.held for tick in ticks[:pressed])
    return [tick.without_attack() for tick in ticks[:pressed]] + ticks[pressed:], stuck


def _scene(name: str, scene_by: str) -> str:
    match = NAME.fullmatch(name)
    if not match:
        return ""
    session = f"{match['contractor']}-{match['session']}"
    return session if scene_by == "session" else match["contractor"]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m data_tools.convert.vpt",
        description="Convert Minecraft recordings of VPT and MineRL BASALT to episodes.",
        formatter_class=options.formatter(),
    )
    p.add_argument(
        "--recordings", type=Path, required=True, help="folder of NAME.mp4 and NAME.jsonl"
    )
    p.add_argument(
        "--scene-by",
        choices=("contractor", "session"),
        default="contractor",
        help="what counts as one place; contractors may play one world in several sessions",
    )
    p.add_argument("--scene", default="", help="one place for all, where names do not tell it")
    p.add_argument("--keep-menus", action="store_true", help='keep open menus, as "use the menu"')
    options.add_common(p, lossless=False, filler="stand still")
    return p


def convert(args: argparse.Namespace) -> dict[str, Any]:
    """Convert what the arguments name."""
    source = find(args.recordings, args.scene_by, args.scene, args.keep_menus)
    return common.run(args, source, read_details, "data_tools.convert.vpt")


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    return common.main(convert, parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
