"""`sfv fit`: slow learning, or the slow-fast loop, from one YAML file."""

from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
from jsonargparse import set_parsing_settings
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from sfv.data.datamodule import EpisodeDataModule
from sfv.training.run_folder import newest_checkpoint, open_run_folder
from sfv.training.slow import SlowLearner
from sfv.training.slow_fast import SlowFastSettings, fit_slow_fast


class FitCLI(LightningCLI):
    """Typed configuration of a run; numbers that two objects share are linked."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--out", default="runs/fit", help="folder of this run")
        parser.add_argument(
            "--slow_fast",
            type=SlowFastSettings | None,
            default=None,
            help="settings of the slow-fast loop; null trains slowly only",
        )
        parser.link_arguments("out", "trainer.default_root_dir")
        parser.link_arguments("model.num_context", "data.num_context")
        parser.link_arguments("model.num_generated", "data.num_generated")
        parser.link_arguments("seed_everything", "model.seed", compute_fn=int)
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        parser.link_arguments("slow_fast", "data.mode", compute_fn=_data_mode)
        parser.link_arguments(
            "model",
            "data.codec_fingerprint",
            compute_fn=_codec_fingerprint,
            apply_on="instantiate",
        )


def _data_mode(slow_fast: SlowFastSettings | None) -> str:
    return "windows" if slow_fast is None else "episodes"


def _codec_fingerprint(learner: SlowLearner) -> str:
    return str(learner.world_model.codec.fingerprint())


def parse(args: Sequence[str]) -> FitCLI:
    """Parse and construct everything; a typo or a wrong type ends here, before any training."""
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    return FitCLI(
        SlowLearner,
        EpisodeDataModule,
        run=False,
        args=list(args),
        seed_everything_default=0,
        save_config_callback=None,
        parser_kwargs={"parser_mode": "omegaconf+", "prog": "sfv fit"},
    )


def run_callbacks(out: Path) -> list[pl.Callback]:
    """Callbacks that every run has: a newest checkpoint to resume from."""
    return [
        ModelCheckpoint(
            out / "checkpoints", filename="last", save_top_k=1, enable_version_counter=False
        )
    ]


def fit(args: Sequence[str]) -> None:
    """Train in a run folder; called again with the same settings it goes on from the newest checkpoint."""
    cli = parse(args)
    out = Path(cli.config.out)
    open_run_folder(out, cli.parser.dump(cli.config, skip_link_targets=False))
    trainer, learner = cli.trainer, cli.model
    train(trainer, learner, cli.datamodule, cli.config_init.slow_fast, out)
    print(f"model: {out / 'model'}\nlogs:  tensorboard --logdir {out}")


def train(
    trainer: pl.Trainer,
    learner: SlowLearner,
    datamodule: pl.LightningDataModule,
    slow_fast: SlowFastSettings | None,
    out: Path,
) -> None:
    """Train, then save the world model under `out/model`.

    Args:
        trainer: counts slow steps.
        learner: the slow learner.
        datamodule: windows, or episodes for the slow-fast loop.
        slow_fast: the loop's settings; None trains slowly only.
        out: the run folder.
    """
    newest = newest_checkpoint(out)
    resume = None if newest is None else str(newest)
    if slow_fast is None:
        trainer.fit(learner, datamodule=datamodule, ckpt_path=resume, weights_only=True)
    else:
        fit_slow_fast(trainer, learner, datamodule, slow_fast, resume)
    if trainer.is_global_zero:
        learner.world_model.save(out / "model")
