"""What a config asks of one GPU, read without its data and weights: they need not be there."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from jsonargparse import Namespace
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.cli import LightningArgumentParser
from torch import Tensor, nn

from sfv.backbones.base import Backbone
from sfv.data.episodes import episodes
from sfv.training.fit import FitCLI, parse
from sfv.training.slow import SlowLearner
from sfv.training.slow_fast import SlowFastSettings

Device = Literal["cuda", "cpu"]
"""Whose kernels and precision rules are followed; the traced tensors themselves lie nowhere."""

_PUBLIC_VAE = 4 * 83_653_863
_PUBLIC_CLIP = 4 * 340_387_840
_PUBLIC_FACTOR = 8
"""Bytes in float32 of the frozen parts of ModelScopeT2V, and pixels of a latent position."""


class ConfigOnly(FitCLI):
    """Parses and checks a config of `sfv fit`, and builds nothing."""

    def instantiate_classes(self) -> None:
        """Leave everything unbuilt."""


class StandInCodec(nn.Module):
    """Takes the codec's place in a learner that trains from latents."""

    keeps_weights = False

    def __init__(self, latent_channels: int) -> None:
        super().__init__()
        self.latent_channels, self.spatial_factor = latent_channels, 8

    def encode(self, video: Float[Tensor, "b t 3 height width"]) -> Float[Tensor, "b c t h w"]:
        """Never called."""
        raise NotImplementedError

    def decode(self, latents: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b t 3 height width"]:
        """Never called."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """See `sfv.types.FrameCodec`."""
        return ""

    def settings(self) -> dict[str, int]:
        """See `WorldModel`."""
        return {}


class StandInText(nn.Module):
    """Takes the text encoder's place: token states of the right size."""

    keeps_weights = False

    def __init__(self, text_dim: int, num_tokens: int) -> None:
        super().__init__()
        self.text_dim, self.num_tokens = text_dim, num_tokens

    def forward(self, actions: Sequence[str]) -> Float[Tensor, "b n d"]:
        """See `sfv.types.TextEncoder`."""
        return torch.zeros(len(actions), self.num_tokens, self.text_dim)

    def fingerprint(self) -> str:
        """See `sfv.types.TextEncoder`."""
        return ""

    def settings(self) -> dict[str, int]:
        """See `WorldModel`."""
        return {}


@dataclass(frozen=True)
class Plan:
    """A config, and what the estimate needs of it.

    Args:
        config: parsed, nothing built.
        num_frames: of the longest window.
        num_context: f_p of that window.
        latents: c, h, w.
        latents_from: how h and w were found.
        num_tokens: n, of an action.
        text_dim: d.
        frozen: bytes of codec and text encoder on the device.
        device: whose kernels are followed.
    """

    config: Namespace
    num_frames: int
    num_context: int
    latents: tuple[int, int, int]
    latents_from: str
    num_tokens: int
    text_dim: int
    frozen: int
    device: Device

    @property
    def slow_fast(self) -> SlowFastSettings | None:
        """The loop's settings; None trains slowly only."""
        given = self.config.slow_fast
        if given is None or isinstance(given, SlowFastSettings):
            return given
        return _built(SlowFastSettings, given)  # type: ignore[no-any-return]

    @property
    def batch_size(self) -> int:
        """Windows of a micro-batch on each GPU; the loop trains one chunk pair a slow step."""
        loop = self.slow_fast
        return int(self.config.data.batch_size) if loop is None else loop.slow_batch_size

    @property
    def accumulate(self) -> int:
        """Micro-batches of a slow step."""
        return int(self.config.trainer.accumulate_grad_batches)

    @property
    def strategy(self) -> Literal["ddp", "fsdp"]:
        """How the config keeps the weights."""
        given = self.config.trainer.strategy
        name = (given if isinstance(given, str) else given.class_path).lower()
        return "fsdp" if re.search("fsdp|shard|modelparallel", name) else "ddp"

    @property
    def max_steps(self) -> int:
        """Slow steps of the run."""
        return int(self.config.trainer.max_steps)

    def learner(self) -> SlowLearner:
        """The learner on the meta device, with stand-ins for what is frozen."""
        model = self.config.model.clone()
        model.codec = _class(StandInCodec, latent_channels=self.latents[0])
        model.text = _class(StandInText, text_dim=self.text_dim, num_tokens=self.num_tokens)
        model.denoiser = _without_weights(model.denoiser)
        model.init_from = None
        if "compile_backend" in model:
            model.compile_backend = None
        with torch.device("meta"):
            learner = _built(SlowLearner, model)
        if self.device == "cuda":
            learner.denoiser.use_stock_layers()
            _norms_in_float32(learner)
            _use_foreach(learner)
        first = torch.zeros(1, dtype=torch.long)
        learner.schedule.coefficients(
            first
        )  # cached: not to be computed first where nothing is real
        return learner  # type: ignore[no-any-return]

    def callbacks(self) -> list[pl.Callback]:
        """Those of the config that keep weights: averages."""
        given = self.config.trainer.callbacks or []
        parser = LightningArgumentParser()
        parser.add_argument("--callbacks", type=list[pl.Callback])
        built = parser.instantiate_classes(parser.parse_object({"callbacks": given})).callbacks
        return [
            c for c in built if isinstance(c, WeightAveraging) or type(c).__module__[:4] == "sfv."
        ]

    def batch(self) -> dict[str, Any]:
        """One micro-batch."""
        channels, height, width = self.latents
        return {
            "latents": torch.zeros(self.batch_size, channels, self.num_frames, height, width),
            "actions": ["walk"] * self.batch_size,
            "keys": ["window"] * self.batch_size,
            "num_context": self.num_context,
        }


def read_plan(
    arguments: Sequence[str],
    device: Device = "cuda",
    latent_size: tuple[int, int] | None = None,
    num_tokens: int | None = None,
) -> Plan:
    """Read a config.

    Args:
        arguments: of `sfv fit`.
        device: whose kernels are followed.
        latent_size: h, w; None reads them from the shards, or else takes the preset's.
        num_tokens: of an action; None: what the text encoder makes.

    Raises:
        ValueError: the config does not parse, or its denoiser's sizes are not known.
    """
    config = parse(arguments, ConfigOnly, "sfv estimate").config
    model, data = config.model, config.data
    with torch.device("meta"):
        denoiser: Any = _built(nn.Module, _without_weights(model.denoiser))
    loop = config.slow_fast is not None
    windows = [(model.num_context, model.num_generated)]
    context, generated = max(windows if loop else data.buckets or windows, key=sum)
    if latent_size is None:
        (height, width), source = _size_of_shards(data, denoiser)
    else:
        (height, width), source = latent_size, "as given"
    return Plan(
        config,
        context + generated,
        context,
        (denoiser.latent_channels, height, width),
        source,
        num_tokens or _tokens_of(model.text),
        denoiser.text_dim,
        _frozen_bytes(model.codec, _PUBLIC_VAE) + _frozen_bytes(model.text, _PUBLIC_CLIP),
        device,
    )


def _built(kind: type, given: Any) -> Any:
    """Make an object of `kind` from what a config says of it."""
    parser = LightningArgumentParser()
    parser.add_argument("--it", type=kind)
    if kind in (SlowLearner, SlowFastSettings):
        given = _class(kind, **given.as_dict())
    return parser.instantiate_classes(parser.parse_object({"it": given})).it


def _class(kind: type, **settings: Any) -> dict[str, Any]:
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": settings}


def _without_weights(denoiser: Namespace) -> dict[str, Any]:
    """A denoiser's settings, but drawn and not read from files."""
    given: dict[str, Any] = denoiser.as_dict()
    given["init_args"] = {**given.get("init_args", {})}
    if "weights" in given["init_args"]:
        given["init_args"]["weights"] = None
    return given


def _size_of_shards(data: Namespace, denoiser: Backbone) -> tuple[tuple[int, int], str]:
    """Height and width of the latents, and where they were found."""
    train, factor = data.train, _PUBLIC_FACTOR if data.read == "video" else 1
    first = train[0] if isinstance(train, list) else train
    folder = first if isinstance(first, str) else first.index
    if Path(folder.rpartition("/")[0] if folder.endswith(".tar") else folder).is_dir():
        for _, latents in episodes(folder, limit=1):
            height, width = latents.shape[-2:]
            return (height // factor, width // factor), f"of {folder}"
    if denoiser.latent_size is None:
        raise ValueError(
            f"{folder} holds no shards whose size could be read; give --latents HEIGHT WIDTH"
        )
    return denoiser.latent_size, f"the preset's, for there is no {folder}"


def _tokens_of(text: Namespace) -> int:
    """Tokens that a text encoder makes of an action."""
    name, given = text.class_path.rpartition(".")[2], text.init_args
    if name == "ActionTable":
        return 1
    if name == "TextTable" and Path(given.file).is_file():
        from sfv.models.text_table import TextTable

        return int(TextTable(given.file).num_tokens)
    return int(given.get("max_tokens") or 77)


def _frozen_bytes(part: Namespace, public: int) -> int:
    """Bytes of a pretrained part: of its files, or of the public model's where there are none."""
    name, given = part.class_path.rpartition(".")[2], part.init_args
    folders = {"KLVAECodec": "vae", "CLIPText": "text_encoder"}
    if name not in folders:
        return 0
    files = list((Path(given.folder) / folders[name]).glob("*.safetensors"))
    return sum(file.stat().st_size for file in files) or public


def _norms_in_float32(module: nn.Module) -> None:
    """Follow CUDA's rule for autocast, which differs from a CPU's."""

    def cast(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        return (args[0].float(),) if torch.is_autocast_enabled("cpu") else None

    for child in module.modules():
        if isinstance(child, nn.GroupNorm | nn.LayerNorm):
            child.register_forward_pre_hook(cast)


def _use_foreach(learner: SlowLearner) -> None:
    """Let the optimiser update all weights together, as it does by itself on a GPU."""
    make = learner.make_optimizer

    def on_cuda(parameters: Any) -> Any:
        optimizer = make(parameters)
        for group in optimizer.param_groups:
            if group.get("foreach", False) is None and not group.get("fused"):
                group["foreach"] = True
        return optimizer

    learner.make_optimizer = on_cuda
