"""`sfv evaluate --benchmark`: every row of a benchmark with one command, or the videos of others."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sfv.evaluation.benchmark.generate import Maker, RowTask, chunks_of, num_videos
from sfv.evaluation.benchmark.methods import BASE, CONTROLS, DECODED, Method, Protocol
from sfv.evaluation.benchmark.report import spread_lines, write_outputs
from sfv.evaluation.benchmark.rows import checked, rows_of_models, rows_of_videos
from sfv.evaluation.benchmark.score import by_part, clip_protocols, score_videos
from sfv.evaluation.benchmark.seeds import averaged, folder_of, spread
from sfv.evaluation.benchmark.spec import (
    DATA_ROOT,
    DEFINITION,
    Benchmark,
    BenchmarkError,
    find_benchmark,
    known_in,
)
from sfv.evaluation.benchmark.truth import Truth
from sfv.evaluation.benchmark.videos import read_videos
from sfv.evaluation.benchmark.walks import Walk, chosen_parts, load_walks
from sfv.evaluation.benchmark.walks import make_data as make_data_by_tool
from sfv.files import claim_folder, claimed, write_json
from sfv.generation.kept import kept_scores
from sfv.generation.settings import GenerationSettings
from sfv.metrics.gap import gap_closed, truth_values
from sfv.metrics.protocol import MetricValue, Row, paired_differences, report_json, row_json
from sfv.metrics.suite import videos_hash
from sfv.models.device import AUTO
from sfv.report.table import format_table

MARKER = "benchmark.json"
Scores = dict[str, MetricValue]


def benchmark(
    benchmark: str,
    out: Path,
    ckpt: Path | None = None,
    rows: list[str] | str | None = None,
    also: list[str] | str | None = None,
    videos: Path | None = None,
    name: str = "videos",
    protocols: Protocol | list[Protocol] = ["return", "open"],  # noqa: B006 (read only)
    lengths: int | list[int] | None = None,
    kinds: str | list[str] | None = None,
    data: Path | None = None,
    make_data: bool = False,
    fvd: bool | None = None,
    methods: dict[str, Method] = {},  # noqa: B006 (read only)
    generation: GenerationSettings = GenerationSettings(),  # noqa: B008 (frozen)
    seeds: int | list[int] | None = None,
    device: str = AUTO,
) -> None:
    """Run a benchmark of long memory on a world model, or score videos that another system made.

    Two protocols. `return`: the true way out is seen (rows with fast learning learn it) and the way back
    is generated. `open`: only the first chunk is true. All rows share walks, actions and sampling noise.
    The folder --out gets rows/ROW/PROTOCOL/ID.mp4, report.json, report.html and TensorBoard logs; the
    same call again goes on where it was stopped.

    Args:
        benchmark: name of a shipped benchmark (block-return, doom-return, doom-return-tiny, maze-return,
            robot-return), or the folder of its data.
        out: folder to write.
        ckpt: folder of a world model or of a run that holds one; `reference` comes with sfv.
        rows: names of rows; null takes all: none, fast, the baselines long_context, retrieval, text_style,
            whole_history, single_frame, retrieval_fast, the controls other_walk, other_scene, shuffled,
            of a model with an addressed memory also addressed, other_addressed (that of another walk) and
            readout (what the memory says, without Φ), decoded_truth, and --methods.
        also: NAME=FOLDER of further world models, each a row of its own with the model's default memory.
        videos: folder with return/ID.mp4 or open/ID.mp4 or both, made by any other system.
        name: row of --videos.
        protocols: `return`, `open`; one or a list.
        lengths: nominal lengths of the walks to take, e.g. [100, 300]; null takes all.
        kinds: kinds of walk to take, e.g. [return, loop]; null takes all.
        data: folder of the benchmark's data; null is data/benchmarks/NAME.
        make_data: make the data first where they are missing.
        fvd: also FVD and KVD, which take longest to measure; null: where there are enough
            frames for 2 clips of 16; true: where there are not, that is an error.
        methods: rows of your own, by name.
        generation: sampler, fast learning and precision; baselines take as many fast steps.
        seeds: of the sampling noise, e.g. [0, 1, 2]: every row makes every walk with each of them, and a
            walk's value is the mean over them; null is --generation.seed alone.
        device: `auto` takes the GPU where there is one; or `cpu`, `cuda`, `cuda:1`, `mps`.
    """
    wanted = [protocols] if isinstance(protocols, str) else list(protocols)
    if ckpt is None and videos is None:
        raise BenchmarkError("nothing to score: give --ckpt MODEL, --videos FOLDER, or both")
    sampled = check_seeds(seeds, generation.seed)
    spec = find_benchmark(benchmark)
    parts = chosen_parts(spec, lengths, kinds)
    tasks: list[RowTask] = []
    if ckpt is not None:
        tasks = rows_of_models(ckpt, wanted, rows, also, methods, generation, device)
    theirs = {} if videos is None else rows_of_videos(videos, wanted)
    if name in {task.name for task in tasks} and videos is not None:
        raise BenchmarkError(f"--name {name} is a row of the model already; give another --name")
    if make_data:  # which may take long
        claim_folder(out, MARKER, "a benchmark's folder")
    where = _data(spec, data, make_data)
    spec = known_in(spec, where)
    walks = load_walks(spec, where, parts)
    of_part = {part: [walk for walk in walks if walk.part == part] for part in parts}
    tasks = checked(tasks, of_part, drop=rows is None)
    of_clips, left_out = clip_protocols(walks, _scored(wanted, theirs, tasks), fvd)
    with claimed(out, MARKER, "a benchmark's folder"):
        write_json(out / MARKER, {"benchmark": spec.label, "parts": parts, "seeds": seeds})
        _generate(out, tasks, wanted, of_part, generation, sampled)
        found = {task.name: _folders(out, task, wanted, sampled, generation.seed) for task in tasks}
        told = _learned(tasks, found, list(parts))
        found |= {name: [theirs]} if theirs else {}
        truth = Truth(spec, walks, generation.seed)
        several = None if seeds is None else sampled
        content = _measured(truth, found, out, of_clips, several) | {"left_out": left_out}
        settings = _settings(spec, walks, tasks, generation, videos, several)
        _tell(out, truth, found, content | {"settings": settings} | told)


def _learned(
    tasks: Sequence[RowTask],
    found: Mapping[str, Sequence[Mapping[Protocol, Path]]],
    parts: Sequence[str],
) -> dict[str, dict[str, int]]:
    """How many chunks guarded rows learned, and how many of all rows' chunks the guard undid."""
    chunks = {
        row: [chunks_of(folders, parts) for folders in of_seeds] for row, of_seeds in found.items()
    }
    guarded = [task.name for task in tasks if task.method.is_guarded]
    return {
        "undone": {row: sum(c["undone"] for c in of_row) for row, of_row in chunks.items()},
        "learned": {row: sum(c["learned"] for c in chunks[row]) for row in guarded},
    }


