import json

import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams import metadata
from torch.utils.tensorboard import SummaryWriter

from sfv.cli import main
from sfv.report.board import LAYOUT


def test_the_layout_is_written_once_beside_the_runs(tmp_path):
    with SummaryWriter(str(tmp_path / "run" / "tensorboard")) as writer:
        writer.add_scalar("slow/loss", 1.0, 1)
    for _ in range(2):
        assert main(["board", str(tmp_path), "--serve=false"]) == 0
    assert len(list((tmp_path / "layout").iterdir())) == 1
    events = EventAccumulator(str(tmp_path / "layout")).Reload()
    (event,) = events.Tensors("custom_scalars__config__")
    layout = Layout.FromString(event.tensor_proto.string_val[0])
    assert {
        c.title: {x.title: list(x.multiline.tag) for x in c.chart} for c in layout.category
    } == LAYOUT


def declared(folder):
    """What HParams is told to show: settings with their type and range, and metrics."""
    events = EventAccumulator(str(folder)).Reload()
    content = events.SummaryMetadata(metadata.EXPERIMENT_TAG).plugin_data.content
    experiment = metadata.parse_experiment_plugin_data(content)
    return (
        {info.name: str(info.WhichOneof("domain")) for info in experiment.hparam_infos},
        [info.name.tag for info in experiment.metric_infos],
    )


def test_hparams_shows_what_runs_differ_in_and_what_was_reported(tmp_path):
    for number, rate in enumerate((0.1, 0.2)):
        run = tmp_path / f"trial-{number}"
        with SummaryWriter(str(run / "tensorboard")) as writer:
            writer.add_scalar("slow/loss", 1.0, 1)
        settings = {"out": str(run), "seed_everything": 3, "model": {"seed": number, "lr": rate}}
        settings["trainer"] = {"callbacks": ["a", "b"][: number + 1]}
        (run / "config.yaml").write_text(yaml.safe_dump(settings))
    assert main(["board", str(tmp_path), "--serve=false"]) == 0
    domains = {"model.lr": "domain_interval", "trainer.callbacks": "domain_discrete"}
    assert declared(tmp_path / "layout") == (domains, ["val/loss"])
    report = tmp_path / "trial-0" / "report"
    with SummaryWriter(str(report / "tensorboard")) as writer:
        writer.add_scalar("psnr/fast", 20.0, 1)
    cells = {"psnr": {"value": 20.0}, "fvd_floor": {"value": 3.0}}
    content = {"rows": {"fast": {"n": 1, "metrics": cells}}, "settings": {}}
    (report / "report.json").write_text(json.dumps(content))
    assert main(["board", str(tmp_path), "--serve=false"]) == 0
    assert declared(tmp_path / "layout") == (domains, ["val/loss", "psnr/fast"])
    assert len(list((tmp_path / "layout").iterdir())) == 1


def test_a_folder_without_logs_is_named(tmp_path, capsys):
    assert main(["board", str(tmp_path), "--serve=false"]) == 2
    assert f"{tmp_path}: no TensorBoard log" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
