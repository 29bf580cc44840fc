"""A world model: denoiser Φ, frame codec, text encoder and what they agree on, as one folder of files.

FOLDER/model.json           classes, settings, window, schedule, fingerprints; written last
FOLDER/unet/                Φ in diffusers' own format, without any fast weights
FOLDER/codec.safetensors    only for codecs that are fitted here (large public ones are referred to)
FOLDER/text.safetensors     only for text encoders that are learned here
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from torch import nn

from sfv.diffusion.schedule import NoiseSchedule
from sfv.files import claim_folder, write_json
from sfv.models.autoencoder import KLVAECodec, PCAPatchCodec
from sfv.models.denoiser import VideoUNet
from sfv.models.temporal_lora import base_state_dict
from sfv.models.text import ActionTable, CLIPText, MiniLMText
from sfv.models.weight_files import hash_tensors, read_tensors, write_tensors
from sfv.types import Denoiser, FrameCodec, TextEncoder

FORMAT = "sfv.model/1"
PARTS: dict[str, type[nn.Module]] = {
    cls.__name__: cls for cls in (PCAPatchCodec, KLVAECodec, ActionTable, MiniLMText, CLIPText)
}
"""Classes that a `model.json` may name: a file that somebody hands us never chooses other code."""


class WorldModel:
    """Bundles the parts of a world model and checks that they fit.

    Args:
        denoiser: Φ, a `Denoiser`.
        codec: a `FrameCodec`.
        text: a `TextEncoder`.
        schedule: the noise schedule Φ is trained with.
        num_context: f_p, in frames.
        num_generated: f_g, in frames.

    Raises:
        TypeError: a part does not follow its protocol.
        ValueError: widths differ between the parts, or a count of frames is below 1.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        codec: nn.Module,
        text: nn.Module,
        schedule: NoiseSchedule,
        num_context: int,
        num_generated: int,
    ) -> None:
        _check_protocol("denoiser", denoiser, Denoiser)
        _check_protocol("codec", codec, FrameCodec)
        _check_protocol("text", text, TextEncoder)
        # Modules that follow our protocols; mypy has no type for "both".
        self.denoiser: Any = denoiser
        self.codec: Any = codec
        self.text: Any = text
        self.schedule, self.num_context, self.num_generated = schedule, num_context, num_generated
        if self.denoiser.latent_channels != self.codec.latent_channels:
            raise ValueError(
                f"the denoiser takes {self.denoiser.latent_channels} latent channels, but the codec "
                f"makes {self.codec.latent_channels}; set the denoiser's latent_channels to that"
            )
        if self.denoiser.text_dim != self.text.text_dim:
            raise ValueError(
                f"the denoiser takes text of width {self.denoiser.text_dim}, but the text encoder "
                f"makes {self.text.text_dim}; set the denoiser's text_dim to that"
            )
        if num_context < 1 or num_generated < 1:
            raise ValueError(
                f"num_context is {num_context}, num_generated is {num_generated}; both must be >= 1"
            )

    def fingerprint(self) -> str:
        """Hash of Φ; memories (Θ) remember the base model they belong to by it."""
        return hash_tensors(base_state_dict(self.denoiser))

    def save(self, folder: str | Path) -> None:
        """Write the folder; a folder that has a `model.json` is whole.

        Args:
            folder: new, empty, or an older world model that is replaced.
        """
        folder = Path(folder)
        claim_folder(folder, "model.json", "a world model")
        (folder / "model.json").unlink(missing_ok=True)
        self.denoiser.save(folder / "unet")
        for name in ("codec", "text"):
            part = getattr(self, name)
            if part.keeps_weights:
                write_tensors(folder / f"{name}.safetensors", part.state_dict(), {})
        write_json(folder / "model.json", self._description())

    def load_weights(self, folder: str | Path) -> None:
        """Take over Φ and learned text from a saved model of the same shape.

        Raises:
            ValueError: the folder's codec, text encoder or sizes differ from this model's.
        """
        folder = Path(folder)
        saved, ours = read_description(folder), self._description()
        for name in ("codec", "text"):
            _check_same(folder, name, saved[name], ours[name])
        other = VideoUNet.from_diffusers(folder)
        try:
            self.denoiser.load_state_dict(other.state_dict())
        except RuntimeError as error:
            raise ValueError(
                f"the denoiser of {folder} has another shape than the one given; use the preset it was "
                f"trained with ({error})"
            ) from error
        if self.text.keeps_weights:
            self.text.load_state_dict(read_tensors(folder / "text.safetensors")[0])

    @classmethod
    def load(cls, folder: str | Path) -> "WorldModel":
        """Read a saved model, frozen and in evaluation mode.

        Raises:
            FileNotFoundError: `folder` holds no world model.
            ValueError: a file is damaged, or a codec or text encoder it refers to has changed.
        """
        folder = Path(folder)
        saved = read_description(folder)
        model = cls(
            VideoUNet.from_diffusers(folder),
            _read_part(folder, "codec", saved["codec"]),
            _read_part(folder, "text", saved["text"]),
            NoiseSchedule(**saved["schedule"]),
            saved["num_context"],
            saved["num_generated"],
        )
        for name in ("denoiser", "codec", "text"):
            getattr(model, name).requires_grad_(False).eval()
        for name in ("codec", "text"):
            _check_same(folder, name, saved[name], model._description()[name])
        return model

    def _description(self) -> dict[str, Any]:
        parts = {
            name: {
                "class": type(part).__name__,
                "settings": part.settings(),
                "fingerprint": part.fingerprint(),
            }
            for name, part in (("codec", self.codec), ("text", self.text))
        }
        return {
            "format": FORMAT,
            **parts,
            "schedule": asdict(self.schedule),
            "num_context": self.num_context,
            "num_generated": self.num_generated,
        }


def read_description(folder: Path) -> dict[str, Any]:
    """Read and check `model.json`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is of another format.
    """
    path = folder / "model.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no world model (no model.json); give the `model` folder of a finished run"
        )
    description = cast(dict[str, Any], json.loads(path.read_text()))
    if description.get("format") != FORMAT:
        raise ValueError(
            f"{path} has format {description.get('format')!r}; this version reads {FORMAT!r}"
        )
    return description


def _check_protocol(name: str, part: nn.Module, protocol: type) -> None:
    if not isinstance(part, protocol):
        raise TypeError(
            f"{name} is a {type(part).__name__}, which is no sfv.types.{protocol.__name__}; "
            "see that protocol for the attributes and methods it must have"
        )


def _check_same(folder: Path, name: str, saved: dict[str, Any], ours: dict[str, Any]) -> None:
    if (saved["class"], saved["fingerprint"]) != (ours["class"], ours["fingerprint"]):
        raise ValueError(
            f"{folder} was trained with {name} {saved['class']} {saved['fingerprint']}, but "
            f"{ours['class']} {ours['fingerprint']} was given or found; use the {name} that the model "
            "was trained with"
        )


def _read_part(folder: Path, name: str, spec: dict[str, Any]) -> nn.Module:
    if spec["class"] not in PARTS:
        raise ValueError(
            f"{folder / 'model.json'} names the class {spec['class']!r} as its {name}; "
            f"allowed: {', '.join(PARTS)}"
        )
    part = PARTS[spec["class"]](**spec["settings"])
    if part.keeps_weights:
        part.load_state_dict(read_tensors(folder / f"{name}.safetensors")[0])
    return part
