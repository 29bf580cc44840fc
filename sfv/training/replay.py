"""The replay D_s of one group: (X_i, X_{i+1}, c_i, Θ_i), in memory or on disk.

A checkpoint in the middle of a slow phase needs the rest of the replay. It is kept as files beside the
checkpoints, one folder a rank and group, written once a group and only if a checkpoint asks for it:

    FOLDER/rank-00000/group-00000012/item-00000.safetensors ... index.json (written last)

Learning the group again instead would need Φ as it was at the group's start, and the fast phase's time at
every resume. A Θ of rank 32 has one per cent of the numbers of the `modelscope` Φ, so a group of 16 pairs
takes a sixth of another Φ. The other way round, a checkpoint in a fast phase stores nothing: Φ rests, so
learning the group again is exact.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sfv import rng
from sfv.files import write_json
from sfv.storage.weight_files import read_tensors, write_tensors

ThetaStore = Literal["float32", "bfloat16", "disk"]
ReplayOrder = Literal["chronological", "shuffled"]
INDEX = "index.json"


@dataclass(frozen=True)
class ReplayItem:
    """(X_i, X_{i+1}, c_i, Θ_i): a pair, its action, and the memory *before* it learned the pair.

    Args:
        latents: X_i then X_{i+1}, on the CPU.
        action: c_i.
        key: episode and chunk.
        memory: Θ_i on the CPU, or the file that holds it.
    """

    latents: Float[Tensor, "1 c t h w"] = field(repr=False)
    action: str
    key: str
    memory: Tensor | Path = field(repr=False)

    def theta(self) -> Float[Tensor, " p"]:
        """Θ_i in float32."""
        if isinstance(self.memory, Path):
            return read_tensors(self.memory)[0]["theta"].float()
        return self.memory.float()


class Replay:
    """The items of the group at hand, on this rank.

    Args:
        folder: for the files; made when it is needed.
        store: how Θ_i is kept until its slow step: in RAM as `float32` (exact) or `bfloat16` (half of
            it, rounded), or on `disk` (exact; RAM holds one at a time).
        keep: so many of the newest checkpoints can be resumed from; the replay of older ones is removed.
        check: called before files are replaced or removed; raises where another attempt has taken the run
            over, which may need them.
    """

    def __init__(
        self,
        folder: Path,
        store: ThetaStore = "float32",
        keep: int = 2,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder, self.store, self.keep, self.check = folder, store, keep, check
        self.rank = 0
        """Of this process; some launchers tell it late."""
        self._items: dict[int, ReplayItem] = {}
        self.group = 0
        self._asked: list[int] = []  # groups of the last checkpoints

    @property
    def items(self) -> list[ReplayItem]:
        """In the order in which they were learned, course by course."""
        return [self._items[place] for place in sorted(self._items)]

    def __len__(self) -> int:
        return len(self._items)

    def begin(self, group: int) -> None:
        """Forget the items and begin a group."""
        self.check()
        self._items, self.group = {}, group
        shutil.rmtree(self._path(group), ignore_errors=True)  # of a run that was cut off in it
        if self.store == "disk":
            self._prune()

    def put(
        self,
        place: int,
        latents: Float[Tensor, "1 c t h w"],
        action: str,
        key: str,
        theta: Float[Tensor, " p"],
    ) -> None:
        """Keep an item; Θ is copied."""
        dtype = torch.bfloat16 if self.store == "bfloat16" else torch.float32
        item = ReplayItem(latents, action, key, theta.detach().to("cpu", dtype, copy=True))
        if self.store == "disk":
            item = ReplayItem(latents, action, key, self._write(place, item))
        self._items[place] = item

    def save(self) -> None:
        """Put the group into files, whole or not at all; does nothing if they are there already."""
        self.check()
        index = self._path(self.group) / INDEX
        if not index.exists():
            for place, item in self._items.items():
                if not isinstance(item.memory, Path):
                    self._write(place, item)
            write_json(index, {"group": self.group, "items": len(self)})
        self._asked = [*self._asked, self.group][-self.keep :]
        self._prune()

    def load(self, group: int) -> None:
        """Read a group again.

        Raises:
            FileNotFoundError: its files are gone; the message says what can be done.
            ValueError: a file is damaged; names it.
        """
        path = self._path(group)
        if not (path / INDEX).exists():
            raise FileNotFoundError(
                f"the checkpoint was made in the middle of a group of episodes, but its replay {path} is "
                "not there: resume from one of the newest checkpoints (slow_fast.keep_replays), in its "
                "own run folder and with as many ranks as then, or start a new run from the model "
                "(model.init_from)"
            )
        there = {file.name for file in path.glob("item-*")}
        try:
            num = int(json.loads((path / INDEX).read_bytes())["items"])
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path / INDEX} is damaged ({error})") from error
        if there != {_name(place) for place in range(num)}:
            raise ValueError(f"{path} holds {len(there)} items, its {INDEX} says {num}")
        self._items = {place: self._read(path / _name(place)) for place in range(num)}
        before = sorted(int(file.parent.name[-8:]) for file in path.parent.glob(f"group-*/{INDEX}"))
        self.group, self._asked = group, [g for g in before if g <= group][-self.keep :]

    def _write(self, place: int, item: ReplayItem) -> Path:
        assert isinstance(item.memory, Tensor)
        self.check()
        path = self._path(self.group) / _name(place)
        tensors = {"latents": item.latents, "theta": item.memory}
        write_tensors(path, tensors, {"action": item.action, "key": item.key})
        return path

    def _read(self, path: Path) -> ReplayItem:
        tensors, said = read_tensors(path)
        kept = path if self.store == "disk" else tensors["theta"]
        return ReplayItem(tensors["latents"], said["action"], said["key"], kept)

    def _prune(self) -> None:
        self.check()
        wanted = {self._path(group) for group in (*self._asked, self.group)}
        for path in self._path(self.group).parent.glob("group-*"):
            if path not in wanted:
                shutil.rmtree(path)

    def _path(self, group: int) -> Path:
        return self.folder / f"rank-{self.rank:05d}" / f"group-{group:08d}"


@dataclass(frozen=True)
class SlowBatch:
    """Places of replay items that make one slow batch.

    Args:
        items: which; their latents are equally large.
        plain: trains Φ alone, without Θ.
    """

    items: tuple[int, ...]
    plain: bool = False


def plan_batches(
    items: Sequence[ReplayItem],
    size: int,
    order: ReplayOrder,
    plain_share: float | int,
    seed: int,
    group: int,
) -> list[SlowBatch]:
    """Every item once, in batches of at most `size`; a function of the arguments alone.

    Args:
        items: of one group.
        size: items of a batch; what fills none makes smaller ones at the end.
        order: `chronological`: as they were learned, episode by episode; or `shuffled`.
        plain_share: chance that a batch is trained without Θ.
        seed: names the draws.
        group: names them too.
    """
    places = list(range(len(items)))
    if order == "shuffled":
        generator = rng.stream(seed, "replay-order", group)
        places = torch.randperm(len(items), generator=generator).tolist()
    full: list[tuple[int, ...]] = []
    waiting: dict[torch.Size, list[int]] = {}
    for place in places:
        alike = waiting.setdefault(items[place].latents.shape, [])
        alike.append(place)
        if len(alike) == size:
            full.append(tuple(alike))
            alike.clear()
    full += [tuple(alike) for alike in waiting.values() if alike]
    drawn = torch.rand(len(full), generator=rng.stream(seed, "replay-plain", group))
    return [SlowBatch(b, bool(u < plain_share)) for b, u in zip(full, drawn, strict=True)]


def collate(items: Sequence[ReplayItem], batch: SlowBatch, num_context: int) -> dict[str, Any]:
    """What the slow learner gets: windows with their f_p, and the Θ of each (None: Φ alone)."""
    chosen = [items[place] for place in batch.items]
    return {
        "latents": torch.cat([item.latents for item in chosen]),
        "actions": [item.action for item in chosen],
        "keys": [item.key for item in chosen],
        "num_context": num_context,
        "memory": None if batch.plain else torch.stack([item.theta() for item in chosen]),
    }


def _name(place: int) -> str:
    return f"item-{place:05d}.safetensors"
