"""Which rows a call makes: of a model, of further models, or the videos of another system."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from sfv.evaluation.benchmark.generate import RowTask
from sfv.evaluation.benchmark.methods import Method, Protocol, standard
from sfv.evaluation.benchmark.spec import BenchmarkError
from sfv.evaluation.benchmark.videos import protocols_in
from sfv.evaluation.benchmark.walks import Walk
from sfv.evaluation.return_walks import partner
from sfv.generation.episodes import check_episode as check_cut
from sfv.generation.settings import GenerationSettings
from sfv.models.world_model import WorldModel
from sfv.texts import printable


def rows_of_videos(videos: Path, wanted: Sequence[Protocol]) -> dict[Protocol, Path]:
    """Folders of the wanted protocols that another system's videos have.

    Raises:
        BenchmarkError: there is none.
    """
    found = {p: videos / p for p in protocols_in(videos) if p in wanted}
    if not found:
        raise BenchmarkError(f"{videos} holds no videos of the protocol {', '.join(wanted)}")
    return found


def rows_of_models(
    ckpt: Path,
    wanted: Sequence[Protocol],
    rows: list[str] | str | None,
    also: list[str] | str | None,
    methods: Mapping[str, Method],
    generation: GenerationSettings,
    device: str,
) -> list[RowTask]:
    """The rows of the model, and one for each of `also`; the arguments are those of the command.

    Raises:
        BenchmarkError: a name that is no row, or stands there twice.
    """
    known = standard(generation.fast, generation.addressed) | dict(methods)
    able = [row for row, method in known.items() if set(method.protocols) & set(wanted)]
    names = [rows] if isinstance(rows, str) else able if rows is None else rows
    unknown = [row for row in names if row not in able]
    if unknown:
        raise BenchmarkError(
            f"no row {unknown[0]!r} in the protocol {' or '.join(wanted)}; allowed: {', '.join(able)}"
        )
    world = WorldModel.load(ckpt, device)
    unable = [row for row in names if known[row].addressed and world.address is None]
    if unable and rows is not None:
        raise BenchmarkError(
            f"row {unable[0]!r} needs a model with an addressed memory, and {ckpt} has none; leave it out"
        )
    tasks = [RowTask(row, known[row], world) for row in names if row not in unable]
    for given in [also] if isinstance(also, str) else also or []:
        row, equals, folder = given.partition("=")
        if not equals or not row or row in names:
            raise BenchmarkError(
                f"--also {given}: allowed is NAME=FOLDER with a name that no other row has, e.g. "
                "fast_loop=runs/loop/model"
            )
        other = WorldModel.load(Path(folder), device)
        tasks.append(RowTask(row, known["fast" if other.address is None else "addressed"], other))
    return tasks


def checked(
    tasks: Sequence[RowTask], parts: Mapping[str, Sequence[Walk]], drop: bool
) -> list[RowTask]:
    """Find what would stop a row before anything is made.

    Args:
        tasks: the rows.
        parts: the walks.
        drop: leave out rows for which a walk finds no memory, and print why, instead of an error:
            for rows that nobody asked for by name.

    Raises:
        ValueError: a model does not know an action, or nobody can lend a walk a memory.
    """
    actions = sorted({a.text for part in parts.values() for w in part for a in w.meta.actions})
    able = []
    for task in tasks:
        task.world.text(actions)
        for walk in (walk for part in parts.values() for walk in part):
            check_cut(walk.meta, task.world)
        fault = _nobody_lends(task, parts)
        if fault and not drop:
            raise ValueError(fault)
        if fault:
            print(printable(f"row {task.name} is left out: {fault}"))
        else:
            able.append(task)
    return able


def _nobody_lends(task: RowTask, parts: Mapping[str, Sequence[Walk]]) -> str:
    """Why a walk finds no memory; "" where all find one."""
    for part in parts.values():
        metas = [walk.meta for walk in part]
        try:
            for i in range(len(metas)):
                partner(metas, i, task.method.memory)
        except ValueError as error:
            return str(error)
    return ""
