"""Put actions into words: from poses, from recorded controls, or by a captioner of yours.

    python -m data_tools.annotate data/cut --out data/annotated --from poses --turn-degrees 20
    python -m data_tools.annotate data/cut --out data/annotated --from raw --rules keys.json
    python -m data_tools.annotate data/cut --out data/annotated --from actions --relabel all \
        --language data_tools.language:say
    python -m data_tools.annotate data/cut --out data/annotated --captioner my_module:describe

The spans of the actions stay as they are (`data_tools.cut --chunk-frames` sets them); their texts
change: those that are "unlabelled", or all of them with `--relabel all`. Videos get a second name
in the output folder instead of a copy, where the file system can.
"""

import argparse
import dataclasses
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from data_tools.clips import UNLABELLED, frames_of, place_video, read_episode
from data_tools.files import episode_files, settings_hash
from data_tools.language import canonical
from data_tools.motion_words import (
    WASD,
    MotionSettings,
    Rule,
    from_controls,
    from_poses,
    read_rules,
)
from data_tools.options import Run, run_of, run_tool, summarise, tool_parser
from data_tools.work import Skip, load
from sfv.data.schema import Action, EpisodeMeta, Provenance, SchemaError, to_json
from sfv.files import write_bytes
from sfv.rng import seed_of

VERSION = "1"
TOOL = "data_tools.annotate"
CAPTIONED = "captioned"
"""What actions with a captioner's text are counted as."""

Say = Callable[[str, np.random.Generator], str]
"""Puts a canonical action ("walk forward") into words; draws from the generator alone."""

Captioner = Callable[[NDArray[np.uint8], EpisodeMeta], Sequence[str]]
"""Gets the frames, `t height width 3`, and the metadata; returns one text for each action."""

Source = Literal["poses", "raw", "actions", "captioner"]


@dataclass(frozen=True)
class AnnotateSettings:
    """What decides the texts.

    Args:
        source: where they come from; `actions` says the canonical actions that are there anew.
        relabel: `missing` for "unlabelled" actions alone, or `all`.
        motion: thresholds for poses.
        rules: for recorded controls, in order.
        language: `module:function`, a `Say`; None says canonical actions as they are.
        captioner: `module:function`, a `Captioner`.
        seed: of the language.
    """

    source: Source
    relabel: Literal["missing", "all"] = "missing"
    motion: MotionSettings = field(default_factory=MotionSettings)
    rules: tuple[Rule, ...] = WASD
    language: str | None = None
    captioner: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for option, name in (("--language", self.language), ("--captioner", self.captioner)):
            if name is None:
                continue
            try:
                load(name)
            except (ImportError, AttributeError, ValueError) as error:
                raise SchemaError(
                    f"{option} {name}: {error}; give module:function, importable from here"
                ) from error
        if (self.source == "captioner") != (self.captioner is not None):
            raise SchemaError("--from captioner and --captioner module:function go together")


def annotate(
    folders: list[Path], out: Path, settings: AnnotateSettings, run: Run
) -> dict[str, Any]:
    """Write every episode with its new texts to `out`, and `summary.json`.

    Raises:
        SchemaError: no episodes.
    """
    files = episode_files(folders)
    if any(folder.resolve() == out.resolve() for folder in folders):
        raise SchemaError(f"--out {out} is an input; give another folder")
    items = {
        key: {"json": str(path.resolve()), "out": str(out.resolve())} for key, path in files.items()
    }
    plain = asdict(settings) | {"version": VERSION}
    results = run.map(annotate_one, items, out, plain, "annotate")
    actions: Counter[str] = Counter()
    for result in results.kept.values():
        actions.update(result["labelled"])
    kept = results.kept.values()
    more = {
        "actions": {
            "labelled": actions.total(),
            "left as they were": sum(result["left"] for result in kept),
        },
        "canonical actions": dict(sorted(actions.items())),
    }
    return summarise(out, TOOL, plain, results, more)


def annotate_one(item: dict[str, str], given: dict[str, Any]) -> dict[str, Any]:
    """Label one episode.

    Raises:
        Skip: it lacks what the texts are to come from.
    """
    settings = _settings(given)
    source, out = Path(item["json"]), Path(item["out"])
    meta = read_episode(source)
    chosen = [
        number
        for number, action in enumerate(meta.actions)
        if settings.relabel == "all" or action.text == UNLABELLED
    ]
    texts, plain = _texts(meta, chosen, settings, source.with_suffix(".mp4"))
    actions = list(meta.actions)
    for number, text, known in zip(chosen, texts, plain, strict=True):
        actions[number] = _say(actions[number], text, known)
    made = settings_hash({"run": given, "of": meta.provenance.settings_hash})
    labelled = dataclasses.replace(
        meta, actions=tuple(actions), provenance=Provenance(TOOL, VERSION, made)
    )
    text = to_json(labelled if chosen else meta)
    place_video(source.with_suffix(".mp4"), out / f"{meta.id}.mp4")
    write_bytes(out / f"{meta.id}.json", text.encode())
    return {"labelled": Counter(plain), "left": len(meta.actions) - len(chosen)}


