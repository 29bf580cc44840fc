"""The inverse dynamics model as a LightningModule: wiring only, and its accuracy on held-out maps."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from sfv import rng
from sfv.data.schema import EpisodeMeta
from sfv.diffusion.objective import with_noise
from sfv.metrics.action_following import Spans, chance, read_chunks, share_read
from sfv.metrics.protocol import MetricValue, Passport, Row, mean_value
from sfv.metrics.suite_common import videos_hash
from sfv.models.inverse_dynamics import (
    InverseDynamics,
    InverseReader,
    inverse_losses,
    pose_changes,
)


class InverseDynamicsLearner(pl.LightningModule):
    """Learns which action and which change of pose lies between consecutive frames of true videos.

    Args:
        network: the inverse model; all of it is trained.
        optimizer: called with the parameters to train.
        lr_scheduler: called with the optimiser, stepped once a step; none keeps the rate constant.
        pose_weight: weight of the continuous head's loss beside the discrete one's; 0 or more.
        frame_noise: largest deviation of the noise on the frames in training, where white is 1; every
            window draws its own from 0 to this. Imagined frames keep noise, which is else read as moves.
        seed: names the noise streams.
    """

    def __init__(
        self,
        network: InverseDynamics,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
        pose_weight: float | int = 1.0,
        frame_noise: float | int = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if pose_weight < 0:
            raise ValueError(f"pose_weight is {pose_weight}; allowed: 0 or more")
        if not 0 <= frame_noise <= 1:
            raise ValueError(f"frame_noise is {frame_noise}; allowed: 0 to 1")
        self.network, self.pose_weight = network, pose_weight
        self.frame_noise, self.seed = frame_noise, seed
        self.make_optimizer: Callable[..., Any] = optimizer
        self.make_scheduler: Callable[..., Any] | None = lr_scheduler

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Float[Tensor, ""]:
        frames = _frames(batch)
        if self.frame_noise:
            place = self.global_step, batch_idx, self.global_rank
            draws = rng.stream(self.seed, "frame-noise", *place)
            frames = with_noise(frames, self.frame_noise, draws)
        loss, _ = self._loss(batch, frames)
        self.log("inverse/loss", loss, prog_bar=True, batch_size=len(batch["actions"]))
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        loss, correct = self._loss(batch, _frames(batch))
        size = len(batch["actions"])
        self.log("val/loss", loss, prog_bar=True, sync_dist=True, batch_size=size)
        self.log("val/pair_accuracy", correct, prog_bar=True, sync_dist=True, batch_size=size)

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.parameters())
        if self.make_scheduler is None:
            return optimizer
        scheduler = {"scheduler": self.make_scheduler(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def save(self, folder: Path) -> None:
        """Write the inverse model."""
        self.network.save(folder)

    def _loss(
        self, batch: dict[str, Any], frames: Float[Tensor, "b t 3 height width"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The loss, and the share of pairs whose action is read."""
        before, after = frames[:, :-1].flatten(0, 1), frames[:, 1:].flatten(0, 1)
        num_pairs = frames.shape[1] - 1
        action = self.network.index_of(batch["actions"]).repeat_interleave(num_pairs)
        action = action.to(before.device)
        logits, pose = self.network(before, after)
        if "poses" in batch:
            change = pose_changes(batch["poses"]).flatten(0, 1)
        else:
            change = torch.full_like(pose, float("nan"))
        losses = inverse_losses(logits, pose, action, change, self.network.get_buffer("pose_scale"))
        correct = (logits.argmax(dim=1) == action).float().mean()
        return losses.action + self.pose_weight * losses.pose, correct


def _frames(batch: dict[str, Any]) -> Float[Tensor, "b t 3 height width"]:
    frames: Tensor = batch["video"].float() / 255
    return frames


@dataclass(frozen=True)
class EpisodeReading:
    """How well one true episode is read.

    Attributes:
        pairs: share of frame pairs whose action is read.
        chunks: share of chunks whose action is read by majority.
        chance: of `chunks`, its readings put on the chunks at random.
        turn: mean error of the change of yaw between two frames, degrees; NaN without poses.
        move: mean error of the move between two frames, units of the world; NaN without poses.
    """

    pairs: float
    chunks: float
    chance: float
    turn: float
    move: float


def spans_of(meta: EpisodeMeta) -> Spans:
    """Every action of an episode with its frames; the first needs two to be read."""
    return [(a.text, a.start, a.stop) for a in meta.actions if a.stop - max(0, a.start - 1) > 1]


def read_episode(
    meta: EpisodeMeta, video: Float[Tensor, "t 3 height width"], reader: InverseReader
) -> EpisodeReading:
    """Read a true episode."""
    logits, pose = reader.read(video)
    owners = [action.text for action in meta.actions for _ in range(action.start, action.stop)]
    wanted = reader.model.index_of(owners[1:])
    spans = spans_of(meta)
    asked, read = [text for text, _, _ in spans], read_chunks(video, spans, reader)
    turn = move = float("nan")
    if meta.poses is not None:
        error = pose - pose_changes(torch.tensor(meta.poses, dtype=torch.float32))
        turn = float(error[:, 3].abs().mean())
        move = float(error[:, :3].norm(dim=1).mean())
    return EpisodeReading(
        pairs=float((logits.argmax(dim=1) == wanted).float().mean()),
        chunks=share_read(read, asked),
        chance=chance(read, asked),
        turn=turn,
        move=move,
    )


def held_out_accuracy(
    reader: InverseReader,
    episodes: Iterable[tuple[EpisodeMeta, Float[Tensor, "t 3 height width"]]],
    seed: int = 0,
) -> Row:
    """Read true episodes; a row for `report_json`.

    Raises:
        ValueError: an episode has an action that the model does not know, or there is no episode.
    """
    readings: list[EpisodeReading] = []
    hashes: list[str] = []
    for meta, video in episodes:
        readings.append(read_episode(meta, video, reader))
        hashes.append(videos_hash([video]))
    if not readings:
        raise ValueError("there is no episode to read; give a folder of held-out episodes as video")
    base = Passport(
        "",
        "next_chunk",
        len(readings),
        seed=seed,
        context="true videos",
        reference_sha256=hashlib.sha256("".join(hashes).encode()).hexdigest()[:16],
        network=reader.name,
        network_sha256=reader.sha256,
        resize=reader.resize,
    )
    names = {
        "pair_accuracy": ("pairs", "single frame pairs"),
        "action_accuracy": ("chunks", "majority over the frame pairs of a chunk"),
        "action_accuracy_floor": ("chance", "readings put on the episode's chunks at random"),
        "turn_error": ("turn", "mean absolute error a frame pair, degrees"),
        "move_error": ("move", "mean length of the error a frame pair, units of the world"),
    }
    metrics: dict[str, MetricValue] = {}
    for name, (attribute, settings) in names.items():
        each = [float(getattr(reading, attribute)) for reading in readings]
        metrics[name] = mean_value(each, replace(base, metric=name, settings=settings))
    return Row(len(readings), metrics)
