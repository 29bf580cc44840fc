"""Put a trained reference checkpoint into the package: weights, an example to go on from, and its card.

    python -m experiments.pack_reference --model runs/reference/loop/model

`python -m experiments.reference` trains it. The folder sfv/reference is replaced; what is larger than
25 MB is refused.
"""

import sys
from pathlib import Path
from typing import Any

import torch

from data_tools.encode_latents import held_out_psnr
from data_tools.files import find_episodes
from experiments.command import run_command
from experiments.reference import OUT
from sfv.data.index import find_shards
from sfv.data.stages import decode_mp4
from sfv.files import read_json, replacing_parts, write_bytes
from sfv.generation.episodes import num_outbound
from sfv.models.inverse_dynamics import InverseDynamics
from sfv.models.model_folder import ACTIONS, INVERSE, REFERENCE, SHIPPED, SHOWN
from sfv.models.world_model import WorldModel
from sfv.report.table import format_table
from sfv.report.video import encode_mp4
from sfv.yaml_file import read_yaml

MOST_BYTES = 25_000_000
PLATFORM = ("torch", "diffusers", "pytorch-lightning", "vizdoom")
CARD_NAME = "README.md"
CARD = Path(__file__).with_name("reference_card.md")


def pack(
    model: Path = OUT / "loop" / "model",
    out: Path = SHIPPED[REFERENCE],
    report: Path | None = None,
) -> None:
    """Write the folder.

    Args:
        model: of a finished run of experiments.reference.
        out: folder to replace.
        report: report.json of a benchmark; its table goes into the card.
    """
    world, inverse = rounded(WorldModel.load(model)), InverseDynamics.load(OUT / INVERSE)
    with replacing_parts(out, CARD_NAME) as part:
        world.save(part / "model")
        inverse.save(part / INVERSE)
        meta, video = next(find_episodes([OUT / "episodes" / "val"]))
        num_out = num_outbound(meta)
        assert num_out is not None  # validation walks come back
        frames = decode_mp4(video.read_bytes())[: meta.actions[num_out].stop]
        write_bytes(part / SHOWN, encode_mp4(frames, meta.fps))
        actions = [action.text for action in meta.actions[1:]]
        write_bytes(part / ACTIONS, ("\n".join(actions) + "\n").encode())
        size = sum(path.stat().st_size for path in part.rglob("*") if path.is_file())
        if size > MOST_BYTES:
            raise ValueError(
                f"{model} takes {size / 1e6:.1f} MB; allowed: {MOST_BYTES / 1e6:.0f} MB"
            )
        card = CARD.read_text().format(pixels=frames.shape[1], **facts(world, model, size))
        if report is not None:
            content = read_json(report)
            card += f"\n## Measured\n\n```\n{format_table(content)}\n```\n"
        write_bytes(part / CARD_NAME, card.encode())
    print(f"{out}: {size / 1e6:.1f} MB, Φ {world.fingerprint()}")


@torch.no_grad()
def rounded(world: WorldModel) -> WorldModel:
    """The model with weights that half precision holds exactly, which takes half the room."""
    for tensor in (*world.denoiser.parameters(), *world.denoiser.buffers()):
        if tensor.is_floating_point():
            tensor.copy_(tensor.half())
    return world


def facts(world: WorldModel, model: Path, size: int) -> dict[str, Any]:
    """What the card says, read from the run."""
    run = model.parent
    parts = trainings(run)
    config = parts[-1][1]
    packages = read_json(run / "environment.json")["packages"]
    train = find_shards(OUT / "shards" / "train")
    settings = world.text.settings()
    return {
        "size": size / 1e6,
        "parameters": sum(p.numel() for p in world.denoiser.parameters()) / 1e6,
        "num_context": world.num_context,
        "num_generated": world.num_generated,
        "actions": ", ".join(f"`{action}`" for action in settings["actions"] if action),
        "model": model,
        "walks": train.num_samples,
        "steps": ", then ".join(str(config["trainer"]["max_steps"]) for _, config in parts),
        "batch": config["slow_fast"]["slow_batch_size"],
        "seed": config["seed_everything"],
        "inverse": inverse_accuracy(OUT / INVERSE / "report.json"),
        "psnr": held_out_psnr(OUT / "shards", world.codec)["val"],
        "fingerprint": world.fingerprint(),
        "codec": world.codec.fingerprint(),
        "packages": ", ".join(f"{name} {packages[name]}" for name in PLATFORM if name in packages),
    }


def inverse_accuracy(report: Path) -> str:
    """How well the inverse dynamics model reads true frames of levels that it was not trained on."""
    metrics = read_json(report)["rows"]["true_video"]["metrics"]
    pairs, chunks = (metrics[name]["value"] for name in ("pair_accuracy", "action_accuracy"))
    walks = metrics["pair_accuracy"]["passport"]["count"]
    return (
        f"{pairs:.2f} of frame pairs, {chunks:.2f} of chunks ({walks} walks of validation levels)"
    )


def trainings(run: Path) -> list[tuple[str, dict[str, Any]]]:
    """Name and settings of a run and of those whose weights it went on from, first to last."""
    config = read_yaml(run / "config.yaml")
    earlier = config["model"]["init_from"]
    before = trainings(Path(earlier).parent) if earlier else []
    return [*before, (run.name, config)]


def main() -> int:
    """Run the command; 2 where the run is not finished."""
    return run_command("experiments.pack_reference", pack)


if __name__ == "__main__":
    sys.exit(main())
