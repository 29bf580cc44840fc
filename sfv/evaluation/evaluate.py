"""`sfv evaluate`: measure a world model on test episodes, with and without memory."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from sfv.evaluation.measures import (
    ExtraMeasures,
    check_measurable,
    drawn,
    extra_curves,
    extra_scores,
)
from sfv.evaluation.score import Scorer
from sfv.evaluation.videos import EpisodeVideos, generate, num_chunks
from sfv.fast.settings import FastSettings
from sfv.files import claimed, replacing_parts, write_bytes, write_json
from sfv.generation.episodes import TrueEpisode, load_episodes, num_outbound
from sfv.generation.settings import GenerationSettings, Row, memory_of, rollout_of
from sfv.metrics.gap import gap_closed
from sfv.metrics.protocol import MetricValue, paired_differences, report_json, row_json
from sfv.metrics.protocol import Row as ReportRow
from sfv.models.device import AUTO
from sfv.models.world_model import WorldModel
from sfv.report.figure import filmstrip
from sfv.report.html import VideoPanel, write_report
from sfv.report.table import format_table
from sfv.report.tensorboard import add_video, log_curves, log_hparams, log_report, open_logger
from sfv.report.video import encode_mp4, side_by_side, to_frames

MARKER = "report.json"
BY_LAYER = "fast/drift by layer"
_LEARNED = ("fast/loss", "fast/gain", "fast/drift")
_WRITTEN = ("memory/error", "memory/gain", "memory/size")
"""Curves of a Θ, and of an addressed memory: its error on a chunk before writing, the drop of it, ‖W‖."""
MOST_LAYERS = 4  # in the report; TensorBoard gets all
MOST_BOARD_VIDEOS = 3
"""Episodes whose videos TensorBoard gets; writing one takes seconds, and `videos/` has them all."""
LABELS: dict[Row, str] = {
    "none": "without memory",
    "temp_lora": "temporal LoRA",
    "fast": "with memory",
}
COMPARED: tuple[tuple[Row, Row], ...] = (
    ("fast", "none"),
    ("temp_lora", "none"),
    ("fast", "temp_lora"),
)
SETTINGS = GenerationSettings(fast=FastSettings(reset_after=3))
"""Defaults of an evaluation: a Θ that only does harm is given up."""


@dataclass(frozen=True)
class Measured:
    """What an evaluation found: the content of `report.json`, and the videos behind it."""

    report: dict[str, Any]
    videos: dict[Row, list[EpisodeVideos]]


def evaluate(
    model: Path,
    episodes: Path,
    out: Path,
    num_episodes: int | None = None,
    rows: Row | list[Row] | None = None,
    generation: GenerationSettings = SETTINGS,
    extra: ExtraMeasures = ExtraMeasures(),  # noqa: B008 (frozen)
    device: str = AUTO,
) -> None:
    """Generate test episodes and measure them.

    Each episode is rolled out twice. With its truth shown: every chunk is generated from its true
    context (PSNR, SSIM, LPIPS, FVD); in a there-and-back walk only the way out is shown, and the
    generated way back is compared with the truth. Then as a long video of which only the first chunk
    is true (scene cuts, scene return, motion). Beside the rows stands what the truth scores, and what it
    scores through the codec and back. The folder --out gets report.json, report.html, videos/
    and TensorBoard logs. `sfv evaluate --benchmark NAME --help` tells the options of a benchmark.

    Args:
        model: folder of a world model or of a run that holds one; `reference` comes with sfv.
        episodes: folder of test episodes in shards, as video.
        out: folder to write; must be new or empty.
        num_episodes: how many episodes; null takes all.
        rows: `none` generates without memory, `fast` with the model's own, `temp_lora` with the temporal
            LoRA; one or a list. null takes none and fast, and temp_lora where that is another memory.
        generation: sampler, memories and precision.
        extra: curves, and what costs more: a second detector of cuts, memory probes, action following.
        device: `auto` takes the GPU where there is one; or `cpu`, `cuda`, `cuda:1`, `mps`.
    """
    with claimed(out, MARKER, "an evaluation folder"):
        if (out / MARKER).exists():
            raise FileExistsError(
                f"{out} holds a finished evaluation ({MARKER}); give another --out"
            )
        world = WorldModel.load(model, device)
        true = load_episodes(episodes, world, num_episodes)
        chosen = [rows] if isinstance(rows, str) else rows or default_rows(world)
        measured = measure(world, true, chosen, generation, extra)
        with replacing_parts(out, MARKER) as part:
            write_outputs(part, true, measured, f"World model {model}")
    print(format_table(measured.report))
    print(f"report: {out / 'report.html'}\nlogs:   tensorboard --logdir {out}")


def default_rows(world: WorldModel) -> list[Row]:
    """Without memory and with the model's own; with the temporal LoRA where that is another one."""
    return ["none", "fast"] if world.address is None else ["none", "temp_lora", "fast"]


