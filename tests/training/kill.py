"""Runs of the loop that are killed by SIGKILL, gone on with, and compared with one that was not.

python -m tests.training.kill FOLDER all: one process imports everything once; each run is a fork of it.
"""

import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint

from sfv.backbones.video_unet import PRESETS
from sfv.fast.learner import FastSettings
from sfv.fast.settings import LoRASettings
from sfv.training.slow_fast import SlowFastSettings, fit_slow_fast
from tests.training.make import Data, make_data, make_datamodule, make_learner, make_trainer

SETTINGS = SlowFastSettings(
    episodes_per_group=2,
    lora=LoRASettings(r=2, alpha=2.0),
    fast=FastSettings(num_steps=2, learning_rate=1e-2, probe_draws=0),
    seed=11,
    start="learned",
)
STEPS = 7


@dataclass(frozen=True)
class Case:
    """A run: how it is set up, and where it is killed.

    Args:
        place: where the kill comes; see `Killer`.
        count: at which time that this place is come by.
        every: slow steps between checkpoints.
        accumulate: slow batches of a step.
        validate: slow batches between validations.
        settings: of the loop.
    """

    place: str
    count: int
    every: int = 1
    accumulate: int = 1
    validate: int = 3
    settings: SlowFastSettings = SETTINGS

    @property
    def name(self) -> str:
        return (
            f"{self.place}-{self.count}-{self.every}-{self.accumulate}-{self.settings.theta_store}"
        )


class Killer(pl.Callback):
    """Ends the process by SIGKILL; `forward` is any pass through the denoiser, whatever it is for."""

    def __init__(self, place: str, count: int) -> None:
        self.place, self.left = place, count

    def at(self, place: str) -> None:
        self.left -= place == self.place
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_fast_phase_start(self, *_: Any) -> None:
        self.at("fast start")

    def on_fast_chunk_end(self, *_: Any) -> None:
        self.at("fast chunk")

    def on_fast_phase_end(self, *_: Any) -> None:
        self.at("fast end")

    def on_before_optimizer_step(self, *_: Any) -> None:
        self.at("backward")

    def on_train_batch_end(self, *_: Any) -> None:
        self.at("batch end")

    def on_validation_batch_end(self, *_: Any) -> None:
        self.at("validation batch")

    def on_validation_end(self, *_: Any) -> None:
        self.at("validation end")

    def on_train_epoch_end(self, *_: Any) -> None:
        self.at("group end")


