"""What one visitor has: a tree of futures, one node a chunk, each with the memory as it was then.

Nodes never change once made, so going back is choosing another node, and a fork is a second child.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from sfv.fast.learner import FastReport
from sfv.fast.memory_file import StoredMemory
from sfv.generation.settings import Row
from sfv.play.starts import Start

MAX_ACTION = 200
"""Characters of an action."""


class UnknownNode(ValueError):
    """There is no such chunk."""


class NoRoom(ValueError):
    """A limit is reached."""


@dataclass(frozen=True)
class Made:
    """One chunk, without memory and, where the visit has one, with it.

    Args:
        action: what drove it; None at the start.
        latents: the new frames of each row.
        strips: the same as PNG pictures, frames below each other.
        memory: as it is after this chunk, with all that going on needs; None in a visit without memory.
        learned: what learning did; None at the start.
        seconds: wall-clock time of each row.
        shown: the frames are true ones, which were shown instead of generated.
    """

    action: str | None
    latents: Mapping[Row, Float[Tensor, "1 c t h w"]] = field(repr=False)
    strips: Mapping[Row, bytes] = field(repr=False)
    memory: StoredMemory | None = field(repr=False)
    learned: FastReport | None = None
    seconds: Mapping[Row, float] = field(default_factory=dict)
    shown: bool = False


@dataclass(frozen=True)
class Node:
    """A chunk in its place.

    Args:
        number: names it for as long as the visit lasts; never used again.
        parent: the chunk it follows; None for the start.
        depth: chunks made since the start.
        made: its content.
    """

    number: int
    parent: int | None
    depth: int
    made: Made


class Visit:
    """The futures that one visitor has made from one start.

    Args:
        start: what it begins with.
        root: its frames, and the memory before all learning.
        max_chunks: chunks it may hold at a time.
    """

    def __init__(self, start: Start, root: Made, max_chunks: int) -> None:
        self.start, self.max_chunks = start, max_chunks
        self.rows: tuple[Row, ...] = tuple(root.latents)
        """What each chunk is made with; the last one is the memory's, where there is one."""
        self.nodes = {0: Node(0, None, 0, root)}
        self.here = 0
        """Where the visitor stands: the next chunk follows this one."""
        self._next = 1

    @property
    def num_chunks(self) -> int:
        """Chunks held; the start is not counted."""
        return len(self.nodes) - 1

    def node(self, number: int) -> Node:
        """Find a chunk.

        Raises:
            UnknownNode: it was never made, or was removed.
        """
        if number not in self.nodes:
            raise UnknownNode(f"there is no chunk {number}; it was removed, or never made")
        return self.nodes[number]

    def path(self, number: int) -> list[Node]:
        """The chunks from the start to this one."""
        found = [self.node(number)]
        while (parent := found[-1].parent) is not None:
            found.append(self.nodes[parent])
        return found[::-1]

    def context(self, number: int, row: Row, num_frames: int) -> Float[Tensor, "1 c t h w"]:
        """The last `num_frames` latent frames of a future, all of it where it is shorter."""
        parts: list[Tensor] = []
        for node in reversed(self.path(number)):
            parts.insert(0, node.made.latents[row])
            if sum(part.shape[2] for part in parts) >= num_frames:
                break
        return torch.cat(parts, dim=2)[:, :, -num_frames:]

    def child(self, number: int, action: str, shown: bool = False) -> Node | None:
        """The chunk that an action has already led to from here: the same again would be equal."""
        children = (node for node in self.nodes.values() if node.parent == number)
        wanted = (action, shown)
        return next((n for n in children if (n.made.action, n.made.shown) == wanted), None)

    def next_shown(self, number: int) -> tuple[str, Float[Tensor, "1 c g h w"]]:
        """Action and true frames of the chunk of the start's way out that follows this one.

        Raises:
            UnknownNode: there is no such chunk.
            ValueError: the way out ends here, or does not lead here.
        """
        node, way = self.node(number), self.start.shown
        if node.parent is not None and not node.made.shown:
            raise ValueError(f"chunk {number} was generated; a way out is shown from the start on")
        if node.depth >= len(way):
            raise ValueError(
                f"the way out of this start has {len(way)} chunks; all have been shown"
            )
        return self.start.actions[node.depth], way[node.depth]

    def check_room(self, num_chunks: int = 1) -> None:
        """Check before the work that its result can be kept.

        Raises:
            NoRoom: the visit cannot hold so many more.
        """
        if self.num_chunks + num_chunks > self.max_chunks:
            held = f"{self.max_chunks} chunks, the most it may"
            if num_chunks > 1:
                held = (
                    f"{self.num_chunks} of at most {self.max_chunks} chunks, and {num_chunks} come"
                )
            raise NoRoom(
                f"this visit holds {held}: remove a future, or begin anew (the server's --chunks allows "
                "more)"
            )

    def add(self, parent: int, made: Made) -> Node:
        """Add a future of a chunk; the visitor moves there, unless they have gone elsewhere meanwhile.

        Raises:
            UnknownNode: the chunk it follows was removed.
            NoRoom: as `check_room`.
        """
        self.check_room()
        node = Node(self._next, parent, self.node(parent).depth + 1, made)
        self._next += 1
        self.nodes[node.number] = node
        if self.here == parent:
            self.here = node.number
        return node

    def rewind(self, number: int) -> None:
        """Stand at another chunk, with the frames and the memory of then.

        Raises:
            UnknownNode: there is none.
        """
        self.here = self.node(number).number

    def remove(self, number: int) -> None:
        """Forget a chunk and all that follows it; who stands there goes back to the one before.

        Raises:
            UnknownNode: there is none.
            ValueError: it is the start.
        """
        parent = self.node(number).parent
        if parent is None:
            raise ValueError("the start cannot be removed; begin anew to choose another")
        gone = {n for n in self.nodes if any(node.number == number for node in self.path(n))}
        for each in gone:
            del self.nodes[each]
        if self.here in gone:
            self.here = parent
