"""`sfv board`: TensorBoard on a folder of runs, with charts that put related curves together."""

import subprocess
import sys
from pathlib import Path

LAYOUT = {
    "slow learning": {"loss": ["slow/loss", "val/loss"], "seconds": ["time/.*"]},
    "fast learning": {
        "loss": ["fast/loss"],
        "gain": ["fast/gain"],
        "drift and undone chunks": ["fast/drift", "fast/undone"],
    },
    "reports": {
        "next chunk": [r"report/(psnr|ssim|lpips)/.*"],
        "long videos": [r"report/(fvd|scuts|src|motion)/.*"],
    },
}
"""Category, chart, and the scalars in it as regular expressions; the names are the fixed list."""

EVENTS = "events.out.tfevents.*"


def board(folder: str, port: int = 6006, serve: bool = True) -> None:
    """Open TensorBoard on all runs below a folder.

    Args:
        folder: a run, a sweep, or a folder of these.
        port: of the page on this computer.
        serve: false writes the charts' layout only.

    Raises:
        FileNotFoundError: no run below the folder has logged anything.
    """
    root = Path(folder)
    if not any(path.parent.name != "layout" for path in root.rglob(EVENTS)):
        raise FileNotFoundError(
            f"{root}: no TensorBoard log (*.tfevents.*) below it; give runs/, say"
        )
    write_layout(root / "layout")
    if serve:
        command = [sys.executable, "-m", "tensorboard.main", f"--logdir={root}", f"--port={port}"]
        subprocess.run(command, check=False)


def write_layout(folder: Path) -> None:
    """Write the layout of the tab Custom Scalars as an event file, once."""
    from torch.utils.tensorboard import SummaryWriter

    if any(folder.glob(EVENTS)):
        return
    with SummaryWriter(str(folder)) as writer:
        writer.add_custom_scalars(
            {
                category: {title: ["Multiline", tags] for title, tags in charts.items()}
                for category, charts in LAYOUT.items()
            }
        )
