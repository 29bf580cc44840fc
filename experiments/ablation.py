"""Which way of learning remembers the way out: rows of settings, measured on there-and-back walks.

    python -m experiments.ablation --config experiments/ablations/doom.yaml

Of each walk the true way out is learned, chunk by chunk, and nothing is generated meanwhile. Then the
first chunks of the way back are generated and compared with the truth. All rows share walks, sampling
noise and model; every seed draws new noise for sampling, learning and Θ_0. A row whose memory comes
from another walk is a control: it tells memory of the walk from adaptation to the map.
"""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from experiments.command import run_command
from sfv.diffusion.sampler import SamplerSettings
from sfv.evaluation.return_walks import (
    Trip,
    Whose,
    learn_ways_out,
    lent,
    request_back,
    trip_of,
)
from sfv.fast.protocol import EpisodeMemory, MemoryLearner
from sfv.fast.settings import FastSettings, LoRASettings
from sfv.files import claimed, read_json, write_bytes, write_json
from sfv.generation.episodes import TrueEpisode, load_episodes
from sfv.generation.rollout import Rollout
from sfv.generation.settings import GenerationSettings, rollout_of
from sfv.metrics.frame import lpips, psnr
from sfv.metrics.interval import beyond_chance
from sfv.metrics.protocol import Passport, Row, mean_value, paired_difference, report_json
from sfv.metrics.scene_revisit import AlexNetFeatures, video_revisit_similarity
from sfv.metrics.suite_common import lpips_passport, videos_hash
from sfv.models.device import AUTO
from sfv.models.world_model import WorldModel
from sfv.types import Precision

Scores = dict[str, list[float]]
MARKER = "ablation.json"
BASE = "none"


@dataclass(frozen=True)
class Variant:
    """One row of the table.

    Args:
        fast: how Θ learns; `num_steps: 0` is the base model.
        lora: the shape of Θ.
        memory: whose memory a walk goes back with.
        model: folder of another world model with the same codec; `{seed}` in it becomes the row's seed.
    """

    fast: FastSettings = field(default_factory=FastSettings)
    lora: LoRASettings = field(default_factory=LoRASettings)
    memory: Whose = "own"
    model: str | None = None


def ablation(
    model: Path,
    episodes: Path,
    out: Path,
    rows: dict[str, Variant],
    seeds: list[int] = [0, 1, 2],  # noqa: B006 (read only)
    num_episodes: int | None = None,
    num_back: int = 3,
    sampler: SamplerSettings = SamplerSettings(),  # noqa: B008 (frozen)
    precision: Precision = "bf16",
    videos_at_once: int = 1,
    against: str = BASE,
    device: str = AUTO,
) -> None:
    """Measure rows of settings on the way back of there-and-back walks, and write their table.

    Args:
        model: folder of a world model.
        episodes: folder of shards with there-and-back walks, as video.
        out: folder to write; the same call again goes on where it stopped.
        rows: settings by name; one is `none`, what the others are compared with.
        seeds: of sampling noise, fast learning's noise and Θ_0.
        num_episodes: how many walks; null takes all.
        num_back: chunks of the way back to generate.
        sampler: diffusion sampler, sampling steps, guidance.
        precision: arithmetic.
        videos_at_once: walks in one batch, each with its own Θ.
        against: the row that the printed gains are over.
        device: `auto` takes the GPU where there is one; or `cpu`, `cuda`, `cuda:1`, `mps`.
    """
    if not {BASE, against} <= rows.keys() or not seeds or num_back < 1:
        raise ValueError(
            f"rows are {sorted(rows)}, against {against!r}, seeds {seeds}, num_back {num_back}; allowed: a "
            f"row named {BASE!r} and one to compare with, at least one seed, num_back >= 1"
        )
    with claimed(out, MARKER, "an ablation folder"):
        world = WorldModel.load(model, device)
        walks = [
            walk for walk in load_episodes(episodes, world, num_episodes) if walk.meta.revisits
        ]
        bench = Bench(world, walks, num_back, sampler, precision, videos_at_once)
        settings = bench.settings() | {"seeds": seeds}
        write_json(
            out / MARKER, settings | {"rows": {name: asdict(row) for name, row in rows.items()}}
        )
        scores: dict[str, list[Scores]] = {name: [] for name in rows}
        with tqdm(total=len(rows) * len(seeds), desc="ablation", unit="row") as bar:
            for seed in seeds:
                for name, variant in rows.items():
                    bar.set_postfix_str(f"{name}, seed {seed}")
                    of_row = bench.with_model(variant.model, seed)
                    scores[name].append(_kept(out / "rows", name, of_row, variant, seed))
                    bar.update()
        table = summary(scores, bench.passports())
        write_json(out / "report.json", report_json(table, settings))
        text = markdown(table, scores, against)
        write_bytes(out / "table.md", text.encode())
        print(text)