def measure(
    world: WorldModel,
    episodes: Sequence[TrueEpisode],
    rows: Sequence[Row],
    generation: GenerationSettings,
    extra: ExtraMeasures = ExtraMeasures(),  # noqa: B008 (frozen)
) -> Measured:
    """Generate and score every row; the same episodes, actions and sampling noise for all rows."""
    check_measurable(world, episodes, extra, rows)
    generation = generation.resolved(world.schedule)
    videos: dict[Row, list[EpisodeVideos]] = {}
    with tqdm(total=len(rows) * num_chunks(episodes), desc="generate", unit="chunk") as bar:
        for row in rows:
            bar.set_postfix_str(LABELS[row])
            with rollout_of(world, row, generation) as rollout:
                videos[row] = generate(
                    rollout, episodes, generation.videos_at_once, lambda _: bar.update()
                )
    scorer = Scorer(world, episodes, generation.seed)
    scores = {row: scorer.row(videos[row]) for row in rows}
    for row, more in extra_scores(world, episodes, videos, generation, extra).items():
        scores[row] |= more
    report = report_json(
        {row: ReportRow(len(episodes), scores[row]) for row in rows},
        {
            "seed": generation.seed,
            "model": world.fingerprint(),
            "episodes": [episode.meta.id for episode in episodes],
            **asdict(generation),
        },
    )
    report |= _beside(scorer, scores)
    report["curves"] = curves(videos)
    if extra.curves:
        found = extra_curves(world, episodes, videos, generation.seed)
        report["binned_curves"] = {
            row: {name: curve.to_dict() for name, curve in curves_of_row.items()}
            for row, curves_of_row in found.items()
        }
        report["curves"] |= drawn(found)
    report |= _chunks(world, videos, generation)
    return Measured(report, videos)


def _beside(scorer: Scorer, scores: Mapping[Row, Mapping[str, MetricValue]]) -> dict[str, Any]:
    """What stands beside the rows: the truth, paired differences, shares of gaps."""
    truth = scorer.truth()
    both = [pair for pair in COMPARED if set(pair) <= scores.keys()]
    by_name: dict[str, Mapping[str, MetricValue]] = {row: scores[row] for row in scores}
    return {
        "truth": row_json(ReportRow(len(scorer.episodes), truth)),
        "differences": paired_differences(by_name, both),
        "gap_closed": gap_closed(by_name, truth),
    }


def _chunks(
    world: WorldModel,
    videos: Mapping[Row, Sequence[EpisodeVideos]],
    generation: GenerationSettings,
) -> dict[str, dict[Row, int]]:
    """How many chunks the guard undid, and of how many; rows without a guard have no such number."""
    guarded = [
        row
        for row in videos
        if generation.fast.guard is not None and memory_of(world, row) == "temp_lora"
    ]
    return {
        "undone": {row: sum(v.num_undone for v in made) for row, made in videos.items()},
        "learned": {row: sum(v.num_learned for v in videos[row]) for row in guarded},
    }


