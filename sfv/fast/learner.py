"""The fast learner: trains Θ on the chunk pair that has just been made (Algorithm 1a, eq. 3).

"No input-output format, both chunks noised and supervised, no action": each fast step noises the
joined chunks S = X ++ Y on every frame and descends the plain denoising loss with respect to Θ alone.
Many episodes learn in one batch, each its own Θ with its own optimiser and its own noise: every number
is, up to rounding, the one that the episode would get alone.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Real
from torch import Tensor, nn

from sfv import rng
from sfv.backbones.recompute import recomputing
from sfv.diffusion.objective import draw_timesteps, masked_conditional_loss
from sfv.diffusion.schedule import NoiseSchedule
from sfv.fast.guard import Outcome, did_harm
from sfv.fast.history import every_other_backward, remember, replayed
from sfv.fast.memory import Exam, FirstPair, Memory, make_optimizer
from sfv.fast.memory_file import MemoryOrigin, StoredMemory, require_lora, store
from sfv.fast.modes import autocast, frozen
from sfv.fast.protocol import FastReport as FastReport
from sfv.fast.settings import RULES
from sfv.fast.settings import FastSettings as FastSettings
from sfv.types import FastWeights, Precision


class FastLearner:
    """Trains memories through a denoiser, one chunk pair after the other.

    Args:
        denoiser: ε_{Φ+Θ}; Φ is frozen while this learns.
        weights: hands Θ to `denoiser`.
        schedule: the noise schedule that Φ was trained with.
        text: turns actions into token states; asked anew for every pair, because a learned text encoder
            changes between fast phases.
        num_context: f_p: how many frames of a pair are its context.
        settings: K, α and the like.
        seed: names the noise streams.
        precision: arithmetic of the forward pass; Θ and its optimiser stay in float32.
        origin: what stored memories name as theirs; None where none is stored.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        weights: FastWeights,
        schedule: NoiseSchedule,
        text: Callable[[Sequence[str]], Float[Tensor, "b n d"]],
        num_context: int,
        settings: FastSettings,
        seed: int = 0,
        precision: Precision = "32",
        origin: MemoryOrigin | None = None,
    ) -> None:
        self.denoiser: Any = denoiser  # a module that is a Denoiser; mypy has no type for "both"
        self.weights, self.schedule, self.text = weights, schedule, text
        self.settings, self.seed, self.precision = settings, seed, precision
        self.rule = RULES[settings.rule]
        self.num_context = min(num_context, self.rule.context_frames or num_context)
        self._given = num_context
        self._origin = origin
        self._texts: dict[tuple[str, ...], Tensor] = {}
        self._start: Float[Tensor, " p"] | None = None

    @property
    def start(self) -> Float[Tensor, " p"] | None:
        """A learned Θ_0 for all episodes, on the CPU; None draws one for each."""
        return self._start

    def start_from(self, start: Float[Tensor, " p"] | None) -> None:
        """Begin the episodes to come with this Θ_0."""
        self._start = start

    def fresh(self, episode: str, context: Tensor | None = None) -> Memory:
        """Start an episode: Θ fresh (or the learned start), optimiser fresh.

        Args:
            episode: names the episode's random streams.
            context: unused; Θ learns pairs.
        """
        return self._memory(episode, self._theta_0(episode), 0)

    def acting(
        self, memories: Sequence[Memory], actions: Sequence[str] = (), poses: object = None
    ) -> AbstractContextManager[None]:
        """Inside, each memory acts on the samples of its episode, which stand side by side in a batch.

        A single one is folded into the weights, which costs a forward pass nothing.

        Args:
            memories: at least one.
            actions: unused; Θ has no address.
            poses: unused.
        """
        if len(memories) == 1:
            return self.weights.merged(memories[0].theta)
        return self.weights.use(torch.stack([memory.theta for memory in memories]))

    def before(
        self, memory: Memory, pair: Tensor, action: str, poses: object = None
    ) -> Float[Tensor, " p"]:
        """What a later slow step on the next pair needs of the memory as it is now: Θ."""
        return memory.theta

    def activate(
        self, rows: Float[Tensor, "b p"] | None, latents: Float[Tensor, "b c t h w"]
    ) -> None:
        """Hand what `before` gave to the denoiser until the next call; None leaves the base."""
        self.weights.activate(rows)

    def store(self, memory: Memory) -> StoredMemory:
        """Copy a memory that goes on changing; raises `ValueError` where a number is not finite."""
        assert self._origin is not None
        return store(memory, self.weights.state(memory.theta), memory.extras(), self._origin)

    def restore(self, stored: StoredMemory) -> Memory:
        """Take up a stored episode where it was left.

        Raises:
            ValueError: the memory is of another kind, of other layers or another rank.
        """
        require_lora(stored)
        header, theta = stored.header, self.weights.theta(stored.weights)
        memory = self._memory(header.episode, theta, header.num_chunks)
        memory.restore(stored.extras)
        return memory

    def lend(self, memory: Memory, to: Memory) -> Memory:
        """A copy of what a memory has learned, for the episode of another and its place in it."""
        copy = self._memory(to.episode, memory.theta, to.num_chunks)
        copy.restore(memory.extras())
        return copy

    def num_bytes(self) -> int:
        """Bytes of one memory: Θ, and the optimiser's state once it has learned."""
        copies = 3 if self.settings.optimizer == "adam" else 1
        return 4 * copies * self.weights.num_weights

    def check_pairs(self, memory: Memory, expected: tuple[int, ...]) -> None:
        """Refuse a memory whose kept pairs this learner would join with pairs of another size.

        Args:
            memory: one to go on with.
            expected: channels, frames, height and width of the pairs to come.

        Raises:
            ValueError: they differ.
        """
        kept = memory.history[:1] if self.rule.replays else []
        watches = self.settings.guard is not None and self.settings.probe_draws > 0
        if watches and memory.first is not None:
            kept = [*kept, memory.first.latents]
        for pair in kept:
            if tuple(pair.shape[1:]) != expected:
                raise ValueError(
                    f"memory {memory.episode!r} keeps pairs of (channels, frames, height, width) "
                    f"{tuple(pair.shape[1:])}, but this rollout makes {expected}; go on with a start of "
                    "the size that the memory was learned on"
                )

    def learn(
        self,
        memories: Sequence[Memory],
        pairs: Float[Tensor, "e c t h w"],
        actions: Sequence[str],
        num_context: int | None = None,
        poses: object = None,
    ) -> list[FastReport]:
        """Take K steps on one pair S = X ++ Y of each episode, all in one batch.

        Args:
            memories: one an episode; changed in place.
            pairs: context (f_p frames) and generated latents, joined in time.
            actions: what leads from one to the other; most rules leave it out.
            num_context: context frames of these pairs, of which the rule may keep fewer; None: f_p.
            poses: unused.
        """
        began = time.perf_counter()
        self._texts.clear()
        with torch.inference_mode(False), frozen(self.denoiser):
            cut = (num_context or self._given) - self.num_context
            device = next(self.denoiser.parameters()).device
            pairs = pairs[:, :, cut:].to(
                device, copy=True
            )  # inference tensors cannot be trained on
            now = Exam(pairs, list(actions), [memory.num_chunks for memory in memories])
            before = self._examine(memories, [now])[:, 0].tolist()
            self._watch(memories, now, before)
            saved = [(m.theta.clone(), m.optimizer_state()) for m in memories]
            trained = self._train(memories, now)
            after = self._examine(memories, self._exams_after(memories, now)).tolist()
        losses = zip(trained, before, after, strict=True)
        reports = []
        for memory, pair, earlier, loss in zip(memories, pairs, saved, losses, strict=True):
            reports.append(self._finish(memory, pair[None], earlier, *loss))
        share = (time.perf_counter() - began) / len(memories)
        return [replace(report, seconds=share) for report in reports]

    def learn_allowed(
        self,
        memories: Sequence[Memory],
        pairs: Float[Tensor, "e c t h w"],
        actions: Sequence[str],
        num_context: int,
        own: Sequence[bool],
        poses: object = None,
    ) -> list[FastReport | None]:
        """Learn as `learn`, but no chunk that the model made itself where `own_chunks` forbids it.

        Args:
            memories: as in `learn`.
            pairs: as in `learn`.
            actions: as in `learn`.
            num_context: as in `learn`.
            own: of each episode, whether the newest chunk is the model's own and not a true one.
            poses: unused.

        Returns:
            None for an episode whose chunk was only counted.
        """
        reports: list[FastReport | None] = [None] * len(memories)
        allowed = [i for i, is_own in enumerate(own) if self.settings.own_chunks or not is_own]
        if allowed:
            chosen, given = [memories[i] for i in allowed], [actions[i] for i in allowed]
            found = self.learn(chosen, pairs[allowed], given, num_context)
            for i, report in zip(allowed, found, strict=True):
                reports[i] = report
        for i, memory in enumerate(memories):
            memory.num_chunks += i not in allowed
        return reports

    def _train(self, memories: Sequence[Memory], exam: Exam) -> list[float]:
        """K steps; the mean training loss of each episode."""
        settings = self.settings
        losses = []
        for memory in memories:
            memory.theta.requires_grad_(True)
            if not settings.keep_optimizer:
                memory.optimizer.state.clear()
        for step in range(settings.num_steps):
            latents = self._latents(memories, exam, step)
            noise, timestep = self._draw("fast-noise", memories, exam, step, latents.shape[1])
            theta = torch.stack([memory.theta for memory in memories])
            recompute = recomputing(self.denoiser, settings.activation_checkpointing)
            with torch.enable_grad(), self.weights.use(theta), recompute:
                loss = self._losses(latents, exam.actions, noise, timestep).mean(dim=1)
                gradients = torch.autograd.grad(loss.sum(), [m.theta for m in memories])
            for memory, gradient in zip(memories, gradients, strict=True):
                memory.theta.grad = gradient
                memory.optimizer.step()
                memory.theta.grad = None
            losses.append(loss.detach())
        for memory in memories:
            memory.theta.requires_grad_(False)
        if not losses:
            return [math.nan] * len(memories)
        return torch.stack(losses).mean(dim=0).tolist()

    def _examine(self, memories: Sequence[Memory], exams: Sequence[Exam]) -> Float[Tensor, "e n"]:
        """Held-out losses of every episode on each exam, in one forward pass; NaN without probes."""
        num = self.settings.probe_draws
        if not num:
            return torch.full((len(memories), len(exams)), math.nan)
        drawn = [self._draw("fast-probe", memories, exam, 0, num) for exam in exams]
        latents = [exam.pairs.unsqueeze(1).expand(-1, num, -1, -1, -1, -1) for exam in exams]
        actions = [a for given in zip(*(e.actions for e in exams), strict=True) for a in given]
        theta = torch.stack([memory.theta for memory in memories])
        with torch.no_grad(), self.weights.use(theta):
            losses = self._losses(
                torch.cat(latents, dim=1),
                actions,
                torch.cat([noise for noise, _ in drawn], dim=1),
                torch.cat([timestep for _, timestep in drawn], dim=1),
            )
        return torch.unflatten(losses, 1, (len(exams), num)).mean(dim=2)

    def _watch(self, memories: Sequence[Memory], exam: Exam, losses: Sequence[float]) -> None:
        """Note the first pair of each episode, with its loss before all learning."""
        if self.settings.guard is None or not self.settings.probe_draws:
            return
        for i, memory in enumerate(memories):
            if memory.first is None:
                pair = exam.pairs[i : i + 1]
                memory.first = FirstPair(pair, exam.actions[i], exam.chunk_idx[i], losses[i])

    def _exams_after(self, memories: Sequence[Memory], now: Exam) -> list[Exam]:
        """The newest pairs, and where a guard watches them the first ones, unless they are the same."""
        first = [memory.first for memory in memories if memory.first is not None]
        watching = self.settings.guard is not None and self.settings.probe_draws and first
        if not watching or now.chunk_idx == [pair.chunk_idx for pair in first]:
            return [now]
        pairs = torch.cat([pair.latents for pair in first])
        return [now, Exam(pairs, [p.action for p in first], [p.chunk_idx for p in first])]

    def _finish(
        self,
        memory: Memory,
        pair: Float[Tensor, "1 c t h w"],
        saved: tuple[Tensor, dict[str, Tensor]],
        trained: float,
        before: float,
        after: Sequence[float],
    ) -> FastReport:
        """Keep or undo what was learned, count the chunk, report."""
        settings, first = self.settings, memory.first
        reference = math.nan if first is None else first.loss
        outcome = Outcome(trained, before, after[0], after[-1], reference)
        undone = False
        if settings.guard is not None and settings.num_steps:
            finite = bool(torch.isfinite(memory.theta).all())
            undone = did_harm(outcome, settings.guard, settings.probe_draws > 0, finite)
        if undone:
            memory.put_back(*saved)
        if settings.reset_after is not None and memory.is_stuck(undone, settings.reset_after):
            memory.put_back(self._theta_0(memory.episode), {})
        if self.rule.replays:
            remember(memory, pair, settings.history, self.seed)
        memory.num_chunks += 1
        layers = self.weights.drift(memory.theta)
        drift = math.sqrt(sum(norm**2 for norm in layers.values()))
        gain = 0.0 if undone else before - after[0]
        return FastReport(trained, gain, drift, undone, layers=layers)

    def _latents(
        self, memories: Sequence[Memory], exam: Exam, step: int
    ) -> Float[Tensor, "e n c t h w"]:
        """The pairs of one fast step, one a noise draw."""
        num = self.settings.draws_per_step
        if not self.rule.replays:
            latents = exam.pairs.unsqueeze(1).expand(-1, num, -1, -1, -1, -1)
            return every_other_backward(latents, step * num) if self.rule.both_ways else latents
        cases = zip(memories, exam.pairs, strict=True)
        return torch.stack([replayed(m, pair[None], num, self.seed, step) for m, pair in cases])

    def _losses(
        self,
        latents: Float[Tensor, "e n c t h w"],
        actions: Sequence[str],
        noise: Float[Tensor, "e n c t h w"],
        timestep: Real[Tensor, "e n"],
    ) -> Float[Tensor, "e n"]:
        """The rule's loss of each draw; an action serves equally many draws."""
        shape, rule = latents.shape[:2], self.rule
        num = math.prod(shape)
        with autocast(latents.device, self.precision):
            text = self._states(tuple(actions) if rule.uses_action else ("",))
            text = text.repeat_interleave(num // len(text), dim=0)
            losses = masked_conditional_loss(
                self.denoiser,
                latents.flatten(0, 1),
                text,
                noise.flatten(0, 1),
                timestep.flatten(),
                self.num_context if rule.clean_context else 0,
                self.schedule,
            )
        return losses.view(shape)

    @torch.no_grad()
    def _states(self, actions: tuple[str, ...]) -> Float[Tensor, "b n d"]:
        """Token states of actions, computed once a pair."""
        if actions not in self._texts:
            self._texts[actions] = self.text(actions)
        return self._texts[actions]

    def _draw(
        self, purpose: str, memories: Sequence[Memory], exam: Exam, step: int, num: int
    ) -> tuple[Tensor, Tensor]:
        """Noise `e n c t h w` and timesteps `e n`, from every episode's own stream."""
        noise, timesteps = [], []
        for memory, chunk_idx in zip(memories, exam.chunk_idx, strict=True):
            generator = rng.stream(self.seed, purpose, memory.episode, chunk_idx, step)
            low, high = self.settings.low, self.settings.high
            timesteps.append(draw_timesteps(num, self.schedule, generator, low, high))
            noise.append(torch.randn((num, *exam.pairs.shape[1:]), generator=generator))
        return torch.stack(noise).to(exam.pairs), torch.stack(timesteps).to(exam.pairs.device)

    def _theta_0(self, episode: str) -> Float[Tensor, " p"]:
        if self.start is not None:
            return self.start
        return self.weights.fresh(rng.stream(self.seed, "theta0", episode))

    def _memory(self, episode: str, theta: Tensor, num_chunks: int) -> Memory:
        with torch.inference_mode(False):  # tensors made in inference mode cannot be trained
            theta = theta.to(next(self.denoiser.parameters()).device, copy=True)
        settings = self.settings
        optimizer = make_optimizer(settings.optimizer, theta, settings.learning_rate)
        return Memory(episode, theta, optimizer, num_chunks)