@dataclass(frozen=True)
class WaysOut:
    """What learning every way out gave; rows that differ in the way back alone share it.

    Args:
        key: what the memories depend on.
        memories: one a walk.
        undone: how many chunks of each the guard took back.
        seconds: wall-clock time a chunk.
    """

    key: tuple[FastSettings, LoRASettings, int]
    memories: list[EpisodeMemory]
    undone: list[int]
    seconds: float


@dataclass(frozen=True)
class Bench:
    """What all rows share.

    Args:
        world: Φ.
        walks: there-and-back walks.
        num_back: chunks of the way back to generate.
        sampler: how they are sampled.
        precision: arithmetic.
        videos_at_once: walks in one batch.
        newest: the ways out that were learned last, for a row that follows and learns the same.
    """

    world: WorldModel
    walks: Sequence[TrueEpisode]
    num_back: int
    sampler: SamplerSettings
    precision: Precision
    videos_at_once: int
    newest: list[WaysOut] = field(default_factory=list, init=False)

    def settings(self) -> dict[str, Any]:
        """What the numbers depend on besides the row and the seed."""
        return {
            "model": self.world.fingerprint(),
            "episodes": [walk.meta.id for walk in self.walks],
            "truth": videos_hash(self._true_back()),
            "num_back": self.num_back,
            "sampler": asdict(self.sampler),
            "precision": self.precision,
            "videos_at_once": self.videos_at_once,
        }

    def with_model(self, model: str | None, seed: int) -> "Bench":
        """The same on another world model.

        Raises:
            ValueError: its codec is another one, so it does not read the walks' latents.
        """
        if model is None:
            return self
        world = WorldModel.load(Path(model.format(seed=seed))).to(self.world.device)
        if world.codec.fingerprint() != self.world.codec.fingerprint():
            raise ValueError(f"{model} has another codec than the common model; leave the row out")
        return replace(self, world=world)

    def passports(self) -> dict[str, Passport]:
        """How each metric is measured."""
        truth = videos_hash(self._true_back())
        which = f"first {self.num_back} chunks of the way back; mean over seeds"
        base = Passport(
            "return_psnr", "return", len(self.walks), reference_sha256=truth, settings=which
        )
        perceptual = lpips_passport(base, "alex")
        features = AlexNetFeatures()
        src = Passport(
            "src", "return", len(self.walks), reference_sha256=truth, settings=which,
            network=features.name, network_sha256=features.sha256, resize=features.resize,
        )  # fmt: skip
        return {"return_psnr": base, "return_lpips": perceptual, "src": src}

    def measure(self, variant: Variant, seed: int) -> Scores:
        """Learn each way out, generate each way back, score it: one number a walk."""
        settings = GenerationSettings(
            sampler=self.sampler,
            lora=variant.lora,
            fast=variant.fast,
            precision=self.precision,
            seed=seed,
            videos_at_once=self.videos_at_once,
        )
        with rollout_of(self.world, "temp_lora", settings) as rollout:
            learner = rollout.learner
            assert learner is not None
            out = self._learn(learner, variant)
            back = self._go_back(rollout, learner, out.memories, variant.memory)
        return self._score(back) | {
            "undone": [float(n) for n in out.undone],
            "seconds": [out.seconds] * len(self.walks),
        }

    def _learn(self, learner: MemoryLearner, variant: Variant) -> WaysOut:
        """Learn every way out from its true chunks, unless the row before did just that."""
        fast = replace(variant.fast, own_chunks=True)  # a way out has no others than true ones
        key = (fast, variant.lora, learner.seed)
        if not self.newest or self.newest[0].key != key:
            began = perf_counter()
            memories, undone = learn_ways_out(learner, self._trips(), self.videos_at_once)
            seconds = (perf_counter() - began) / sum(memory.num_chunks for memory in memories)
            self.newest[:] = [WaysOut(key, memories, undone, seconds)]
        return self.newest[0]

    def _go_back(
        self,
        rollout: Rollout,
        learner: MemoryLearner,
        memories: Sequence[EpisodeMemory],
        whose: Whose,
    ) -> list[Tensor]:
        """The generated chunks of every way back, decoded."""
        lent_ones = lent(learner, [walk.meta for walk in self.walks], memories, whose)
        requests = [
            request_back(trip, self.world.num_context, memory, self.num_back)
            for trip, memory in zip(self._trips(), lent_ones, strict=True)
        ]
        made = []
        for first in range(0, len(requests), self.videos_at_once):
            made += rollout.run_many(requests[first : first + self.videos_at_once])
        joined = [torch.cat([chunk.generated for chunk in chunks], dim=2) for chunks in made]
        return [self.world.decode(latents)[0] for latents in joined]

    def _trips(self) -> list[Trip]:
        return [trip_of(walk) for walk in self.walks]

    def _true_back(self) -> list[Tensor]:
        length = self.num_back * self.world.num_generated
        return [trip.episode.video[trip.turn : trip.turn + length] for trip in self._trips()]

    def _score(self, back: Sequence[Tensor]) -> Scores:
        features = AlexNetFeatures()
        scores: Scores = {"return_psnr": [], "return_lpips": [], "src": []}
        for trip, made, true in zip(self._trips(), back, self._true_back(), strict=True):
            walk = trip.episode
            scores["return_psnr"].append(float(psnr(true[None], made[None]).mean()))
            scores["return_lpips"].append(float(lpips(true[None], made[None]).mean()))
            video = torch.cat([walk.video[: trip.turn], made])
            seen = [pair for pair in walk.meta.revisits if pair[1] < len(video)]
            scores["src"].append(float(video_revisit_similarity(video, seen, features).mean()))
        return scores


