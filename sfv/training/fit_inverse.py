"""`sfv fit inverse_dynamics`: train the inverse model on true videos, measure it on held-out maps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from pytorch_lightning.cli import LightningArgumentParser

from sfv.data.episodes import episodes
from sfv.files import write_json
from sfv.metrics.protocol import report_json
from sfv.models.inverse_dynamics import InverseReader
from sfv.report.table import format_table
from sfv.run_folder import open_run_folder
from sfv.training.attempts import FencedCheckpointIO
from sfv.training.fit import FitCLI, add_run_arguments, check_strategy, parse, resolved, train
from sfv.training.inverse_dynamics import InverseDynamicsLearner, held_out_accuracy

REPORT = "report.json"
ROW, TEST_ROW = "true_video", "true_video_test"


class InverseCLI(FitCLI):
    """Typed configuration of an inverse model's run."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        add_run_arguments(parser)
        parser.link_arguments("seed_everything", "model.seed", compute_fn=int)
        parser.add_argument(
            "--test",
            type=str | None,
            default=None,
            help="folder of episodes of the test split, measured at the end beside data.val",
        )


def fit_inverse(args: Sequence[str]) -> None:
    """Train in a run folder; the same settings again go on from its newest checkpoint.

    The folder gets `model/` and, if `data.val` or `test` is given, `report.json` with the accuracy there.

    Args:
        args: flags.

    Raises:
        ValueError: the configuration cannot be trained.
    """
    cli = parse(args, InverseCLI, "sfv fit inverse_dynamics", InverseDynamicsLearner)
    learner, data, out = cli.model, cli.datamodule, Path(cli.config.out)
    assert isinstance(learner, InverseDynamicsLearner)
    if data.read != "video":
        raise ValueError(
            "data.read is latents; the inverse model reads true frames: set it to video"
        )
    held_out = cli.config.data.val
    if held_out is not None and not isinstance(held_out, str):
        raise ValueError("data.val is a list; give one folder of held-out episodes")
    config = resolved(cli)
    check_strategy(cli.trainer)
    if cli.trainer.is_global_zero:  # the others would find it half made
        open_run_folder(out, config)
    settings = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.create(config)))
    train(cli.trainer, learner, data, None, out, settings)
    if not cli.trainer.is_global_zero:
        return
    print(f"model: {out / 'model'}\nlogs:  tensorboard --logdir {out}")
    reader = InverseReader(learner.network.cpu())
    folders = {ROW: held_out, TEST_ROW: cli.config.test}
    rows = {
        row: held_out_accuracy(reader, episodes(folder), cli.config.seed_everything)
        for row, folder in folders.items()
        if folder is not None
    }
    if rows:
        report = report_json(rows, {"held_out": folders, "model": reader.sha256})
        fence = cli.trainer.strategy.checkpoint_io
        assert isinstance(fence, FencedCheckpointIO)
        fence.check()
        write_json(out / REPORT, report)
        print(format_table(report))
