"""How well the moves in imagined chunks are the true ones: read off by an inverse model, in true contexts.

    python -m experiments.imagined_moves --model runs/metaworld/model \
        --inverse runs/metaworld-inverse/model --episodes data/hand/shards/val --num_episodes 3 \
        --sampler.num_inference_steps 8

Every chunk of true episodes with poses is imagined once under its true action, and its move (position
alone, units of the world, summed over its frames) is held against the true one, by action:

    true       length of the true move
    imagined   length of what the move read off the imagined frames misses it by
    median     the same, median over chunks
    share      how much of the true move is imagined: least squares, 1 at best
    reader     what the inverse model misses by on the true frames
    read as    share of the imagined pairs of frames that are read as the action
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import fmean, median

import torch
from jaxtyping import Float
from torch import Tensor

from experiments.command import run_command
from sfv.data.episodes import episodes as read_episodes
from sfv.data.schema import EpisodeMeta
from sfv.diffusion.sampler import SamplerSettings
from sfv.generation.chunk_sampler import ChunkSampler
from sfv.models.device import AUTO, find_device
from sfv.models.inverse_dynamics import InverseDynamics, InverseReader, pose_changes
from sfv.models.world_model import WorldModel
from sfv.types import Precision

Move = Float[Tensor, " 3"]


@dataclass(frozen=True)
class ChunkMove:
    """One chunk, imagined and true.

    Args:
        action: its action.
        true: the move by the poses.
        imagined: the move read off the imagined frames.
        reader: the move read off the true frames.
        read_as: share of the imagined pairs that are read as the action.
    """

    action: str
    true: Move
    imagined: Move
    reader: Move
    read_as: float


def chunk_moves(
    meta: EpisodeMeta,
    video: Float[Tensor, "t 3 height width"],
    sampler: ChunkSampler,
    reader: InverseReader,
) -> list[ChunkMove]:
    """Imagine every chunk of an episode behind its true context, and read it; an action may last several.

    Raises:
        ValueError: the episode has no poses, or no chunk with a context before it.
    """
    if meta.poses is None:
        raise ValueError(f"{meta.id} has no poses, so its true moves are not known")
    world, poses = sampler.world, torch.tensor(meta.poses, dtype=torch.float32)
    chunks = [
        (action.text, first)
        for action in meta.actions
        for first in range(action.start, action.stop - world.num_generated + 1, world.num_generated)
        if first >= world.num_context
    ]
    if not chunks:
        raise ValueError(
            f"{meta.id} has no action of {world.num_generated} frames behind {world.num_context} others"
        )
    latents = world.encode(video[None])
    context = torch.cat([latents[:, :, first - world.num_context : first] for _, first in chunks])
    actions = [action for action, _ in chunks]
    names = [(meta.id, i) for i in range(len(chunks))]
    imagined = world.decode(sampler(context, actions, names)).clamp(0, 1)
    found = []
    for (action, first), frames in zip(chunks, imagined, strict=True):
        span = slice(first - 1, first + world.num_generated)
        logits, change = reader.read(torch.cat([video[first - 1 : first], frames]))
        _, on_truth = reader.read(video[span])
        found.append(
            ChunkMove(
                action,
                pose_changes(poses[span]).sum(0)[:3],
                change.sum(0)[:3],
                on_truth.sum(0)[:3],
                float((logits.argmax(1) == reader.model.index_of([action])).float().mean()),
            )
        )
    return found


def table(moves: Sequence[ChunkMove]) -> str:
    """A line an action, in the order of their first chunks, and one of all."""
    heads = ("true", "imagined", "median", "share", "reader", "read as")
    lines = [f"{'action':28}{'chunks':>7}" + "".join(f"{head:>10}" for head in heads)]
    for action in [*dict.fromkeys(move.action for move in moves), None]:
        chosen = [move for move in moves if action in (None, move.action)]
        missed = [float((move.imagined - move.true).norm()) for move in chosen]
        true = torch.stack([move.true for move in chosen])
        along = torch.stack([move.imagined for move in chosen])
        values = (
            float(true.norm(dim=1).mean()),
            fmean(missed),
            median(missed),
            float((along * true).sum() / true.square().sum()),
            fmean(float((move.reader - move.true).norm()) for move in chosen),
            fmean(move.read_as for move in chosen),
        )
        numbers = "".join(f"{value:10.4g}" for value in values)
        lines.append(f"{action or 'all':28}{len(chosen):7}{numbers}")
    return "\n".join(lines)


def imagined_moves(
    model: str,
    inverse: str,
    episodes: Path,
    num_episodes: int | None = None,
    sampler: SamplerSettings = SamplerSettings(),  # noqa: B008 (frozen)
    precision: Precision = "bf16",
    seed: int = 0,
    device: str = AUTO,
) -> None:
    """Print the table.

    Args:
        model: folder of a world model, or `reference`.
        inverse: folder of an inverse dynamics model, or `reference`.
        episodes: folder of video shards with poses.
        num_episodes: how many are taken; null takes all.
        sampler: how chunks are sampled.
        precision: arithmetic of sampling.
        seed: names the noise.
        device: `auto` takes the GPU where there is one; or `cpu`, `cuda`, `cuda:1`, `mps`.
    """
    place = find_device(device)
    world = WorldModel.load(model).to(place)
    reader = InverseReader(InverseDynamics.load(inverse), place)
    sample = ChunkSampler(world, sampler, seed, precision)
    chosen = list(islice(read_episodes(episodes), num_episodes))
    moves = [move for meta, video in chosen for move in chunk_moves(meta, video, sample, reader)]
    print(f"{model} (Φ {world.fingerprint()}), {len(chosen)} episodes, seed {seed}")
    print(table(moves))


def main(argv: Sequence[str] | None = None) -> int:
    """Run; 2 after an error of the input."""
    return run_command("experiments.imagined_moves", imagined_moves, argv)


if __name__ == "__main__":
    sys.exit(main())
