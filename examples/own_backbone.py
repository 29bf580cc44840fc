"""A denoiser of one's own that learns slowly and fast: `python -m examples.own_backbone`, a few seconds."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from jaxtyping import Float, Real
from torch import Tensor, nn

from sfv import rng
from sfv.diffusion.objective import draw_timesteps, masked_conditional_loss
from sfv.diffusion.schedule import NoiseSchedule
from sfv.fast.learner import FastLearner, FastSettings
from sfv.models.text import ActionTable


class FrameTransformer(nn.Module):
    """One token a frame, one layer: a `sfv.types.Denoiser` for latents of 3 x 8 x 8."""

    latent_channels, text_dim, side, width = 3, 8, 8, 64

    def __init__(self) -> None:
        super().__init__()
        size = self.latent_channels * self.side**2
        self.inward, self.outward = nn.Linear(size, self.width), nn.Linear(self.width, size)
        self.noise, self.words = nn.Linear(1, self.width), nn.Linear(self.text_dim, self.width)
        self.layer = nn.TransformerEncoderLayer(self.width, 4, dropout=0.0, batch_first=True)

    def forward(
        self,
        latents: Float[Tensor, "b c t h w"],
        timestep: Real[Tensor, " b"],
        text: Float[Tensor, "b n d"],
        num_context: int,
    ) -> Float[Tensor, "b c t h w"]:
        """Predict for every frame; context frames are told that they carry no noise."""
        frames = latents.transpose(1, 2)
        is_noised = (torch.arange(frames.shape[1]) >= num_context).float()
        level = is_noised[None, :, None] * timestep[:, None, None] / 1000
        tokens = self.inward(frames.flatten(2)) + self.noise(level)
        tokens = self.layer(tokens + self.words(text.mean(1))[:, None])
        out: Tensor = self.outward(tokens)
        return out.unflatten(2, frames.shape[2:]).transpose(1, 2)


class LastLayerLoRA:
    """A `sfv.types.FastWeights`: Θ is a low-rank update of the last layer, W + B·A."""

    def __init__(self, denoiser: FrameTransformer, r: int = 8) -> None:
        self.a, self.b = (r, denoiser.width), (denoiser.outward.out_features, r)
        self.num_weights = r * (self.a[1] + self.b[0])
        self.active: Tensor | None = None
        denoiser.outward.register_forward_hook(self._add)

    def fresh(self, generator: torch.Generator) -> Float[Tensor, " p"]:
        """B = 0: the denoiser with it equals its base."""
        a = torch.randn(self.a, generator=generator) / self.a[1] ** 0.5
        return torch.cat([a.flatten(), torch.zeros(self.b).flatten()])

    @contextmanager
    def use(self, theta: Float[Tensor, "e p"] | None) -> Iterator[None]:
        """Inside, every episode of a batch has its own Θ."""
        self.active = theta
        try:
            yield
        finally:
            self.active = None

    def merged(self, theta: Float[Tensor, " p"]) -> AbstractContextManager[None]:
        """One Θ; nothing is folded here."""
        return self.use(theta[None])

    def state(self, theta: Float[Tensor, " p"]) -> dict[str, Tensor]:
        """A copy by name."""
        a, b = self._split(theta[None].detach().cpu().clone())
        return {"lora_A": a[0], "lora_B": b[0]}

    def theta(self, state: dict[str, Tensor]) -> Float[Tensor, " p"]:
        """The Θ that `state` gave."""
        return torch.cat([state["lora_A"].flatten(), state["lora_B"].flatten()])

    def drift(self, theta: Float[Tensor, " p"]) -> dict[str, float]:
        """‖B·A‖."""
        a, b = self._split(theta[None])
        return {"outward": torch.linalg.matrix_norm(b @ a).item()}

    def _split(self, theta: Float[Tensor, "e p"]) -> tuple[Tensor, Tensor]:
        num = self.a[0] * self.a[1]
        return theta[:, :num].unflatten(1, self.a), theta[:, num:].unflatten(1, self.b)

    def _add(self, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if self.active is None:
            return output
        a, b = self._split(self.active)
        x = inputs[0].unflatten(0, (len(a), -1)).flatten(1, 2)
        return output + (x @ a.mT @ b.mT).view_as(output)


def main() -> None:
    """Train slowly on one clip, then let Θ learn another."""
    with torch.random.fork_rng():
        torch.manual_seed(0)  # PyTorch's layers draw their weights globally
        denoiser, text = FrameTransformer(), ActionTable(["walk forward"], text_dim=8)
    schedule = NoiseSchedule()
    first, second = torch.randn(2, 1, 3, 16, 8, 8, generator=rng.stream(0, "clips"))
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=3e-3)
    for step in range(200):
        generator = rng.stream(0, "slow", step)
        noise, t = (
            torch.randn(first.shape, generator=generator),
            draw_timesteps(1, schedule, generator),
        )
        loss = masked_conditional_loss(denoiser, first, text([""]), noise, t, 8, schedule).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"slow loss after 200 steps: {loss.item():.3f}")

    settings = FastSettings(num_steps=20, learning_rate=3e-3, draws_per_step=8, probe_draws=8)
    learner = FastLearner(denoiser, LastLayerLoRA(denoiser), schedule, text, 8, settings)
    (report,) = learner.learn([learner.fresh("walk")], second, ["walk forward"])
    print(
        f"held-out loss down by {report.gain:.4f}, drift {report.drift:.3f}, undone: {report.undone}"
    )


if __name__ == "__main__":
    main()
