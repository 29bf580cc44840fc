"""`sfv memory`: look at memories, compare, merge, fork and rewind them; to PEFT and back."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sfv.fast.memory_algebra import MergeMethod, total
from sfv.fast.memory_file import (
    SUFFIX,
    MemoryHeader,
    StoredMemory,
    load_memory,
    require_lora,
    save_memory,
)
from sfv.fast.memory_kinds import kind_of
from sfv.fast.temporal_lora import TemporalLoRA
from sfv.files import write_json
from sfv.models.adapter_folder import check_layers, moves_nothing, read_adapter, write_adapter
from sfv.models.world_model import WorldModel
from sfv.names import is_hidden
from sfv.texts import printable
from sfv.types import LoRATargets


def inspect(memory: Path, layers: bool = False, json_file: Path | None = None) -> None:
    """Say what a memory is, and how much it holds.

    Args:
        memory: the file.
        layers: print a line for every adapted layer too; an addressed memory adapts none.
        json_file: also write everything there.
    """
    stored = load_memory(memory)
    row, norms = _row(memory, stored), kind_of([stored]).layers(stored)
    content = {**row, "layers": norms, "settings": stored.header.settings}
    for name, value in row.items():
        print(f"{name:<12}{_number(value)}")
    print(f"{'resumes':<12}{_resumes(stored)}")
    known = "fits" if stored.has_checksum else "none: written by an older version"
    print(f"{'checksum':<12}{known}")
    if norms:
        print(f"{'layers':<12}{len(norms)}")
    for name, norm in _largest(norms, len(norms) if layers else 5):
        print(f"  {norm:<10.4g}{printable(name)}")
    if json_file is not None:
        write_json(json_file, content)


def list_memories(folder: Path, json_file: Path | None = None) -> None:
    """List the memories in a folder, and those that cannot be read.

    Args:
        folder: searched for *.memory.safetensors, also in folders inside.
        json_file: also write the list there.
    """
    rows, broken = _scan(folder)
    print(f"{'episode':<24}{'chunks':>7}{'MB':>8}  {'kind':<11}{'holds':<44}file")
    for row in rows:
        holds = ", ".join(f"{name} {_number(row[name])}" for name in _sizes(row))
        print(
            f"{printable(row['episode']):<24}{row['num_chunks']:>7}{row['megabytes']:>8.2f}  "
            f"{row['kind']:<11}{holds:<44}{printable(row['file'])}"
        )
    for path, reason in broken.items():
        print(f"unreadable: {printable(path)} ({printable(reason)})")
    print(f"{len(rows)} memories, {len(broken)} unreadable")
    if json_file is not None:
        write_json(json_file, {"memories": rows, "unreadable": broken})


def diff(first: Path, second: Path, layers: bool = False, json_file: Path | None = None) -> None:
    """Compare two memories of one model and kind, layer by layer; of addressed ones what they hold, W.

    Args:
        first: one.
        second: the other; its rank may differ.
        layers: print every layer, not only those that differ most.
        json_file: also write everything there.
    """
    one, two = load_memory(first), load_memory(second)
    found = kind_of([one, two]).differences(one, two)
    sums = {
        key: total([getattr(d, key) for d in found.values()])
        for key in ("first", "second", "between")
    }
    print(f"{'first':>10}{'second':>10}{'between':>10}{'cosine':>8}  layer")
    if len(found) > 1:
        print(f"{sums['first']:>10.4g}{sums['second']:>10.4g}{sums['between']:>10.4g}{'':>8}  all")
    order = _largest({name: d.between for name, d in found.items()}, len(found) if layers else 5)
    for name, _ in order:
        d = found[name]
        print(
            f"{d.first:>10.4g}{d.second:>10.4g}{d.between:>10.4g}{d.cosine:>8.3f}  {printable(name)}"
        )
    if json_file is not None:
        plain = {
            name: {k: v if v == v else None for k, v in asdict(d).items()}
            for name, d in found.items()
        }
        write_json(json_file, {"all": sums, "layers": plain})


def merge(
    first: Path,
    second: Path,
    out: Path,
    weights: tuple[float, float] = (1.0, 1.0),
    method: MergeMethod | None = None,
    rank: int | None = None,
) -> None:
    """Merge two memories of one model and kind.

    Of LoRAs the update of the result is the weighted sum of theirs. An addressed memory becomes, exactly,
    the one that has seen the frames of both; both episodes must have begun at one place and heading.

    Args:
        first: one.
        second: the other; its rank may differ.
        out: the new memory; must not exist.
        weights: what the update of each is multiplied by; how many times the frames of each count.
        method: of LoRAs: `cat` is exact, with the sum of the ranks; `svd`, the nearest of a given rank, is
            what null takes.
        rank: of the result of `svd`; null takes the larger of theirs.
    """
    _check_new(out)
    stored = [load_memory(first), load_memory(second)]
    merged, made = kind_of(stored).merge(stored, list(weights), method, rank)
    save_memory(out, merged)
    print(printable(f"{out}: {made}"))


def fork(memory: Path, out: Path, episode: str) -> None:
    """Copy a memory under another name: another future of the same past, with noise of its own.

    Args:
        memory: the file.
        out: the new memory; must not exist.
        episode: its name; names the random streams of all that comes.
    """
    _check_new(out)
    stored = load_memory(memory)
    old = stored.header
    origin = f"forked from {old.episode} at chunk {old.num_chunks}"
    save_memory(out, replace(stored, header=replace(old, episode=episode, origin=origin)))
    print(printable(f"{out}: {origin}"))


def rewind(folder: Path, episode: str, chunk: int, out: Path) -> None:
    """Take an episode back: the newest memory kept that had learned at most so many chunks.

    Args:
        folder: where `sfv rollout --memory-every N` kept them.
        episode: its name.
        chunk: chunks learned at most.
        out: the memory to go on from; must not exist.
    """
    _check_new(out)
    rows, _ = _scan(folder)
    kept = [row for row in rows if row["episode"] == episode]
    early = [row for row in kept if row["num_chunks"] <= chunk]
    if not early:
        found = sorted({row["num_chunks"] for row in kept})
        raise ValueError(
            f"{folder} holds no memory of {episode!r} with at most {chunk} chunks; it has those of chunks "
            f"{found}. Give one of them, or roll out with --memory-every"
        )
    best = max(early, key=lambda row: int(row["num_chunks"]))
    stored = load_memory(Path(best["file"]))
    save_memory(out, stored)
    print(printable(f"{out}: {episode} at chunk {stored.header.num_chunks}, from {best['file']}"))


def export(memory: Path, out: Path) -> None:
    """Write a memory as an adapter of diffusers' U-Net, for `peft.PeftModel.from_pretrained`.

    Args:
        memory: the file, of a temporal LoRA.
        out: folder to write; new, empty, or an older adapter that is replaced.
    """
    stored = load_memory(memory)
    require_lora(stored)
    header = stored.header
    write_adapter(out, list(stored.layers), stored.weights, header.r, header.alpha)
    what = f"a LoRA of rank {header.r} on {len(stored.layers)} layers"
    print(printable(f"{out}: {what}; belongs to base {header.base}"))


def import_adapter(
    adapter: Path, model: Path, out: Path, targets: LoRATargets = "temporal"
) -> None:
    """Make a memory of an adapter that PEFT wrote for this model's U-Net.

    Args:
        adapter: folder with adapter_config.json, of a plain LoRA: one rank, one alpha, no changed base.
        model: folder of the world model that it belongs to.
        out: the new memory; must not exist.
        targets: the layers that it adapts; must be all of them.
    """
    _check_new(out)
    if adapter.is_file() and adapter.name.endswith(SUFFIX):
        require_lora(load_memory(adapter))
    state, r, alpha = read_adapter(adapter)
    world = WorldModel.load(model)
    check_layers(adapter, state, world.denoiser, targets)
    with TemporalLoRA(world.denoiser, r, alpha, targets) as lora:
        weights = lora.state(lora.theta(state))
    origin = f"imported from {adapter.name}"
    save_memory(
        out, StoredMemory(MemoryHeader(world.fingerprint(), out.stem, 0, r, alpha, origin), weights)
    )
    made = f"{out}: rank {r}, {len(weights) // 2} layers, base {world.fingerprint()}"
    print(printable(made))
    if moves_nothing(state, alpha):
        print("this adapter moves nothing: its update is zero in every layer. Was it trained?")


VERBS: dict[str, Callable[..., None]] = {
    "inspect": inspect,
    "list": list_memories,
    "diff": diff,
    "merge": merge,
    "fork": fork,
    "rewind": rewind,
    "export": export,
    "import": import_adapter,
}
"""Verbs under `sfv memory`."""


def _row(path: Path, stored: StoredMemory) -> dict[str, Any]:
    header = stored.header
    return {
        "file": str(path),
        "episode": header.episode,
        "num_chunks": header.num_chunks,
        "base": header.base,
        "origin": header.origin or "a rollout",
        "megabytes": round(path.stat().st_size / 1e6, 2),
        "kind": header.kind,
        **kind_of([stored]).sizes(stored),
    }


def _sizes(row: dict[str, Any]) -> list[str]:
    """Names of what the kind itself says of a row: all that stands behind it."""
    names = list(row)
    return names[names.index("kind") + 1 :]


def _number(value: object) -> str:
    """A value as it is printed."""
    return f"{value:.4g}" if isinstance(value, float) else printable(value)


def _resumes(stored: StoredMemory) -> str:
    if "context" not in stored.extras:
        return "from a new --start only: it holds no frames and no optimiser"
    return f"at chunk {stored.header.num_chunks + 1} (holds {len(stored.extras)} further tensors)"


def _scan(folder: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Rows of the memories in a folder, sorted, and those that cannot be read with the reason."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; give one that holds memories")
    rows, broken = [], {}
    for path in sorted(p for p in folder.rglob(f"*{SUFFIX}") if not is_hidden(p, folder)):
        try:
            rows.append(_row(path, load_memory(path)))
        except (ValueError, OSError) as error:
            broken[str(path)] = str(error)
    return sorted(rows, key=lambda row: (row["episode"], row["num_chunks"], row["file"])), broken


def _largest(norms: dict[str, float], num: int) -> list[tuple[str, float]]:
    return sorted(norms.items(), key=lambda item: -item[1])[:num]


def _check_new(out: Path) -> None:
    if out.exists():
        raise FileExistsError(f"{out} exists; give another --out, or remove it first")