def _scored(
    wanted: Sequence[Protocol], theirs: Collection[Protocol], tasks: Sequence[RowTask]
) -> list[Protocol]:
    """The wanted protocols that a row has."""
    return [p for p in wanted if p in theirs or any(p in task.method.protocols for task in tasks)]


def _tell(
    out: Path,
    truth: Truth,
    found: Mapping[str, Sequence[Mapping[Protocol, Path]]],
    content: Mapping[str, Any],
) -> None:
    """Write what the call leaves, with the first seed's videos, and print the table."""
    shown = {row: of_seeds[0] for row, of_seeds in found.items()}
    write_outputs(out, truth.walks, shown, content, truth.benchmark)
    print(format_table(content))
    print("\n".join(spread_lines(content)))
    print(f"report: {out / 'report.html'}\nlogs:   tensorboard --logdir {out}")


def check_seeds(seeds: int | list[int] | None, default: int) -> list[int]:
    """The seeds as a list; None is the default alone.

    Raises:
        BenchmarkError: there is none, or one stands there twice.
    """
    if seeds is None:
        return [default]
    listed = [seeds] if isinstance(seeds, int) else seeds
    if not listed or len(set(listed)) < len(listed):
        raise BenchmarkError(
            f"--seeds {listed}: allowed are one or more different seeds, e.g. [0,1,2]"
        )
    return listed


def _data(spec: Benchmark, data: Path | None, make: bool) -> Path:
    """The folder of the data, made where it is missing and that was asked for."""
    beside = spec.source.parent if spec.source.name == DEFINITION else DATA_ROOT / spec.name
    where = data or beside
    if make and not (where / spec.split).is_dir():
        make_data_by_tool(spec, where)
    return where


def _generate(
    out: Path,
    tasks: Sequence[RowTask],
    protocols: Sequence[Protocol],
    parts: Mapping[str, Sequence[Walk]],
    generation: GenerationSettings,
    seeds: Sequence[int],
) -> None:
    num_walks = sum(map(len, parts.values()))
    of_seeds = {seed: [task for task in tasks if seed in _seeds_of(task, seeds)] for seed in seeds}
    total = sum(
        num_videos({task.name: task.method for task in some}, protocols, num_walks)
        for some in of_seeds.values()
    )
    with tqdm(total=total, desc="generate", unit="video") as bar:
        for seed in seeds:
            folders = partial(_folder, out, seed=seed, first=generation.seed)
            maker = Maker(folders, replace(generation, seed=seed), bar.update)
            for part in parts.values():
                maker.make_part(of_seeds[seed], protocols, part)