class Journal(pl.Callback):
    """One line a slow batch and a validation, on disk at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def note(self, key: str, value: Any) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps([key, value]) + "\n")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        memory = batch["memory"]
        numbers = None if memory is None else memory.double().cos().sum(dim=1).tolist()
        total = trainer.fit_loop.epoch_loop.total_batch_idx
        row = [trainer.global_step, batch_idx, batch["keys"], outputs["loss"].item(), numbers]
        self.note(f"batch {total}", [*row, trainer.current_epoch])

    def on_validation_end(self, trainer, pl_module) -> None:
        self.note(f"val {trainer.global_step}", trainer.callback_metrics["val/loss"].item())

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        self.note(f"group {trainer.current_epoch}", trainer.global_step)


def fit(data: Data, folder: Path, case: Case, kill: bool) -> None:
    """Train in `folder`, going on from its newest checkpoint if there is one."""
    path = folder / "newest.ckpt"
    checkpoint = ModelCheckpoint(
        folder, "newest", every_n_train_steps=case.every, enable_version_counter=False
    )
    killer = Killer(case.place, case.count if kill else -1)
    if not kill:
        killer.left = -1
    trainer = make_trainer(
        STEPS,
        [Journal(folder / "journal"), EMAWeightAveraging(decay=0.5), checkpoint, killer],
        enable_checkpointing=True,
        default_root_dir=folder,
        accumulate_grad_batches=case.accumulate,
        gradient_clip_val=1.0,
        limit_val_batches=1.0,
        val_check_interval=case.validate,
    )
    learner = make_learner(data, optimizer=lambda p: torch.optim.Adam(p, lr=1e-3))
    learner.denoiser.register_forward_hook(lambda *_: killer.at("forward"))
    if kill and case.place == "writing":
        _die_while_writing(case.count)
    resume = str(path) if path.exists() else None
    fit_slow_fast(trainer, learner, make_datamodule(data, "episodes"), case.settings, resume)
    optimizer = [trainer.optimizers[0].state_dict(), learner.state_dict()]
    torch.save([*optimizer, trainer.fit_loop.fast_loop.phase.learner.start], folder / "end.pt")


def _die_while_writing(count: int) -> None:
    """Cut off the writing of a checkpoint half-way: its temporary file is there, the rename is not."""
    from lightning_fabric.utilities import cloud_io

    whole, left = cloud_io._atomic_save, [count]

    def half(checkpoint: Any, filepath: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            Path(f"{filepath}.part").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        whole(checkpoint, filepath)

    for module in list(sys.modules.values()):
        if getattr(module, "_atomic_save", None) is whole:
            module._atomic_save = half  # type: ignore[attr-defined]


def forked(work: Callable[[], None]) -> int:
    """Run in a fork; 0, or minus the signal that ended it."""
    pid = os.fork()
    if not pid:
        try:
            work()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def rows(folder: Path) -> Iterator[tuple[str, Any]]:
    for line in (folder / "journal").read_text().splitlines():
        key, value = json.loads(line)
        yield key, value


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else bool(a == b)


def check(data: Data, folder: Path, case: Case, truth: Path) -> str:
    """Kill, go on, compare; what is wrong, or nothing."""
    here = folder / case.name.replace(" ", "_")
    here.mkdir()
    code = forked(lambda: fit(data, here, case, kill=True))
    if code != -signal.SIGKILL:
        return f"{case.name}: was not killed ({code})"
    seen = len(list(rows(here))) if (here / "journal").exists() else 0
    code = forked(lambda: fit(data, here, case, kill=False))
    if code:
        return f"{case.name}: did not go on ({code})"
    expected = dict(rows(truth))
    for key, value in rows(here):
        if expected.get(key, "absent") != value:
            return f"{case.name}: {key} is {value}, not {expected.get(key, 'absent')}"
    if dict(rows(here)).keys() != expected.keys():
        return f"{case.name}: {expected.keys() - dict(rows(here)).keys()} is missing"
    ends = [torch.load(f / "end.pt", weights_only=True) for f in (here, truth)]
    if not same(*ends):
        return f"{case.name}: another end"
    return f"{case.name}: exact (killed after {seen} rows)"


POINTS = [
    # Passes through the denoiser: K = 2 of each chunk pair of the fast phase, one of each slow batch, in
    # validation one to score and K to learn. So 3 is inside of a chunk, 12 inside of the second group ...
    *[("forward", n) for n in (3, 10, 12, 14, 17, 20, 24, 29, 31)],
    ("fast start", 2),
    ("fast chunk", 3),
    ("fast end", 2),
    ("backward", 4),
    ("batch end", 3),
    ("batch end", 4),
    ("validation batch", 2),
    ("validation end", 1),
    ("group end", 1),
    ("writing", 3),
]


def cases(which: str) -> list[Case]:
    """`all` points, or a `few` of them in half a minute."""
    plain = [Case(place, count) for place, count in POINTS]
    sparse = [replace(case, every=2, accumulate=2, validate=2) for case in plain]
    disk = replace(SETTINGS, theta_store="disk", slow_batch_size=2, plain_share=0.3)
    stored = [Case("forward", n, settings=disk) for n in (12, 20)]
    if which == "all":
        return [*plain, *sparse, *stored]
    wanted = ("fast chunk", "batch end", "validation batch", "writing")
    few = [case for case in plain if case.place in wanted]
    return [*few, *(case for case in sparse if case.place == "backward"), stored[0]]


def main(folder: Path, which: str) -> int:
    torch.set_num_threads(1)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    # A run writes many checkpoints: narrow layers keep them small.
    PRESETS["tiny"] = replace(PRESETS["tiny"], block_out_channels=(16, 16), norm_num_groups=8)
    data = make_data(folder / "data", 5, 2, (4, 6), 4)
    truths: dict[str, Path] = {}
    wrong = 0
    for case in cases(which):
        setting = repr((case.every, case.accumulate, case.validate, case.settings))
        if setting not in truths:
            truths[setting] = folder / f"whole-{len(truths)}"
            truths[setting].mkdir()
            assert forked(lambda case=case, to=truths[setting]: fit(data, to, case, False)) == 0
        said = check(data, folder, case, truths[setting])
        wrong += ": exact" not in said
        print(said, flush=True)
    return wrong


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
