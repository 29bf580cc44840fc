"""How videos are made, and the rollout that makes them so."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from sfv.diffusion.sampler import SamplerSettings
from sfv.diffusion.schedule import NoiseSchedule
from sfv.fast.addressed_learner import AddressedLearner, AddressedSettings
from sfv.fast.learner import FastLearner
from sfv.fast.memory_check import read_fields
from sfv.fast.memory_file import MemoryOrigin
from sfv.fast.protocol import MemoryLearner
from sfv.fast.settings import FastSettings, LoRASettings
from sfv.generation.rollout import Rollout
from sfv.models.world_model import WorldModel
from sfv.types import MemoryKind, Precision

Row = Literal["none", "temp_lora", "fast"]
"""A row of the report: without memory, with the paper's temporal LoRA, or with the model's own memory."""


@dataclass(frozen=True)
class GenerationSettings:
    """How videos are made.

    Args:
        sampler: diffusion sampler, sampling steps, guidance.
        lora: the shape of Θ.
        fast: how Θ learns.
        addressed: how an addressed memory is written, where the model has one.
        precision: arithmetic; `bf16` is faster on recent CPUs and GPUs.
        seed: names the noise; rows share it.
        videos_at_once: videos in one batch when episodes are measured; each has its own Θ and comes out
            as it would alone, up to rounding.
    """

    sampler: SamplerSettings = field(default_factory=SamplerSettings)
    lora: LoRASettings = field(default_factory=LoRASettings)
    fast: FastSettings = field(default_factory=FastSettings)
    addressed: AddressedSettings = field(default_factory=AddressedSettings)
    precision: Precision = "32"
    seed: int = 0
    videos_at_once: int = 1

    def __post_init__(self) -> None:
        if self.videos_at_once < 1:
            raise ValueError(f"videos_at_once is {self.videos_at_once}; allowed: at least 1")

    def resolved(self, schedule: NoiseSchedule) -> "GenerationSettings":
        """The same with the number of sampling steps that a model of this schedule takes."""
        steps = self.sampler.steps(schedule)
        return replace(self, sampler=replace(self.sampler, num_inference_steps=steps))

    def of(self, kind: MemoryKind) -> dict[str, Any]:
        """What a memory of a kind keeps of them, as JSON: all that decides how its video goes on."""
        content = asdict(self)
        for other in _UNUSED[kind]:
            del content[other]
        return content


_UNUSED: dict[MemoryKind, tuple[str, ...]] = {
    "temp_lora": ("addressed",),
    "addressed": ("lora", "fast"),
}
"""Settings that a kind of memory does without."""


def settings_from(content: Mapping[str, Any], kind: MemoryKind, source: str) -> GenerationSettings:
    """The settings that a memory's header keeps.

    Raises:
        ValueError: they are of another version, or a number is out of the limits of files.
    """
    kept = ("sampler", "lora", "fast", "addressed", "precision", "seed")
    needed = [name for name in kept if name not in _UNUSED[kind]]
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


def memory_of(model: WorldModel, row: Row) -> MemoryKind | None:
    """The kind of memory of a row: `fast` is addressed where the model reads such a memory."""
    if row == "none":
        return None
    return "addressed" if row == "fast" and model.address is not None else "temp_lora"


def row_of(model: WorldModel, kind: MemoryKind) -> Row:
    """The row that has a kind of memory."""
    return "fast" if memory_of(model, "fast") == kind else "temp_lora"


@contextmanager
def rollout_of(model: WorldModel, row: Row, settings: GenerationSettings) -> Iterator[Rollout]:
    """Build the rollout of a row; a memory acts in the denoiser only within this context."""
    kind, settings = memory_of(model, row), settings.resolved(model.schedule)
    if kind is None:
        yield Rollout(model, settings.sampler, None, settings.seed, settings.precision)
        return
    with LEARNERS[kind](model, settings) as learner:
        yield Rollout(model, settings.sampler, learner, settings.seed, settings.precision)


@contextmanager
def _temp_lora(model: WorldModel, settings: GenerationSettings) -> Iterator[FastLearner]:
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
            MemoryOrigin(
                model.fingerprint, settings.lora.r, settings.lora.alpha, settings.of("temp_lora")
            ),
        )
        if model.start is not None:
            learner.start_from(settings.lora.theta(lora, model.start))
        yield learner


@contextmanager
def _addressed(model: WorldModel, settings: GenerationSettings) -> Iterator[AddressedLearner]:
    assert model.address is not None
    address = model.address
    origin = MemoryOrigin(
        model.fingerprint, address.key_size, address.ridge, settings.of("addressed"), "addressed"
    )
    yield AddressedLearner(
        model.denoiser,
        address,
        model.num_context,
        model.num_generated,
        settings.addressed,
        settings.seed,
        origin,
    )


LEARNERS: dict[
    MemoryKind,
    Callable[[WorldModel, GenerationSettings], AbstractContextManager[MemoryLearner]],
] = {"temp_lora": _temp_lora, "addressed": _addressed}
"""One line for each kind of memory: what builds its learner."""
