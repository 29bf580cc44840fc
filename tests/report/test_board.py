from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
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


def test_a_folder_without_logs_is_named(tmp_path, capsys):
    assert main(["board", str(tmp_path), "--serve=false"]) == 2
    assert f"{tmp_path}: no TensorBoard log" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
