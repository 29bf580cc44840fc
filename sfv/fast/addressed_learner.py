"""The addressed memory as a learner: one closed-form write a chunk in place of gradient steps.

`FastLearner`'s counterpart: the same calls make, act, learn and store a memory. What a memory says of the
frames to come depends on their poses alone, so it is read once a chunk, before sampling.
"""

import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from math import inf
from typing import Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from sfv import rng
from sfv.backbones.base import Backbone
from sfv.backbones.memory_input import MemoryInput
from sfv.fast.addressed import AddressedState, as_latents, as_values, fresh, read, write
from sfv.fast.addressed_algebra import SHAPE
from sfv.fast.keys import FourierKeys, plane_bandwidths
from sfv.fast.memory_file import MemoryOrigin, StoredMemory, store
from sfv.fast.protocol import FastReport, Poses
from sfv.models.address import Address
from sfv.types import Reading

OdometryKind = Literal["actions", "recorded"]


@dataclass(frozen=True)
class AddressedSettings:
    """How an addressed memory is written.

    Args:
        own_chunks: write also the chunks that the model made itself. False writes only frames that were
            shown.
        own_weight: how many times a frame that the model made itself counts, 0 to 1; shown frames count
            once.
        odometry: where poses come from: `actions` integrates the model's motions of them, `recorded` takes
            what the episode recorded.
        pose_noise: largest deviation of the noise on written poses, way in the world's units and turn in
            degrees; every episode draws its own share of it. For training, so that Φ learns to read poses
            that are not exact.
    """

    own_chunks: bool = True
    own_weight: float | int = 1.0
    odometry: OdometryKind = "actions"
    pose_noise: tuple[float | int, float | int] = (0.0, 0.0)

    def __post_init__(self) -> None:
        if not 0 <= self.own_weight <= 1 or not all(0 <= n < inf for n in self.pose_noise):
            raise ValueError(
                f"addressed memory got own_weight={self.own_weight}, pose_noise={self.pose_noise}; "
                "allowed: own_weight 0 to 1, pose_noise 0 and above"
            )


@dataclass(eq=False)
class AddressedMemory:
    """The addressed memory of one episode; learning changes it in place.

    Args:
        episode: names the episode's random streams.
        state: what was written.
        shape: c, h, w of the latents that were written.
        pose: of the newest frame, relative to the newest frame of the first context.
        num_chunks: chunks that went by, written or not.
        context: the newest frames, which the next chunk follows; None outside a rollout.
    """

    episode: str
    state: AddressedState = field(repr=False)
    shape: tuple[int, int, int]
    pose: Float64[Tensor, " q"]
    num_chunks: int = 0
    context: Tensor | None = field(default=None, repr=False)


