"""`sfv fit`: slow learning, or the slow-fast loop, from one YAML file."""

import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
from jsonargparse import set_parsing_settings
from jsonargparse.typing import PositiveInt
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning.callbacks import ModelCheckpoint, WeightAveraging
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.strategies import FSDPStrategy, ModelParallelStrategy

from sfv.data.datamodule import EpisodeDataModule
from sfv.files import replacing_parts
from sfv.models.model_folder import MODEL_FILE
from sfv.report.tensorboard import log_hparams
from sfv.run_folder import open_run_folder
from sfv.training.attempts import FencedCheckpointIO, ShareAttempt, claim
from sfv.training.checkpoints import newest_checkpoint
from sfv.training.encode import EncodeVideo
from sfv.training.finite_loss import FiniteLoss
from sfv.training.inverse_dynamics import InverseDynamicsLearner
from sfv.training.logger import tensorboard_logger
from sfv.training.preempt import Preemption
from sfv.training.sharded_strategy import ShardedStrategy
from sfv.training.sharding import whole
from sfv.training.slow import SlowLearner
from sfv.training.slow_fast import SlowFastSettings, fit_slow_fast
from sfv.yaml_file import config_files, guard_flags


class FitCLI(LightningCLI):
    """Typed configuration of a run; numbers that two objects share are linked."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        add_run_arguments(parser)
        parser.add_argument(
            "--slow_fast",
            type=SlowFastSettings | None,
            default=None,
            help="settings of the slow-fast loop; null trains slowly only",
        )
        parser.link_arguments("model.num_context", "data.num_context")
        parser.link_arguments("model.num_generated", "data.num_generated")
        parser.link_arguments("seed_everything", "model.seed", compute_fn=int)
        parser.link_arguments("slow_fast", "data.mode", compute_fn=_data_mode)
        parser.link_arguments(
            "model",
            "data.codec_fingerprint",
            compute_fn=_codec_fingerprint,
            apply_on="instantiate",
        )

    def before_instantiate_classes(self) -> None:
        """Refuse null where a type has none: jsonargparse takes it for "not given"."""
        set_parsing_settings(unset_sentinel=True)
        try:
            self.parser.validate(self.config)
        except (TypeError, KeyError) as error:
            self.parser.error(str(error))
        finally:
            set_parsing_settings(unset_sentinel=False)

    def instantiate_classes(self) -> None:
        """Build everything, and look whether it goes together."""
        super().instantiate_classes()
        if isinstance(self.model, SlowLearner):  # others read the frames themselves
            check_encoder(self.datamodule, self.trainer.callbacks)  # type: ignore[attr-defined]

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Add what every run has: TensorBoard logs in its folder, a checkpoint to resume from."""
        out, chosen = Path(self.config_init.out), self.config_init.trainer
        checkpoint = ModelCheckpoint(
            out / "checkpoints",
            filename="newest",
            every_n_train_steps=self.config_init.checkpoint_every,
            enable_version_counter=False,
        )
        kwargs["callbacks"] = [*(chosen.callbacks or []), checkpoint]
        if SLURMEnvironment.detect():  # Lightning's own requeueing saves inside the signal handler
            kwargs["plugins"] = [*_listed(chosen.plugins), SLURMEnvironment(auto_requeue=False)]
        if chosen.logger in (None, True):
            kwargs["logger"] = tensorboard_logger(out)
        trainer: pl.Trainer = super().instantiate_trainer(**kwargs)
        return trainer


def add_run_arguments(parser: LightningArgumentParser) -> None:
    """What every run has: a folder, checkpoints, one seed."""
    full_help, error = parser.format_help, parser.error
    parser.format_help = lambda: short_help(full_help())
    parser.error = lambda message, ex=None: error(with_hint(message), ex)
    parser.add_argument("--out", type=str, default="runs/fit", help="folder of this run")
    parser.add_argument(
        "--checkpoint_every",
        type=PositiveInt,
        default=100,
        help="slow steps between two checkpoints; the newest and the one before are kept",
    )
    parser.link_arguments("out", "trainer.default_root_dir")
    parser.link_arguments("seed_everything", "data.seed", compute_fn=int)


