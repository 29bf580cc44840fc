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

ROWS: tuple[Row, ...] = ("none", "fast")
MAX_ACTION = 200
"""Characters of an action."""


class UnknownNode(ValueError):
    """There is no such chunk."""


class NoRoom(ValueError):
    """A limit is reached."""


@dataclass(frozen=True)
class Made:
    """One chunk with and without memory.

    Args:
        action: what drove it; None at the start.
        latents: the new frames of each row.
        strips: the same as PNG pictures, frames below each other.
        memory: Θ after it has learned this chunk, with all that going on needs.
        learned: what learning did; None at the start.
        seconds: wall-clock time of each row.
    """

    action: str | None
    latents: Mapping[Row, Float[Tensor, "1 c t h w"]] = field(repr=False)
    strips: Mapping[Row, bytes] = field(repr=False)
    memory: StoredMemory = field(repr=False)
    learned: FastReport | None = None
    seconds: Mapping[Row, float] = field(default_factory=dict)


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
        start: which of the server's starts it is.
        root: its frames, and the memory before all learning.
        max_chunks: chunks it may hold at a time.
    """

    def __init__(self, start: int, root: Made, max_chunks: int) -> None:
        self.start, self.max_chunks = start, max_chunks
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

    def child(self, number: int, action: str) -> Node | None:
        """The chunk that an action has already led to from here: the same again would be equal."""
        children = (node for node in self.nodes.values() if node.parent == number)
        return next((node for node in children if node.made.action == action), None)

    def check_room(self) -> None:
        """Check before the work that its result can be kept.

        Raises:
            NoRoom: the visit holds as many chunks as it may.
        """
        if self.num_chunks >= self.max_chunks:
            raise NoRoom(
                f"this visit holds {self.max_chunks} chunks, the most it may: remove a future, or begin "
                "anew (the server's --chunks allows more)"
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
