"""Find episodes that show nearly the same: dropped inside a split, an error across splits.

    python -m data_tools.dedup data/filtered --out data/unique --max-bits 4

Each episode is known by perceptual hashes (pHash, 64 bits) of some frames spread over its length. Two
are near duplicates when the hashes of their corresponding frames differ in at most `--max-bits`
bits on average. Copies in other encodings, sizes and brightnesses are found; a copy that was
trimmed, mirrored or slowed down is not. Flat pictures hash alike, so filter before.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from data_tools.clips import frames_of, place_video, read_episode, spread
from data_tools.files import episode_files
from data_tools.near_pairs import near_pairs
from data_tools.options import SUMMARY, Run, run_of, run_tool, summarise, tool_parser
from sfv.data.schema import SchemaError
from sfv.extras import require
from sfv.files import write_bytes

VERSION = "1"
TOOL = "data_tools.dedup"
HASH_BITS = 64
MAX_BITS = 7
"""Bits a frame within which the lookup finds every pair (see `near_pairs`)."""


@dataclass(frozen=True)
class DedupSettings:
    """What counts as the same.

    Args:
        frames: hashed in each episode.
        max_bits: mean number of the 64 bits in which hashes of corresponding frames may differ.
    """

    frames: int = 4
    max_bits: float = 4.0

    def __post_init__(self) -> None:
        if self.frames < 1 or not 0 <= self.max_bits <= MAX_BITS:
            raise SchemaError(
                f"--frames {self.frames} --max-bits {self.max_bits}: allowed are frames >= 1 and "
                f"0 <= max-bits <= {MAX_BITS}"
            )


@dataclass(frozen=True)
class Duplicates:
    """What was found.

    Args:
        dropped: episode to the kept one of its split that it repeats.
        across: pairs of episodes of two splits; of many copies in a split one is named.
    """

    dropped: dict[str, str]
    across: list[tuple[str, str]]


def dedup(
    folders: list[Path], out: Path, settings: DedupSettings, run: Run,
    on_duplicate: Literal["drop", "report"] = "drop",
) -> dict[str, Any]:  # fmt: skip
    """Place the episodes that repeat no other in `out`, and write `summary.json`.

    Args:
        folders: of episodes of all splits.
        out: gets the kept episodes.
        settings: what counts as the same.
        run: how.
        on_duplicate: inside a split, `drop` all but one, or only `report` and write no episodes.

    Raises:
        SchemaError: no episodes, or near duplicates in two splits; names them. The summary is
            written before.
    """
    if any(folder.resolve() == out.resolve() for folder in folders):
        raise SchemaError(f"--out {out} is an input; give another folder")
    files = episode_files(folders)
    plain = asdict(settings) | {"version": VERSION}
    items = {key: str(path.resolve()) for key, path in files.items()}
    results = run.map(hash_one, items, out, plain, "hash")
    hashed = results.kept
    codes = np.array([[int(word, 16) for word in r["hashes"]] for r in hashed.values()], np.uint64)
    splits = [result["split"] for result in hashed.values()]
    found = find_duplicates(list(hashed), splits, codes, settings)
    unique = [key for key in hashed if key not in found.dropped]
    more = {
        "near duplicates": {
            "in one split": len(found.dropped),
            "across splits": len(found.across),
            "unique": len(unique),
            "done with them": on_duplicate,
        },
        "duplicate of": found.dropped,
        "pairs across splits": found.across,
    }
    summary = summarise(out, TOOL, plain, results, more)
    if found.across:
        shown = "; ".join(f"{a!r} and {b!r}" for a, b in found.across[:5])
        raise SchemaError(
            f"{len(found.across)} pairs of near duplicates stand in two splits: {shown}; remove one "
            f"of each or move it ({out / SUMMARY} lists all). No episode was written"
        )
    if on_duplicate == "drop":
        _place([files[key] for key in unique], out)
        for key in found.dropped:  # placed by a run that did not know its twin yet
            (out / f"{key}.json").unlink(missing_ok=True)
            (out / f"{key}.mp4").unlink(missing_ok=True)
    return summary


def hash_one(item: str, given: dict[str, Any]) -> dict[str, Any]:
    """Hash some frames of an episode.

    Raises:
        Skip: it is corrupt.
    """
    import imagehash

    path = Path(item)
    meta = read_episode(path)
    wanted = spread(meta.num_frames, given["frames"]).tolist()
    frames = enumerate(frames_of(meta, path.with_suffix(".mp4")))
    chosen = {idx: frame for idx, frame in frames if idx in wanted}
    hashes = [str(imagehash.phash(Image.fromarray(chosen[idx]))) for idx in wanted]
    return {"split": meta.split, "hashes": hashes}


def find_duplicates(
    keys: Sequence[str], splits: Sequence[str], codes: NDArray[np.uint64], settings: DedupSettings
) -> Duplicates:
    """Decide which episodes to drop; of two near ones of a split the first stays.

    An episode is dropped for a kept one that it is near to, never for one that was dropped itself.

    Args:
        keys: ids, in order.
        splits: one a key.
        codes: `n frames`, hashes.
        settings: what counts as the same.
    """
    if not len(keys):
        return Duplicates({}, [])
    # Equal codes (a thousand copies of one video) are one row of the search.
    rows, inverse = np.unique(codes, axis=0, return_inverse=True)
    group: list[int] = inverse.ravel().tolist()
    near = near_pairs(rows, int(settings.max_bits * codes.shape[1])).tolist()
    first: dict[int, dict[str, int]] = {}
    for index, row in enumerate(group):
        first.setdefault(row, {}).setdefault(splits[index], index)
    pairs = {
        (min(i, j), max(i, j))
        for a, b in [*near, *((row, row) for row in first)]
        for split, i in first[a].items()
        for other, j in first[b].items()
        if split != other
    }
    across = [(keys[i], keys[j]) for i, j in sorted(pairs)]
    return Duplicates(_repeats(keys, splits, group, near), across)


def _repeats(
    keys: Sequence[str], splits: Sequence[str], group: list[int], near: list[list[int]]
) -> dict[str, str]:
    """Go through the episodes and drop each that is near to a kept one of its split."""
    neighbours: dict[int, list[int]] = {row: [row] for row in group}
    for a, b in near:
        neighbours[a].append(b)
        neighbours[b].append(a)
    kept: dict[tuple[int, str], str] = {}
    dropped: dict[str, str] = {}
    for key, split, row in zip(keys, splits, group, strict=True):
        twins = [kept[other, split] for other in neighbours[row] if (other, split) in kept]
        if twins:
            dropped[key] = min(twins)
        else:
            kept[row, split] = key
    return dropped


def _place(files: list[Path], out: Path) -> None:
    for path in tqdm(files, desc="place", unit="episode"):
        place_video(path.with_suffix(".mp4"), out / f"{path.stem}.mp4")
        write_bytes(out / path.name, path.read_bytes())


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = tool_parser("dedup", "Drop near duplicates; refuse them across splits.")
    d = DedupSettings()
    p.add_argument("folders", type=Path, nargs="+", help="with ID.mp4 and ID.json, of all splits")
    p.add_argument("--frames", type=int, default=d.frames, help="hashed in each episode")
    p.add_argument(
        "--max-bits", type=float, default=d.max_bits,
        help=f"of {HASH_BITS}, by which corresponding frames may differ on average; up to {MAX_BITS}",
    )  # fmt: skip
    p.add_argument(
        "--on-duplicate", choices=("drop", "report"), default="drop",
        help="inside a split: keep the first, or write only the summary",
    )  # fmt: skip
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command; 2 when near duplicates stand in two splits."""
    args = parser().parse_args(argv)

    def work() -> dict[str, Any]:
        require("data", "hashes", "imagehash")  # else every episode would be skipped
        settings = DedupSettings(args.frames, args.max_bits)
        return dedup(args.folders, args.out, settings, run_of(args), args.on_duplicate)

    return run_tool(work)


if __name__ == "__main__":
    sys.exit(main())