def _seeds_of(task: RowTask, seeds: Sequence[int]) -> Sequence[int]:
    """Seeds with which a row is made: nothing is drawn where the truth is decoded."""
    return seeds[:1] if task.method.made == "decoded" else seeds


def _folder(out: Path, row: str, seed: int, first: int) -> Path:
    return folder_of(out / "rows" / row, seed, first)


def _folders(
    out: Path, task: RowTask, wanted: Sequence[Protocol], seeds: Sequence[int], first: int
) -> list[dict[Protocol, Path]]:
    """Folders of a row's videos, by protocol, for each seed."""
    return [
        {p: _folder(out, task.name, seed, first) / p for p in wanted if p in task.method.protocols}
        for seed in _seeds_of(task, seeds)
    ]


def _measured(
    truth: Truth,
    found: Mapping[str, Sequence[Mapping[Protocol, Path]]],
    out: Path,
    of_clips: Collection[Protocol],
    seeds: Sequence[int] | None,
) -> dict[str, Any]:
    """Score all rows, over seeds where several were asked for; the content of `report.json`."""
    scores: dict[str, Scores] = {}
    spreads = {}
    for row, of_seeds in found.items():
        measured = [_score(truth, folders, out / "rows" / row, of_clips) for folders in of_seeds]
        if seeds is None or len(measured) != len(seeds):
            scores[row] = measured[0]  # another system's videos, or the truth's: one an episode
        else:
            scores[row] = averaged(measured, seeds)
            spreads[row] = spread(dict(zip(seeds, measured, strict=True)))
    content = report(truth.walks, scores)
    if seeds is not None:
        content["seeds"] = {"seeds": list(seeds), "spread": spreads}
    return content


def _score(
    truth: Truth, folders: Mapping[Protocol, Path], keep: Path, of_clips: Collection[Protocol]
) -> Scores:
    """Score the videos of a row, FVD in some protocols, or read its scores of exactly these videos."""
    found: Scores = {}
    spec, walks = truth.benchmark, truth.walks
    ids, first = [w.meta.id for w in walks], {w.meta.id: w.first_chunk for w in walks}
    for protocol, folder in folders.items():
        videos, fvd = read_videos(folder, spec, ids, first), protocol in of_clips
        settings = {"videos": videos_hash(videos), "walks": ids, "fvd": fvd, "seed": truth.seed}
        if spec.objects:
            settings["objects"] = list(spec.objects)
        measure = partial(score_videos, truth, protocol, videos, fvd)
        found |= kept_scores(keep, f"scores-{protocol}", settings, measure)
    return found


def report(walks: Sequence[Walk], scores: Mapping[str, Scores]) -> dict[str, Any]:
    """What is known of all rows, as `report.json` holds it; the decoded truth is none of the rows."""
    truth = truth_values(scores.get(DECODED, {}), scores.values())
    scores = {row: found for row, found in scores.items() if row != DECODED} or scores
    content = report_json({row: Row(len(walks), s) for row, s in scores.items()}, {})
    content["truth"] = row_json(Row(len(walks), truth))
    content["gap_closed"] = gap_closed(scores, truth)
    content["differences"] = paired_differences(scores, compared(list(scores)))
    content["parts"] = {row: by_part(walks, s) for row, s in scores.items()}
    return content


def compared(rows: Collection[str]) -> list[tuple[str, str]]:
    """Every row against `none`, and learning against what tells what it adds.

    Controls tell memory from adaptation; retrieval without Θ tells what Θ adds to it, and what an addressed
    memory says by itself tells what Φ adds.
    """
    pairs = [(row, BASE) for row in rows if row != BASE and BASE in rows]
    more = [*(("fast", control) for control in CONTROLS), ("retrieval_fast", "retrieval")]
    more += [("addressed", other) for other in ("fast", "other_addressed", "readout")]
    return pairs + [pair for pair in more if set(pair) <= set(rows)]


def _settings(
    spec: Benchmark,
    walks: Sequence[Walk],
    tasks: Sequence[RowTask],
    generation: GenerationSettings,
    videos: Path | None,
    seeds: list[int] | None,
) -> dict[str, Any]:
    return {
        "benchmark": spec.label,
        "parts": list(dict.fromkeys(walk.part for walk in walks)),
        "seed": generation.seed,
        "models": {task.name: task.world.fingerprint() for task in tasks},
        "methods": {task.name: asdict(task.method) for task in tasks},
        "videos": None if videos is None else videos.name,
        **asdict(generation),
        **({} if seeds is None else {"seeds": seeds}),
    }
