"""Pack folders of episodes (`ID.mp4` with `ID.json`) into WebDataset shards, one folder a split.

python -m data_tools.write_shards data/doom/train data/doom/test --out data/doom/shards
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from tqdm import tqdm

from data_tools.files import find_episodes
from sfv.data.index import ShardError, ShardIndex
from sfv.data.schema import SPLITS, EpisodeMeta, SchemaError, Split
from sfv.data.shards import Sample, write_shards

Found = list[tuple[EpisodeMeta, Path]]


def pack(
    folders: list[Path], out: Path, max_bytes: int = 64_000_000, overwrite: bool = False
) -> dict[str, ShardIndex]:
    """Write `OUT/SPLIT/*.tar` and `OUT/SPLIT/index.json` for every split found.

    Args:
        folders: each holds `ID.mp4` and `ID.json`.
        out: folder of the splits' folders.
        max_bytes: of one shard.
        overwrite: replace shards that stand there.

    Raises:
        SchemaError: a bad episode, or a scene in two splits.
        ShardError: shards stand there already.
    """
    found = list(find_episodes(folders))
    check_scenes(meta for meta, _ in found)
    indices = {}
    for split in SPLITS:
        chosen = [item for item in found if item[0].split == split]
        if chosen:
            name = cast(Split, split)
            indices[split] = write_shards(_samples(chosen), out / split, name, max_bytes, overwrite)
    return indices


def check_scenes(metas: Iterator[EpisodeMeta]) -> None:
    """Refuse a scene that stands in two splits: a test on it would measure what was learned there.

    Raises:
        SchemaError: names the scene, both splits and an episode of each.
    """
    seen: dict[str, EpisodeMeta] = {}
    for meta in metas:
        first = seen.setdefault(meta.scene, meta)
        if first.split != meta.split:
            raise SchemaError(
                f"scene {meta.scene!r} stands in split {first.split!r} (episode {first.id!r}) and "
                f"in {meta.split!r} ({meta.id!r}); give each scene to one split"
            )


def _samples(found: Found) -> Iterator[Sample]:
    for meta, video in tqdm(found, desc=f"pack {found[0][0].split}", unit="episode"):
        yield Sample(meta, video.read_bytes())


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m data_tools.write_shards",
        description="Pack folders of episodes into WebDataset shards, one folder a split.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    p.add_argument("episodes", type=Path, nargs="+", help="folders with ID.mp4 and ID.json")
    p.add_argument("--out", type=Path, required=True, help="gets train/, val/, test/")
    p.add_argument("--max-mb", type=float, default=64.0, help="size of a shard, 10^6 bytes")
    p.add_argument("--overwrite", action="store_true", help="replace shards in --out")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    args = parser().parse_args(argv)
    try:
        indices = pack(args.episodes, args.out, int(args.max_mb * 1e6), args.overwrite)
    except (SchemaError, ShardError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
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