class AddressedLearner:
    """Writes and reads addressed memories for a denoiser that reads them.

    Args:
        denoiser: Φ, with a `memory_input`.
        address: keys and odometry.
        num_context: f_p.
        num_generated: f_g.
        settings: how chunks are written.
        seed: names the noise streams.
        origin: what stored memories name as theirs; None where none is stored.

    Raises:
        ValueError: the denoiser has no input for a memory.
    """

    def __init__(
        self,
        denoiser: Backbone,
        address: Address,
        num_context: int,
        num_generated: int,
        settings: AddressedSettings = AddressedSettings(),
        seed: int = 0,
        origin: MemoryOrigin | None = None,
    ) -> None:
        if denoiser.memory_input is None:
            raise ValueError(
                "this denoiser has no input channels for an addressed memory: train one with "
                "reads_memory: true, or use the temporal LoRA"
            )
        self.denoiser, self.address, self.settings = denoiser, address, settings
        self.num_context, self.num_generated, self.seed = num_context, num_generated, seed
        self._origin = origin
        self._input: MemoryInput = denoiser.memory_input
        scales = [plane_bandwidths(*scale) for scale in address.scales]
        self._keys = FourierKeys(scales, address.key_size, seed=address.seed)

    def fresh(self, episode: str, context: Float[Tensor, "1 c t h w"]) -> AddressedMemory:
        """Start an episode: the newest frame of its first context is written, at the origin.

        Args:
            episode: names the episode's random streams.
            context: clean latents.
        """
        newest, pose = context[:, :, -1:], self.address.origin()
        shape = (newest.shape[1], newest.shape[3], newest.shape[4])
        size, device = self.address.key_size, next(self.denoiser.parameters()).device
        state = fresh(1, size, math.prod(shape), self.address.ridge, device)
        keys = self._keys(pose[None])[None].to(device)
        return AddressedMemory(episode, write(state, keys, newest.to(device)), shape, pose)

    def acting(
        self,
        memories: Sequence[AddressedMemory],
        actions: Sequence[str],
        poses: Poses | None = None,
    ) -> AbstractContextManager[None]:
        """Inside, the denoiser sees what each memory says of the chunk that its action leads to."""
        return self._input.use(self.read(memories, actions, poses))

    def read(
        self,
        memories: Sequence[AddressedMemory],
        actions: Sequence[str],
        poses: Poses | None = None,
    ) -> Reading:
        """What each memory says of the next chunk."""
        values, uncertainty = [], []
        for memory, pose in zip(memories, self._poses(memories, actions, poses), strict=True):
            keys = self._keys(pose)[None].to(memory.state.ridge.device)
            found = read(memory.state, keys)
            values.append(as_latents(found[0], memory.shape))
            uncertainty.append(found[1])
        return Reading(torch.cat(values), torch.cat(uncertainty))

    def before(
        self,
        memory: AddressedMemory,
        pair: Float[Tensor, "1 c t h w"],
        action: str,
        poses: Float64[Tensor, "n 4"] | None = None,
    ) -> Float[Tensor, " p"]:
        """The reading as a row: what a later slow step on the next pair needs of the memory."""
        reading = self.read([memory], [action], [poses])
        return torch.cat([reading.values.flatten(), reading.uncertainty.flatten()])

    def activate(
        self, rows: Float[Tensor, "b p"] | None, latents: Float[Tensor, "b c t h w"]
    ) -> None:
        """Hand what `before` gave to the denoiser until the next call; None: nothing.

        Args:
            rows: one a sample.
            latents: the samples, for the sizes.
        """
        self._input.reading = None
        if rows is not None:
            new = latents[:, :, -self.num_generated :]
            self._input.reading = Reading(*self._split(rows, new))

    @property
    def is_calibrated(self) -> bool:
        """Whether the denoiser knows how far readings are to be trusted."""
        return bool(self._input.is_calibrated)

    def calibrate(
        self, rows: Sequence[Float[Tensor, " p"]], pairs: Sequence[Float[Tensor, "1 c t h w"]]
    ) -> None:
        """Tell the denoiser how far such readings are to be trusted; a trained one keeps what it knows.

        Args:
            rows: of `before`, of training episodes.
            pairs: what they were read for.
        """
        if self.is_calibrated:
            return
        new = torch.cat([pair[:, :, -self.num_generated :] for pair in pairs])
        values, uncertainty = self._split(torch.stack(list(rows)), new)
        self._input.calibrate(
            values.transpose(1, 2).flatten(0, 1),
            uncertainty.flatten(),
            new.transpose(1, 2).flatten(0, 1),
        )

    def learn(
        self,
        memories: Sequence[AddressedMemory],
        pairs: Float[Tensor, "e c t h w"],
        actions: Sequence[str],
        num_context: int | None = None,
        poses: Poses | None = None,
    ) -> list[FastReport]:
        """Write one chunk of each episode; see `FastLearner.learn`."""
        own = [False] * len(memories)
        found = self.learn_allowed(memories, pairs, actions, num_context, own, poses)
        return [report for report in found if report is not None]

    @torch.no_grad()
    def learn_allowed(
        self,
        memories: Sequence[AddressedMemory],
        pairs: Float[Tensor, "e c t h w"],
        actions: Sequence[str],
        num_context: int | None,
        own: Sequence[bool],
        poses: Poses | None = None,
    ) -> list[FastReport | None]:
        """Write as `learn`, the model's own chunks as the settings say.

        Args:
            memories: one an episode; changed in place.
            pairs: context and new frames.
            actions: one an episode.
            num_context: context frames of these pairs; None: f_p.
            own: of each episode, whether the new frames are the model's own and not true ones.
            poses: recorded ones.

        Returns:
            None for an episode whose chunk was only counted.
        """
        places = self._poses(memories, actions, poses)
        first = self.num_context if num_context is None else num_context
        reports: list[FastReport | None] = []
        for memory, pair, pose, is_own in zip(memories, pairs, places, own, strict=True):
            weight = float(self.settings.own_weight) if is_own else 1.0
            if is_own and not self.settings.own_chunks:
                weight = 0.0
            reports.append(self._write(memory, pair[None], pose, first, weight))
            memory.pose = pose[-1]
            memory.num_chunks += 1
        return reports

    def check_pairs(self, memory: AddressedMemory, expected: tuple[int, ...]) -> None:
        """Refuse a memory of latents of another size.

        Raises:
            ValueError: they differ.
        """
        channels, _, height, width = expected
        if memory.shape != (channels, height, width):
            raise ValueError(
                f"memory {memory.episode!r} was written with latents of (channels, height, width) "
                f"{memory.shape}, but this rollout makes {(channels, height, width)}; give a start of the "
                "size that the memory was written with"
            )

    def store(self, memory: AddressedMemory) -> StoredMemory:
        """Copy a memory that goes on changing.

        Raises:
            ValueError: a number is not finite.
        """
        assert self._origin is not None
        weights = {name: t.to("cpu", copy=True) for name, t in memory.state.state_dict().items()}
        extras = {"pose": memory.pose.clone()}
        if memory.context is not None:
            extras["context"] = memory.context.detach().to("cpu", copy=True)
        shape = torch.tensor(memory.shape, dtype=torch.float32)
        return store(memory, {**weights, SHAPE: shape}, extras, self._origin)

    def restore(self, stored: StoredMemory) -> AddressedMemory:
        """Take up a stored episode where it was left.

        Raises:
            ValueError: it is a memory of another kind, or its keys are not this model's.
        """
        header = stored.header
        if (header.kind, header.r) != ("addressed", self.address.key_size):
            raise ValueError(
                f"memory {header.episode!r} is of kind {header.kind} and size {header.r}; this model "
                f"writes addressed memories of key size {self.address.key_size}"
            )
        device = next(self.denoiser.parameters()).device
        tensors = {name: tensor.to(device) for name, tensor in stored.weights.items()}
        channels, height, width = (int(size) for size in tensors.pop(SHAPE))
        context = stored.extras.get("context")
        return AddressedMemory(
            header.episode,
            AddressedState.from_state_dict(tensors),
            (channels, height, width),
            stored.extras["pose"].double(),
            header.num_chunks,
            None if context is None else context.to(device),
        )

    def lend(self, memory: AddressedMemory, to: AddressedMemory) -> AddressedMemory:
        """A copy of what a memory holds, read where another episode stands; see `MemoryLearner.lend`."""
        pose, count = to.pose.clone(), to.num_chunks  # writing makes a new state
        return AddressedMemory(to.episode, memory.state, memory.shape, pose, count, memory.context)

    def num_bytes(self) -> int:
        """Bytes of one memory of 8 x 8 cells; it never grows."""
        size = self.address.key_size
        return 4 * size * (size + self.denoiser.latent_channels * 64)

    def _split(
        self, rows: Float[Tensor, "b p"], new: Float[Tensor, "b c g h w"]
    ) -> tuple[Float[Tensor, "b c g h w"], Float[Tensor, "b g"]]:
        """Values and uncertainty of rows of `before`."""
        frames = self.num_generated
        return rows[:, :-frames].reshape(new.shape), rows[:, -frames:]

    def _poses(
        self, memories: Sequence[AddressedMemory], actions: Sequence[str], poses: Poses | None
    ) -> list[Float64[Tensor, "g q"]]:
        recorded: Poses = [None] * len(memories)
        if self.settings.odometry == "recorded":
            recorded = recorded if poses is None else poses
            missing = [m.episode for m, p in zip(memories, recorded, strict=True) if p is None]
            if missing:
                raise ValueError(
                    f"odometry is recorded, but episode {missing[0]!r} has no poses; take odometry: actions"
                )
        return [
            self.address.follow(action, self.num_generated, memory.pose, given)
            for memory, action, given in zip(memories, actions, recorded, strict=True)
        ]

    def _write(
        self,
        memory: AddressedMemory,
        pair: Float[Tensor, "1 c t h w"],
        poses: Float64[Tensor, "g q"],
        num_context: int,
        weight: float,
    ) -> FastReport | None:
        """Write the new frames of a pair."""
        began = time.perf_counter()
        if not weight:
            return None
        new = pair[:, :, num_context:].to(memory.state.ridge.device)
        keys = self._keys(self._jittered(memory, poses))[None].to(new.device)
        before = self._error(memory.state, keys, new)
        root = math.sqrt(weight)
        memory.state = write(memory.state, root * keys, root * new)
        after = self._error(memory.state, keys, new)
        size = float(memory.state.weights.norm())
        return FastReport(before, before - after, size, seconds=time.perf_counter() - began)

    def _jittered(
        self, memory: AddressedMemory, poses: Float64[Tensor, "g q"]
    ) -> Float64[Tensor, "g q"]:
        """Poses with the noise of training."""
        way, turn = self.settings.pose_noise
        if not way and not turn:
            return poses
        share = torch.rand((), generator=rng.stream(self.seed, "pose-noise", memory.episode))
        draws = rng.stream(self.seed, "pose-noise", memory.episode, memory.num_chunks)
        noise = torch.randn(poses.shape, generator=draws, dtype=poses.dtype)
        return poses + share.double() * noise * torch.tensor([way, way, turn], dtype=poses.dtype)

    @staticmethod
    def _error(
        state: AddressedState, keys: Float[Tensor, "1 t k"], frames: Float[Tensor, "1 c t h w"]
    ) -> float:
        """Mean squared error of what the memory says of frames."""
        return float((read(state, keys)[0] - as_values(frames)).square().mean())