def short_help(text: str) -> str:
    """Leave out the lists of every subclass that Python knows: thousands of lines of others' classes."""
    return re.sub(r",\s+known\s+subclasses:[^)]*", "", text)


def with_hint(message: str) -> str:
    """Say how a text is written that YAML takes for a number or for true and false."""
    if "Expected a <class 'str'>" in message and re.search(
        r"Got value: (True|False|[-+.0-9])|value type: <class '(int|float|bool)'>", message
    ):
        return f"{message}\nYAML reads a number or true and false there; put a text in quotes"
    return message


def _listed(plugins: Any) -> list[Any]:  # one, several or none
    return list(plugins) if isinstance(plugins, list | tuple) else [plugins] if plugins else []


def _data_mode(slow_fast: Any) -> str:  # a namespace, not built yet
    return "windows" if slow_fast is None else "episodes"


def _codec_fingerprint(learner: SlowLearner) -> str:
    return str(learner.world_model.codec.fingerprint())


class AverageAtEnd(pl.Callback):
    """Leaves averaged weights in the model, also when a run that is finished already is resumed.

    The averaging callbacks copy them over when training ends; without a step left it never begins.
    """

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging):
                callback.on_train_end(trainer, pl_module)


class LoginNodeCLI(FitCLI):
    """The same checks where the run's own devices are not: the trainer is built for one CPU."""

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        return super().instantiate_trainer(
            accelerator="cpu", devices=1, num_nodes=1, strategy="auto", **kwargs
        )


def parse(
    args: Sequence[str],
    cli: type[FitCLI] = FitCLI,
    prog: str = "sfv fit",
    learner: type[pl.LightningModule] = SlowLearner,
) -> FitCLI:
    """Parse and construct everything; a typo or a wrong type ends here, before any training.

    Args:
        args: flags.
        cli: what is constructed.
        prog: the command that errors and help name.
        learner: what is trained.

    Raises:
        ValueError: a config is no YAML, or a `${...}` in it leads to nothing.
        SystemExit: a setting is wrong; jsonargparse has said which.
    """
    guard_flags(args)
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True, unset_sentinel=False)
    # Lightning warns that `args` beside sys.argv may be a mistake; `sfv` has taken its verb off.
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
    try:
        return cli(
            learner,
            EpisodeDataModule,
            run=False,
            args=list(args),
            seed_everything_default=0,
            save_config_callback=None,
            auto_configure_optimizers=False,
            parser_kwargs={"parser_mode": "omegaconf+", "prog": prog},
        )
    except OmegaConfBaseException as error:
        files = ", ".join(map(str, config_files(args))) or "the flags"
        raise ValueError(
            f"{files}: the ${{...}} of {error.full_key} leads to no value "
            f"({str(error).splitlines()[0]})"
        ) from error


def resolved(cli: FitCLI) -> str:
    """The configuration with all defaults and linked values, as `config.yaml` holds it."""
    config: str = cli.parser.dump(cli.config, skip_unset=False, skip_link_targets=False)
    return config


def fit(args: Sequence[str], callbacks: Sequence[pl.Callback] = ()) -> None:
    """Train in a run folder; the same settings again go on from its newest checkpoint.

    Args:
        args: flags.
        callbacks: of the caller, besides those of the configuration.
    """
    cli = parse(args)
    out = Path(cli.config.out)
    config = resolved(cli)
    check_strategy(cli.trainer)
    if cli.trainer.is_global_zero:  # the others would find it half made
        open_run_folder(out, config)
    cli.trainer.callbacks.extend(callbacks)  # type: ignore[attr-defined]
    train(
        cli.trainer,
        cli.model,
        cli.datamodule,
        cli.config_init.slow_fast,
        out,
        cast(dict[str, Any], OmegaConf.to_container(OmegaConf.create(config))),
    )
    if cli.trainer.is_global_zero:
        print(f"model: {out / 'model'}\nlogs:  tensorboard --logdir {out}")


