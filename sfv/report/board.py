"""`sfv board`: TensorBoard on a folder of runs, with charts that put related curves together."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sfv.files import read_json
from sfv.report.address import check_port
from sfv.report.catalogue import METRICS
from sfv.report.fields import mapping_of
from sfv.report.rows import differing_settings, flatten
from sfv.yaml_file import read_yaml

T = TypeVar("T")

LAYOUT = {
    "slow learning": {"loss": ["slow/loss", "val/loss"], "seconds": ["time/.*"]},
    "fast learning": {
        "loss": ["fast/loss"],
        "gain": ["fast/gain"],
        "drift and undone chunks": ["fast/drift", "fast/undone"],
        "drift by layer": ["curve/fast/drift by layer/.*"],
    },
    "reports": {
        "next chunk": [r"report/(psnr|ssim|lpips)/.*"],
        "long videos": [r"report/(fvd|scuts|src|motion)/.*"],
        "recall by gap": ["curve/recall.*"],
        "quality along the video": ["curve/drift.*"],
    },
}
"""Category, chart, and the scalars in it as regular expressions; the names are the fixed list."""

EVENTS = "events.out.tfevents.*"
LAYOUT_FOLDER = "layout"
CONFIG = "config.yaml"
NOT_TRIED = frozenset(
    {"out", "trainer.default_root_dir", "data.codec_fingerprint", "model.seed", "data.seed"}
)
"""What differs between runs without being tried out: places, and seeds that follow `seed_everything`."""


def board(folder: str, port: int = 6006, serve: bool = True) -> None:
    """Open TensorBoard on all runs below a folder.

    Args:
        folder: a run, a sweep, or a folder of these.
        port: of the page on this computer.
        serve: false writes the charts' layout only.

    Raises:
        ValueError: there is no such port.
        FileNotFoundError: no run below the folder has logged anything.
    """
    check_port(port)
    root = Path(folder)
    logs = [p.parent for p in root.rglob(EVENTS) if p.parent.name != LAYOUT_FOLDER]
    if not logs:
        raise FileNotFoundError(
            f"{root}: no TensorBoard log (*.tfevents.*) below it; give runs/, say"
        )
    folders = sorted({log.parent for log in logs})
    settings = [found for run in folders if (found := _understood(_settings, run / CONFIG))]
    reported = [_understood(_reported, run / "report.json") or [] for run in folders]
    write_layout(root / LAYOUT_FOLDER, settings, sorted({n for names in reported for n in names}))
    if serve:
        command = [sys.executable, "-m", "tensorboard.main", f"--logdir={root}", f"--port={port}"]
        sys.stdout.flush()
        os.execv(command[0], command)  # it takes this process's place, and ends when that is ended


def write_layout(
    folder: Path, settings: Sequence[Mapping[str, Any]] = (), metrics: Sequence[str] = ()
) -> None:
    """Write the layout of Custom Scalars, and which settings HParams shows; replaces an older layout.

    Args:
        folder: for this layout alone.
        settings: of each run, by dotted name; HParams shows those that differ.
        metrics: names of scalars that HParams shows beside `val/loss`.
    """
    from torch.utils.tensorboard import SummaryWriter

    older = list(folder.glob(EVENTS))
    with SummaryWriter(str(folder)) as writer:
        writer.add_custom_scalars(
            {
                category: {title: ["Multiline", tags] for title, tags in charts.items()}
                for category, charts in LAYOUT.items()
            }
        )
        names = [n for n in differing_settings(settings) if n not in NOT_TRIED]
        if names:
            declared = _declaration(settings, names, ["val/loss", *metrics])
            writer._get_file_writer().add_summary(declared)
    for path in older:
        path.unlink()


def _declaration(
    settings: Sequence[Mapping[str, Any]], names: Sequence[str], metrics: Sequence[str]
) -> Any:
    """What HParams shows of all runs: without it the first five settings by name, whatever was tried."""
    from tensorboard.compat.proto.summary_pb2 import (  # type: ignore[import-untyped]
        Summary,
        SummaryMetadata,
    )
    from tensorboard.plugins.hparams import (  # type: ignore[import-untyped]
        api_pb2,
        metadata,
        plugin_data_pb2,
    )

    infos = []
    for name in names:
        values = [run[name] for run in settings if name in run]
        info = api_pb2.HParamInfo(name=name, differs=True)
        if all(isinstance(value, int | float) for value in values):
            info.type = api_pb2.DATA_TYPE_FLOAT64
            info.domain_interval.min_value = min(values)
            info.domain_interval.max_value = max(values)
        else:
            info.type = api_pb2.DATA_TYPE_STRING
            info.domain_discrete.extend(sorted(map(str, set(values))))
        infos.append(info)
    shown = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=metric)) for metric in metrics]
    content = plugin_data_pb2.HParamsPluginData(
        version=metadata.PLUGIN_DATA_VERSION,
        experiment=api_pb2.Experiment(hparam_infos=infos, metric_infos=shown),
    ).SerializeToString()
    plugin = SummaryMetadata.PluginData(plugin_name=metadata.PLUGIN_NAME, content=content)
    value = Summary.Value(tag=metadata.EXPERIMENT_TAG, metadata=SummaryMetadata(plugin_data=plugin))
    return Summary(value=[value])


def _understood(read: Callable[[Path], T], path: Path) -> T | None:
    """What a run's file says; one that is another tool's or was cut off is named and left out."""
    if not path.exists():
        return None
    try:
        return read(path)
    except (ValueError, OSError) as error:
        print(f"sfv board: left out: {' '.join(str(error).split())}", file=sys.stderr)
        return None


def _settings(path: Path) -> dict[str, Any]:
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no settings; it may be cut off")
    return flatten({str(k): v for k, v in content.items()})


def _reported(path: Path) -> list[str]:
    """Names under which a report's values were logged, e.g. `psnr/fast`."""
    return [
        f"{metric}/{row}"
        for row, content in mapping_of(read_json(path), "rows", str(path)).items()
        for metric in mapping_of(content, "metrics", f"{path}: rows[{row!r}]")
        if metric in METRICS
    ]
