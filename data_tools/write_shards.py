"""Pack folders of episodes (`ID.mp4` with `ID.json`) into WebDataset shards, one folder a split.

python -m data_tools.write_shards data/doom/train data/doom/test --out data/doom/shards
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from data_tools.files import find_episodes, read_meta
from data_tools.options import USER_ERRORS, Run, run_of, tool_parser
from data_tools.parts import make_shards, write_part
from sfv.data.index import ShardIndex
from sfv.data.schema import SPLITS, EpisodeMeta, SchemaError, Split
from sfv.data.shards import Sample
from sfv.texts import printable


def pack(
    folders: list[Path],
    out: Path,
    max_bytes: int = 64_000_000,
    overwrite: bool = False,
    run: Run = Run(workers=1),  # noqa: B008 (frozen)
) -> dict[str, ShardIndex]:
    """Write `OUT/SPLIT/*.tar` and the index for every split found.

    Args:
        folders: each holds `ID.mp4` and `ID.json`.
        out: folder of the splits' folders.
        max_bytes: of the videos in one shard; a larger one gets its own.
        overwrite: replace shards that stand there.
        run: on how many workers; changes no byte.

    Raises:
        SchemaError: a bad episode, or a scene in two splits.
        ShardError: shards stand there already.
    """
    scenes = Scenes()
    found: dict[str, list[Path]] = {}
    for meta, video in find_episodes(folders):
        scenes.add(meta)
        found.setdefault(meta.split, []).append(video)
    indices = {}
    for split in [name for name in SPLITS if name in found]:
        groups = _groups(found[split], max_bytes)
        items = {
            f"{split}-{i:06d}.tar": [str(video.resolve()) for video in group]
            for i, group in enumerate(groups)
        }
        settings = {"split": split, "max_bytes": max_bytes}
        indices[split], _ = make_shards(
            write_shard, {name: [name, paths] for name, paths in items.items()}, settings,
            out / split, cast(Split, split), run, overwrite, f"pack {split}",
        )  # fmt: skip
    return indices


def write_shard(item: list[Any], settings: dict[str, Any]) -> str:
    """Pack one shard: [file name, paths of its videos]."""
    name, paths = item
    samples = [
        Sample(read_meta(path.with_suffix(".json")), path.read_bytes()) for path in map(Path, paths)
    ]
    return write_part(samples, name, settings)


class Scenes:
    """Refuses a scene that stands in two splits: a test on it would measure what was learned there."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[str, str]] = {}

    def add(self, meta: EpisodeMeta) -> None:
        """Note an episode.

        Raises:
            SchemaError: names the scene, both splits and an episode of each.
        """
        split, episode = self._first.setdefault(meta.scene, (meta.split, meta.id))
        if split != meta.split:
            raise SchemaError(
                f"scene {meta.scene!r} stands in split {split!r} (episode {episode!r}) and in "
                f"{meta.split!r} ({meta.id!r}); give each scene to one split"
            )


def check_scenes(metas: Iterator[EpisodeMeta]) -> None:
    """Refuse a scene that stands in two splits.

    Raises:
        SchemaError: names the scene, both splits and an episode of each.
    """
    scenes = Scenes()
    for meta in metas:
        scenes.add(meta)


def _groups(videos: list[Path], max_bytes: int) -> Iterator[list[Path]]:
    group: list[Path] = []
    size = 0
    for video in videos:
        added = video.stat().st_size
        if group and size + added > max_bytes:
            yield group
            group, size = [], 0
        group.append(video)
        size += added
    yield group


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = tool_parser(
        "write_shards", "Pack folders of episodes into WebDataset shards, one folder a split."
    )
    p.add_argument("episodes", type=Path, nargs="+", help="folders with ID.mp4 and ID.json")
    p.add_argument("--max-mb", type=float, default=64.0, help="size of a shard, 10^6 bytes")
    p.add_argument("--overwrite", action="store_true", help="replace shards in --out")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    args = parser().parse_args(argv)
    try:
        indices = pack(
            args.episodes, args.out, int(args.max_mb * 1e6), args.overwrite, run_of(args)
        )
    except USER_ERRORS as error:
        print(f"error: {printable(error, keep=chr(10))}", file=sys.stderr)
        return 2
    for split, index in indices.items():
        size = sum(shard.num_bytes for shard in index.shards) / 1e6
        print(
            f"{split}: {index.num_samples} episodes in {len(index.shards)} shards, {size:.1f} MB, "
            f"{args.out / split}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
