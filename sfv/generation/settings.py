"""How videos are made, and the rollout that makes them so."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from sfv.diffusion.sampler import SamplerSettings
from sfv.fast.learner import FastLearner
from sfv.fast.memory_check import read_fields
from sfv.fast.memory_file import MemoryOrigin
from sfv.fast.settings import FastSettings, LoRASettings
from sfv.generation.rollout import Rollout
from sfv.models.world_model import WorldModel
from sfv.types import Precision

Row = Literal["none", "fast"]
"""A row of the report: without memory, or with fast learning."""


@dataclass(frozen=True)
class GenerationSettings:
    """How videos are made.

    Args:
        sampler: diffusion sampler, sampling steps, guidance.
        lora: the shape of Θ.
        fast: how Θ learns.
        precision: arithmetic; `bf16` is faster on recent CPUs and GPUs.
        seed: names the noise; rows share it.
        videos_at_once: videos in one batch when episodes are measured; each has its own Θ and comes out
            as it would alone, up to rounding.
    """

    sampler: SamplerSettings = field(default_factory=SamplerSettings)
    lora: LoRASettings = field(default_factory=LoRASettings)
    fast: FastSettings = field(default_factory=FastSettings)
    precision: Precision = "32"
    seed: int = 0
    videos_at_once: int = 1

    def __post_init__(self) -> None:
        if self.videos_at_once < 1:
            raise ValueError(f"videos_at_once is {self.videos_at_once}; allowed: at least 1")


def settings_from(content: Mapping[str, Any], source: str) -> GenerationSettings:
    """The settings that a memory's header keeps.

    Raises:
        ValueError: they are of another version, or a number is out of the limits of files.
    """
    needed = ("sampler", "lora", "fast", "precision", "seed")
    try:
        missing = [name for name in needed if name not in content]
        if missing:
            raise ValueError(f"{source}: settings.{missing[0]} is missing")
        given = {name: content[name] for name in needed}
        return read_fields(GenerationSettings, given, f"{source}: settings")
    except ValueError as error:
        raise ValueError(
            f"{error}. The memory does not say how its rollout was made: give the --generation settings "
            "yourself"
        ) from error


@contextmanager
def rollout_of(model: WorldModel, row: Row, settings: GenerationSettings) -> Iterator[Rollout]:
    """Build the rollout of a row; Θ acts in the denoiser only within this context."""
    if row == "none":
        yield Rollout(model, settings.sampler, None, settings.seed, settings.precision)
        return
    with settings.lora.adapt(model.denoiser) as lora:
        learner = FastLearner(
            model.denoiser,
            lora,
            model.schedule,
            model.text,
            model.num_context,
            settings.fast,
            settings.seed,
            settings.precision,
            MemoryOrigin(model.fingerprint, settings.lora.r, settings.lora.alpha, asdict(settings)),
        )
        if model.start is not None:
            learner.start_from(settings.lora.theta(lora, model.start))
        yield Rollout(model, settings.sampler, learner, settings.seed, settings.precision)
