"""`sfv evaluate --benchmark`: every row of a benchmark with one command, or the videos of others."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sfv.benchmark.generate import Maker, RowTask, num_undone, num_videos
from sfv.benchmark.kept import Kept
from sfv.benchmark.methods import BASE, CONTROLS, Method, Protocol, standard
from sfv.benchmark.report import write_outputs
from sfv.benchmark.score import by_part, score_videos
from sfv.benchmark.spec import DATA_ROOT, DEFINITION, Benchmark, BenchmarkError, find_benchmark
from sfv.benchmark.videos import protocols_in, read_videos
from sfv.benchmark.walks import Walk, chosen_parts, load_walks
from sfv.benchmark.walks import make_data as make_data_by_tool
from sfv.files import claim_folder, write_json
from sfv.metrics.protocol import MetricValue, Row, from_plain, paired_differences, report_json
from sfv.metrics.suite import videos_hash
from sfv.models.world_model import WorldModel
from sfv.report.table import format_table
from sfv.training.generate import GenerationSettings
from sfv.training.generate import check_episode as check_cut
from sfv.training.way_back import partner

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
    data: Path | None = None,
    make_data: bool = False,
    fvd: bool = True,
    methods: dict[str, Method] = {},  # noqa: B006 (read only)
    generation: GenerationSettings = GenerationSettings(),  # noqa: B008 (frozen)
) -> None:
    """Run a benchmark of long memory on a world model, or score videos that another system made.

    Two protocols. `return`: the true way out is seen (rows with fast learning learn it) and the way back
    is generated. `open`: only the first chunk is true. All rows share walks, actions and sampling noise.
    The folder --out gets rows/ROW/PROTOCOL/ID.mp4, report.json, report.html and TensorBoard logs; the
    same call again goes on where it was stopped.

    Args:
        benchmark: name of a shipped benchmark (doom-return, doom-return-tiny, maze-return), or the folder
            of its data.
        out: folder to write.
        ckpt: folder of a world model or of a run that holds one; `reference` comes with sfv.
        rows: names of rows; null takes all: none, fast, the baselines long_context, retrieval, text_style,
            whole_history, single_frame, the controls other_walk, other_scene, shuffled, and --methods.
        also: NAME=FOLDER of further world models, each a row of its own with fast learning.
        videos: folder with return/ID.mp4 or open/ID.mp4 or both, made by any other system.
        name: row of --videos.
        protocols: `return`, `open`; one or a list.
        lengths: nominal lengths of the walks to take, e.g. [100, 300]; null takes all.
        data: folder of the benchmark's data; null is data/benchmarks/NAME.
        make_data: make the data first where they are missing.
        fvd: also FVD and KVD, which take longest to measure.
        methods: rows of your own, by name.
        generation: sampler, fast learning and precision; baselines take as many fast steps.
    """
    wanted = [protocols] if isinstance(protocols, str) else list(protocols)
    if ckpt is None and videos is None:
        raise BenchmarkError("nothing to score: give --ckpt MODEL, --videos FOLDER, or both")
    spec = find_benchmark(benchmark)
    parts = chosen_parts(spec, [lengths] if isinstance(lengths, int) else lengths)
    tasks = [] if ckpt is None else _tasks(ckpt, wanted, rows, also, methods, generation)
    theirs = {} if videos is None else _theirs(videos, wanted)
    if name in {task.name for task in tasks} and videos is not None:
        raise BenchmarkError(f"--name {name} is a row of the model already; give another --name")
    walks = _walks(spec, data, make_data, parts)
    of_part = {part: [walk for walk in walks if walk.part == part] for part in parts}
    check_rows(tasks, of_part)
    claim_folder(out, MARKER, "a benchmark's folder")
    write_json(out / MARKER, {"benchmark": spec.label, "lengths": lengths})
    _generate(out, tasks, wanted, of_part, generation)
    found: dict[str, dict[Protocol, Path]] = {
        task.name: {p: out / "rows" / task.name / p for p in wanted if p in task.method.protocols}
        for task in tasks
    }
    if theirs:
        found[name] = theirs
    scores = {
        row: _score(spec, walks, folders, out / "rows" / row, fvd, generation.seed)
        for row, folders in found.items()
    }
    settings = _settings(spec, walks, tasks, generation, videos)
    content = report(walks, scores, settings)
    content["undone"] = {
        task.name: num_undone(out / "rows" / task.name, list(found[task.name]), parts)
        for task in tasks
    }
    write_outputs(out, walks, found, content, spec)
    print(format_table(content))
    print(f"report: {out / 'report.html'}\nlogs:   tensorboard --logdir {out}")


def _theirs(videos: Path, wanted: Sequence[Protocol]) -> dict[Protocol, Path]:
    found = {p: videos / p for p in protocols_in(videos) if p in wanted}
    if not found:
        raise BenchmarkError(f"{videos} holds no videos of the protocol {', '.join(wanted)}")
    return found


def _tasks(
    ckpt: Path,
    wanted: Sequence[Protocol],
    rows: list[str] | str | None,
    also: list[str] | str | None,
    methods: Mapping[str, Method],
    generation: GenerationSettings,
) -> list[RowTask]:
    known = standard(generation.fast) | dict(methods)
    able = [row for row, method in known.items() if set(method.protocols) & set(wanted)]
    names = [rows] if isinstance(rows, str) else able if rows is None else rows
    unknown = [row for row in names if row not in able]
    if unknown:
        raise BenchmarkError(
            f"no row {unknown[0]!r} in the protocol {' or '.join(wanted)}; allowed: {', '.join(able)}"
        )
    world = WorldModel.load(ckpt)
    tasks = [RowTask(row, known[row], world) for row in names]
    for given in [also] if isinstance(also, str) else also or []:
        row, equals, folder = given.partition("=")
        if not equals or not row or row in names:
            raise BenchmarkError(
                f"--also {given}: allowed is NAME=FOLDER with a name that no other row has, e.g. "
                "fast_loop=runs/loop/model"
            )
        tasks.append(RowTask(row, known["fast"], WorldModel.load(Path(folder))))
    return tasks


def _walks(spec: Benchmark, data: Path | None, make: bool, parts: Sequence[str]) -> list[Walk]:
    beside = spec.source.parent if spec.source.name == DEFINITION else DATA_ROOT / spec.name
    where = data or beside
    if make and not (where / spec.split).is_dir():
        make_data_by_tool(spec, where)
    return load_walks(spec, where, parts)


def check_rows(tasks: Sequence[RowTask], parts: Mapping[str, Sequence[Walk]]) -> None:
    """Find what would stop a row before anything is made.

    Raises:
        ValueError: a model does not know an action, or nobody can lend a walk a memory.
    """
    actions = sorted({a.text for part in parts.values() for w in part for a in w.meta.actions})
    for task in tasks:
        task.world.text(actions)
        for part in parts.values():
            metas = [walk.meta for walk in part]
            for i in range(len(part)):
                check_cut(metas[i], task.world)
                partner(metas, i, task.method.memory)


def _generate(
    out: Path,
    tasks: Sequence[RowTask],
    protocols: Sequence[Protocol],
    parts: Mapping[str, Sequence[Walk]],
    generation: GenerationSettings,
) -> None:
    num_walks = sum(map(len, parts.values()))
    methods = {task.name: task.method for task in tasks}
    with tqdm(
        total=num_videos(methods, protocols, num_walks), desc="generate", unit="video"
    ) as bar:
        maker = Maker(out / "rows", generation, bar.update)
        for part in parts.values():
            maker.make_part(tasks, protocols, part)


def _score(
    spec: Benchmark,
    walks: Sequence[Walk],
    folders: Mapping[Protocol, Path],
    keep: Path,
    fvd: bool,
    seed: int,
) -> Scores:
    """Score the videos of a row, or read its scores where exactly these videos were scored."""
    found: Scores = {}
    ids, first = [w.meta.id for w in walks], {w.meta.id: w.first_chunk for w in walks}
    for protocol, folder in folders.items():
        videos = read_videos(folder, spec, ids, first)
        settings = {"videos": videos_hash(videos), "walks": ids, "fvd": fvd, "seed": seed}
        digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
        kept = Kept(keep, f"scores-{protocol}-{digest}", settings)
        known = kept.read()
        if known is None:
            scored = score_videos(spec, protocol, walks, videos, fvd, seed)
            kept.write({metric: value.to_plain() for metric, value in scored.items()})
            found |= scored
        else:
            found |= {metric: from_plain(cell) for metric, cell in known.items()}
    return found


def report(
    walks: Sequence[Walk], scores: Mapping[str, Scores], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The content of `report.json`."""
    content = report_json({row: Row(len(walks), s) for row, s in scores.items()}, settings)
    content["differences"] = paired_differences(scores, compared(list(scores)))
    content["parts"] = {row: by_part(walks, s) for row, s in scores.items()}
    return content


def compared(rows: Collection[str]) -> list[tuple[str, str]]:
    """Every row against `none`, and `fast` against the controls: they tell memory from adaptation."""
    pairs = [(row, BASE) for row in rows if row != BASE and BASE in rows]
    return pairs + [("fast", control) for control in CONTROLS if {"fast", control} <= set(rows)]


def _settings(
    spec: Benchmark,
    walks: Sequence[Walk],
    tasks: Sequence[RowTask],
    generation: GenerationSettings,
    videos: Path | None,
) -> dict[str, Any]:
    return {
        "benchmark": spec.label,
        "parts": list(dict.fromkeys(walk.part for walk in walks)),
        "seed": generation.seed,
        "models": {task.name: task.world.fingerprint() for task in tasks},
        "methods": {task.name: asdict(task.method) for task in tasks},
        "videos": None if videos is None else videos.name,
        **asdict(generation),
    }
