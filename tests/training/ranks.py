"""Real process groups for tests: gloo on the CPU, several processes of one machine."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch


@cache
def _server() -> Any:
    """Processes are forked from one that has imported everything: that takes seconds, once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.rank_jobs"])
    return context


def on_ranks(world: int, job: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """Call `job(*arguments)` on `world` processes that Lightning takes for its ranks.

    Args:
        world: number of processes.
        job: a function of an importable module.
        folder: for the results; new for each call.
        arguments: what pickle takes.

    Returns:
        what each rank returned.
    """
    folder.mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        _server().Process(target=_one, args=(rank, world, port, job, folder, arguments))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(200)
    hung = [rank for rank, process in enumerate(processes) if process.is_alive()]
    for process in processes:
        process.kill()
    errors = [path.read_text() for path in sorted(folder.glob("error-*"))]
    assert not errors and not hung, f"ranks that hang: {hung}\n" + "\n".join(errors)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world)]


def _one(
    rank: int, world: int, port: int, job: Callable[..., Any], folder: Path, arguments: Any
) -> None:
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), NODE_RANK="0", LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world), GLOO_SOCKET_IFNAME="lo",
    )  # fmt: skip
    torch.set_num_threads(1)
    try:
        torch.save(job(*arguments), folder / f"{rank}.pt")
    except BaseException:
        (folder / f"error-{rank}").write_text(f"rank {rank}: {traceback.format_exc()}")
        os._exit(1)  # the other ranks' end is not waited for