def curves(videos: Mapping[Row, Sequence[EpisodeVideos]]) -> dict[str, dict[str, list[float]]]:
    """What learning did at each chunk of the first long rollout of each row, where measured."""
    drawn: dict[str, dict[str, list[float]]] = {}
    for row, of_row in videos.items():
        made = of_row[0]
        names = _LEARNED if any(made.layers) else _WRITTEN
        for name, values in zip(names, (made.losses, made.gains, made.drifts), strict=True):
            if values and all(map(math.isfinite, values)):
                drawn.setdefault(name, {})[row] = values
    layers = [(name, norms) for name, norms in layer_drifts(videos).items() if norms[-1] > 0]
    if layers:
        largest = sorted(layers, key=lambda layer: -layer[1][-1])[:MOST_LAYERS]
        drawn[BY_LAYER] = dict(largest)
    return drawn


def layer_drifts(videos: Mapping[Row, Sequence[EpisodeVideos]]) -> dict[str, list[float]]:
    """‖ΔW‖ of each layer that Θ adapts after each chunk; of the newest row that has a Θ."""
    having = [of_row[0].layers for of_row in videos.values() if any(of_row[0].layers)]
    layers = having[-1] if having else []
    names = layers[-1] if layers else {}
    return {name: [norms[name] for norms in layers] for name in names}


def write_outputs(
    out: Path,
    episodes: Sequence[TrueEpisode],
    measured: Measured,
    title: str,
    notes: Sequence[str] = (),
) -> None:
    """Write videos, TensorBoard logs, HTML and, last, `report.json`."""
    logger = open_logger(out)
    panels = []
    for i, episode in enumerate(episodes):
        for kind, panel in _panels(episode, i, measured).items():
            panels.append(panel)
            shown = side_by_side(list(panel.frames.values()), list(panel.frames))
            if i < MOST_BOARD_VIDEOS:
                add_video(logger, f"{kind}/{episode.meta.id}", shown, 0, episode.meta.fps)
            clip = encode_mp4(shown, episode.meta.fps)
            name = episode.meta.id if kind == "long" else f"{episode.meta.id}-{kind}"
            write_bytes(out / "videos" / f"{name}.mp4", clip)
    log_report(logger, measured.report)
    log_curves(logger, measured.report["curves"] | {BY_LAYER: layer_drifts(measured.videos)})
    headline = {
        f"{name}/{row}": cell["value"]
        for row, content in measured.report["rows"].items()
        for name, cell in content["metrics"].items()
        if cell["value"] is not None
    }
    log_hparams(logger, measured.report["settings"], headline)
    logger.finalize("success")
    turn = panels[0].marks[0][0] if panels[0].marks else 0
    last = min(len(frames) for frames in panels[0].frames.values()) - 1
    strip = filmstrip(panels[0].frames, _strip_frames(turn, last), 2)
    write_bytes(out / "filmstrip.png", strip)
    write_report(out / "report.html", measured.report, panels, title, notes)
    write_json(out / MARKER, measured.report)


def _panels(episode: TrueEpisode, index: int, measured: Measured) -> dict[str, VideoPanel]:
    """The way back after a shown way out, where the walk comes back; and the long video."""
    made = {LABELS[row]: videos[index] for row, videos in measured.videos.items()}
    true, title = {"true": to_frames(episode.video)}, episode.meta.id
    num_out = num_outbound(episode.meta)
    marks = []
    if num_out is not None:
        marks = [(episode.meta.actions[num_out].stop, "the way back begins")]
    videos: dict[tuple[str, str], dict[str, Tensor | None]] = {
        ("return", "the way out is shown"): {k: v.returned for k, v in made.items()},
        ("long", "only the first chunk is given"): {k: v.long for k, v in made.items()},
    }
    return {
        kind: VideoPanel(
            f"{title}: {given}",
            true
            | {label: to_frames(video) for label, video in of_rows.items() if video is not None},
            episode.meta.fps,
            marks,
        )
        for (kind, given), of_rows in videos.items()
        if kind == "long" or num_out is not None
    }


def _strip_frames(turn: int, last: int) -> list[int]:
    """Frames for the picture: along the way out, then the same places on the way back."""
    if not turn:
        return [last * i // 7 for i in range(8)]
    out = [7, turn // 3, 2 * turn // 3, turn - 1]
    back = [min(last, 2 * (turn - 1) - frame) for frame in reversed(out[:-1])]
    return [*out, *back]
