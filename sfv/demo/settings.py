"""Numbers of the demo: one place, three sizes."""

from dataclasses import dataclass, field, replace

from sfv.diffusion.sampler import SamplerSettings
from sfv.fast.learner import FastSettings
from sfv.fast.settings import LoRASettings
from sfv.models.model_folder import REFERENCE

STEPS_PER_MINUTE = 120
"""Slow steps that two CPU cores make in a minute (measured: 106 to 140).

`--minutes` is turned into steps by it, so that a run's numbers depend on its settings and not on how
busy the machine is.
"""

ACTIONS = ("walk forward", "walk backward", "turn left", "turn right")


@dataclass(frozen=True)
class DemoSettings:
    """What the demo does.

    Args:
        size: height and width of the frames, in pixels.
        chunk_frames: frames of one action; f_p = f_g = this.
        train_episodes: random walks to train on.
        val_episodes: walks for the validation loss.
        test_episodes: there-and-back walks on held-out maps.
        train_chunks: chunks of a training walk.
        test_chunks: chunks of a test walk (odd: the first, then as many back as out).
        base: world model that slow learning goes on from, whose codec is used, and whose world is walked:
            plain mazes; None starts from random weights, fits a codec, and walks through Doom levels.
        slow_steps: slow training steps.
        batch_size: windows of a slow step.
        learning_rate: peak of the slow learning rate.
        loop_steps: slow steps inside the slow-fast loop.
        loop_chunks: chunk pairs of each episode in the loop; None takes all, so that places return.
        sampler: how chunks are sampled.
        lora: the shape of Θ.
        fast: how Θ learns.
        seed: of everything.
    """

    size: int = 64
    chunk_frames: int = 8
    train_episodes: int = 60
    val_episodes: int = 4
    test_episodes: int = 10
    train_chunks: int = 17
    test_chunks: int = 17
    base: str | None = REFERENCE
    slow_steps: int = 16
    batch_size: int = 8
    learning_rate: float = 5e-5
    loop_steps: int = 24
    loop_chunks: int | None = None
    sampler: SamplerSettings = field(
        default_factory=lambda: SamplerSettings("ddim", num_inference_steps=4)
    )
    lora: LoRASettings = field(default_factory=LoRASettings)
    fast: FastSettings = field(default_factory=lambda: FastSettings(learning_rate=1e-3))
    seed: int = 0

    def quick(self) -> "DemoSettings":
        """At most three minutes on two cores."""
        return replace(
            self,
            train_episodes=24 if self.base else 48,
            test_episodes=2,
            slow_steps=4 if self.base else 64,
            loop_steps=8,
            loop_chunks=None if self.base else 4,
            sampler=replace(self.sampler, num_inference_steps=3),
            fast=replace(self.fast, num_steps=1),
        )

    def from_scratch(self) -> "DemoSettings":
        """From random weights."""
        return replace(
            self,
            base=None,
            train_episodes=200,
            test_episodes=3,
            train_chunks=25,
            test_chunks=27,
            slow_steps=240,
            batch_size=4,
            learning_rate=2e-3,
            loop_steps=64,
            loop_chunks=8,
            fast=FastSettings(),
        )

    def for_minutes(self, minutes: float) -> "DemoSettings":
        """Scale slow training to about `minutes` on two cores."""
        if minutes <= 0:
            raise ValueError(f"--minutes is {minutes}; it must be above 0")
        return replace(self, slow_steps=max(1, round(minutes * STEPS_PER_MINUTE)))