def _texts(
    meta: EpisodeMeta, chosen: list[int], settings: AnnotateSettings, video: Path
) -> tuple[list[str], list[str]]:
    """Give the texts of the chosen actions, and what they are counted as."""
    if not chosen:
        return [], []
    if settings.captioner is not None:
        texts = _captions(meta, load(settings.captioner), video)
        return [texts[number] for number in chosen], [CAPTIONED] * len(chosen)
    parts = [_moves(meta, number, settings) for number in chosen]
    say: Say = load(settings.language) if settings.language else plainly
    texts = []
    for number, moves in zip(chosen, parts, strict=True):
        rng = np.random.default_rng(seed_of(settings.seed, "annotate", meta.id, number))
        texts.append(" and ".join(say(move, rng) for move in moves))
    return texts, [" and ".join(moves) for moves in parts]


def _say(action: Action, text: str, plain: str) -> Action:
    """Put a text to an action; varied words keep the canonical one beside them, as collectors do."""
    raw = action.raw
    if text != plain and plain != CAPTIONED and isinstance(raw, dict | None):
        raw = {**(raw or {}), "action": plain}
    return dataclasses.replace(action, text=text, raw=raw)


def plainly(action: str, rng: np.random.Generator) -> str:
    """Say a canonical action as it is."""
    return action


def _moves(meta: EpisodeMeta, number: int, settings: AnnotateSettings) -> list[str]:
    action = meta.actions[number]
    if settings.source == "raw":
        return from_controls(action.raw, settings.rules)
    if settings.source == "actions":
        return [canonical(action)]
    if meta.poses is None:
        raise Skip("no poses to tell actions from")
    return from_poses(meta.poses, action.start, action.stop, settings.motion)


def _captions(meta: EpisodeMeta, captioner: Captioner, video: Path) -> list[str]:
    texts = list(captioner(np.stack(list(frames_of(meta, video))), meta))
    good = all(isinstance(text, str) and text.strip() for text in texts)
    if len(texts) != len(meta.actions) or not good:
        raise ValueError(
            f"the captioner gave {texts!r:.200} for {len(meta.actions)} actions; it has to give one "
            "text, not empty, for each"
        )
    return texts


def _settings(given: dict[str, Any]) -> AnnotateSettings:
    known = {key: value for key, value in given.items() if key != "version"}
    known["motion"] = MotionSettings(**known["motion"])
    known["rules"] = tuple(Rule(**rule) for rule in known["rules"])
    return AnnotateSettings(**known)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = tool_parser("annotate", "Put the actions of episodes into words.")
    m = MotionSettings()
    p.add_argument("folders", type=Path, nargs="+", help="with ID.mp4 and ID.json")
    p.add_argument(
        "--from", dest="source", choices=get_args(Source), default="poses", help="what to tell from"
    )
    p.add_argument("--relabel", choices=("missing", "all"), default="missing",
                   help=f'"{UNLABELLED}" actions alone, or all')  # fmt: skip
    p.add_argument(
        "--turn-degrees", type=float, default=m.turn_degrees, help="least turn of an action"
    )
    p.add_argument("--move-units", type=float, default=m.move_units,
                   help="least way of an action, in the units of the poses")  # fmt: skip
    p.add_argument(
        "--climb-units", type=float, default=m.climb_units, help="least change of height"
    )
    p.add_argument("--mixed", choices=("dominant", "all"), default=m.mixed,
                   help="of several motions name the largest, or all joined by 'and'")  # fmt: skip
    p.add_argument("--rules", type=Path, metavar="JSON", help="what recorded controls mean")
    p.add_argument("--language", metavar="MODULE:FUNCTION", help="(action, generator) -> text")
    p.add_argument("--captioner", metavar="MODULE:FUNCTION", help="(frames, meta) -> texts")
    p.add_argument("--seed", type=int, default=0, help="of the language")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    args = parser().parse_args(argv)

    def work() -> dict[str, Any]:
        motion = MotionSettings(args.turn_degrees, args.move_units, args.climb_units, args.mixed)
        rules = read_rules(args.rules) if args.rules else WASD
        source: Source = "captioner" if args.captioner else args.source
        settings = AnnotateSettings(
            source, args.relabel, motion, rules, args.language, args.captioner, args.seed
        )
        return annotate(args.folders, args.out, settings, run_of(args))

    return run_tool(work)


if __name__ == "__main__":
    sys.exit(main())