def check_encoder(datamodule: EpisodeDataModule, callbacks: Sequence[pl.Callback]) -> None:
    """Refuse training on video that nothing would encode.

    Raises:
        ValueError: names the callback.
    """
    if datamodule.read == "video" and not any(isinstance(c, EncodeVideo) for c in callbacks):
        raise ValueError(
            "data.read is video, but nothing encodes it: add the callback sfv.training.encode.EncodeVideo "
            "to trainer.callbacks, or encode the shards with data_tools.encode_latents and set data.read "
            "to latents"
        )


def check_strategy(trainer: pl.Trainer) -> None:
    """Refuse strategies under which a model could be trained but not saved, or only damaged.

    Raises:
        ValueError: names the strategy or callback and what to use in its place.
    """
    strategy = trainer.strategy
    if isinstance(strategy, (FSDPStrategy, ModelParallelStrategy)):
        if not isinstance(strategy, ShardedStrategy):
            raise ValueError(
                f"trainer.strategy is {type(strategy).__name__}; to train in shards set its class_path to "
                "sfv.training.sharded_strategy.ShardedStrategy"
            )
        if any(isinstance(c, WeightAveraging) for c in trainer.callbacks):  # type: ignore[attr-defined]
            raise ValueError(
                "Lightning's weight averaging cannot average shards; set the callback's class_path to "
                "sfv.training.ema.EMA"
            )


def train(
    trainer: pl.Trainer,
    learner: SlowLearner | InverseDynamicsLearner,
    datamodule: pl.LightningDataModule,
    slow_fast: SlowFastSettings | None,
    out: Path,
    settings: Mapping[str, Any],
) -> None:
    """Train, then save the model under `out/model`.

    Args:
        trainer: counts slow steps.
        learner: the slow learner, or an inverse dynamics model (without `slow_fast`).
        datamodule: windows, or episodes for the slow-fast loop.
        slow_fast: the loop's settings; None trains slowly only.
        out: the run folder.
        settings: shown in TensorBoard's HParams beside `val/loss`.

    Raises:
        SystemExit: a signal asked training to stop; all is saved, the same call goes on.
        StaleAttempt: another process has gone on with this run.
        ValueError: the checkpoint to go on from is damaged, or a loss is not finite.
    """
    attempt = claim(out) if trainer.is_global_zero else None  # from here no older one writes
    fence = FencedCheckpointIO(attempt)
    trainer.strategy.checkpoint_io = fence
    preemption = Preemption(out / "checkpoints" / "newest.ckpt")
    newest = newest_checkpoint(out)
    resume = None if newest is None else str(newest)
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    callbacks[:0] = [ShareAttempt(fence, out), FiniteLoss()]  # before anything is saved
    callbacks += [AverageAtEnd(), preemption]
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            log_hparams(logger, settings, {"val/loss": float("nan")})
    try:
        if slow_fast is None:
            trainer.fit(learner, datamodule=datamodule, ckpt_path=resume, weights_only=True)
        else:
            assert isinstance(learner, SlowLearner)
            fit_slow_fast(trainer, learner, datamodule, slow_fast, resume)
    except SystemExit as error:
        if trainer.interrupted:  # Lightning turns Ctrl-C into an exit that says nothing
            raise KeyboardInterrupt from error
        raise
    if preemption.exit_code is not None:
        _say_stopped(trainer)
        raise SystemExit(preemption.exit_code)
    with whole(learner, keep=trainer.is_global_zero):
        if attempt is not None:
            with replacing_parts(out / "model", MODEL_FILE) as part:
                learner.save(part)
                attempt.check()


def _say_stopped(trainer: pl.Trainer) -> None:
    if trainer.is_global_zero:
        step = trainer.global_step
        print(
            f"sfv fit: asked to stop, saved slow step {step}; run again to go on", file=sys.stderr
        )