def _kept(folder: Path, name: str, bench: Bench, variant: Variant, seed: int) -> Scores:
    """The scores of a row and seed: read if they were measured already, else measured and written."""
    made_with = bench.settings() | {"variant": asdict(variant), "seed": seed}
    digest = hashlib.sha256(json.dumps(made_with, sort_keys=True).encode()).hexdigest()
    path = folder / f"{digest[:16]}.json"
    if path.exists():
        kept: Scores = read_json(path)["scores"]
        return kept
    scores = bench.measure(variant, seed)
    write_json(path, {"row": name, "seed": seed, "variant": asdict(variant), "scores": scores})
    return scores


def summary(
    scores: Mapping[str, Sequence[Scores]], passports: Mapping[str, Passport]
) -> dict[str, Row]:
    """Each walk's mean over the seeds, and the interval over the walks."""
    return {
        name: Row(
            len(of_seeds[0]["src"]),
            {
                metric: mean_value(_over_seeds(of_seeds, metric), passport)
                for metric, passport in passports.items()
            },
        )
        for name, of_seeds in scores.items()
    }


def _over_seeds(of_seeds: Sequence[Scores], metric: str) -> list[float]:
    return [fmean(walk) for walk in zip(*(scores[metric] for scores in of_seeds), strict=True)]


def markdown(
    table: Mapping[str, Row], scores: Mapping[str, Sequence[Scores]], base_row: str = BASE
) -> str:
    """One line a row: gains over another row with the paired interval over walks, and what it cost."""
    lines = [
        f"| row | return PSNR (dB) | against {base_row} | over seeds | return LPIPS | against {base_row} "
        "| SRC | undone | s/chunk |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    base = table[base_row].metrics
    for name, row in table.items():
        cells = [name, f"{row.metrics['return_psnr'].value:.2f}"]
        for metric, digits in (("return_psnr", 2), ("return_lpips", 3)):
            if metric == "return_lpips":
                cells.append(f"{row.metrics[metric].value:.{digits}f}")
            cells.append(
                _against(base[metric], row.metrics[metric], digits) if name != base_row else ""
            )
            if metric == "return_psnr":
                spread = _seed_spread(scores[base_row], scores[name])
                cells.append(spread if name != base_row else "")
        undone = fmean(fmean(s["undone"]) for s in scores[name])
        seconds = fmean(fmean(s["seconds"]) for s in scores[name])
        cells += [f"{row.metrics['src'].value:.2f}", f"{undone:.1f}", f"{seconds:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _against(base: Any, value: Any, digits: int) -> str:
    gain = paired_difference(base, value)
    if gain.low is None or gain.high is None:
        return f"{gain.value:+.{digits}f}"
    sure = " *" if beyond_chance(gain.low, gain.high, gain.count) else ""
    return f"{gain.value:+.{digits}f} [{gain.low:+.{digits}f}, {gain.high:+.{digits}f}]{sure}"


def _seed_spread(base: Sequence[Scores], row: Sequence[Scores]) -> str:
    """Standard deviation over seeds of the mean gain in PSNR."""
    gains = [
        fmean(b) - fmean(a)
        for a, b in ((x["return_psnr"], y["return_psnr"]) for x, y in zip(base, row, strict=True))
    ]
    return f"±{stdev(gains):.2f}" if len(gains) > 1 else ""


def main(argv: Sequence[str] | None = None) -> int:
    """Run; 2 after an error of the input."""
    return run_command("experiments.ablation", ablation, argv)


if __name__ == "__main__":
    sys.exit(main())
