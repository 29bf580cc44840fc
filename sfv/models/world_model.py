"""A world model: denoiser Φ, frame codec, text encoder and what they agree on, as one folder of files.

FOLDER/model.json           classes, settings, window, schedule, fingerprints; put in place last
FOLDER/unet/                Φ in the backbone's own format, without any fast weights; other backbones
                            have other names, see `Backbone.folder`
FOLDER/codec.safetensors    only for codecs that are fitted here (large public ones are referred to)
FOLDER/text.safetensors     only for text encoders that are learned here
FOLDER/start.safetensors    only with a learned start of memories (Θ_0)
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfv.backbones.base import CONFIG_FILE, Backbone, base_state_dict, load_exactly
from sfv.backbones.registry import find_backbone, name_of
from sfv.diffusion.schedule import NoiseSchedule
from sfv.files import claim_folder, read_json, replacing_parts, write_json
from sfv.models.address import Address
from sfv.models.autoencoder import KLVAECodec, PCAPatchCodec
from sfv.models.device import find_device
from sfv.models.model_folder import CHECKSUM, checksum_of, find_model, hash_of
from sfv.models.model_folder import MODEL_FILE as MODEL_FILE
from sfv.models.part_checks import (
    check_backbone,
    check_memory_input,
    check_part,
    check_schedule,
)
from sfv.models.text import ActionTable, CLIPText, MiniLMText
from sfv.storage.weight_files import (
    disk_errors,
    hash_tensors,
    read_tensors,
    write_tensors,
)
from sfv.types import FrameCodec, TextEncoder

FORMAT = "sfv.model/1"
START_FILE = "start.safetensors"
_FILES = {"codec": "codec.safetensors", "text": "text.safetensors"}
_DAMAGED = "damaged or was not written by sfv"
PARTS: dict[str, type[nn.Module]] = {
    cls.__name__: cls for cls in (PCAPatchCodec, KLVAECodec, ActionTable, MiniLMText, CLIPText)
}
"""Classes that a `model.json` may name: a file that somebody hands us never chooses other code."""


class WorldModel:
    """Bundles the parts of a world model and checks that they fit.

    Args:
        denoiser: Φ, a `Backbone`.
        codec: a `FrameCodec`.
        text: a `TextEncoder`.
        schedule: the noise schedule Φ is trained with.
        num_context: f_p, in frames.
        num_generated: f_g, in frames.

    Raises:
        ValueError: a part does not follow its protocol or cannot be saved, widths differ between the
            parts, pretrained weights belong to another schedule, the codec is
            not fitted, or a count of frames is below 1.
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
        check_backbone(denoiser)
        check_part("codec", codec, FrameCodec, ("settings", "keeps_weights"))
        check_part("text", text, TextEncoder, ("settings", "keeps_weights"))
        # Modules that follow our protocols; mypy has no type for "both".
        self.denoiser: Any = denoiser
        self.codec: Any = codec
        self.text: Any = text
        self.schedule, self.num_context, self.num_generated = schedule, num_context, num_generated
        self.start: dict[str, Tensor] | None = None
        """Θ_0 that the slow-fast loop learned, with its scale; None: memories start fresh."""
        self.address: Address | None = None
        """Of addressed memories; None: there are none."""
        self.frame_size: tuple[int, int] | None = None
        """Height and width, in pixels, of the frames of training; None: not known, any size is taken."""
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
        check_schedule(self.denoiser, schedule)
        check_memory_input(self.denoiser, schedule)
        _identity(self.codec)  # refuses a codec that is not fitted
        if num_context < 1 or num_generated < 1:
            raise ValueError(
                f"num_context is {num_context}, num_generated is {num_generated}; both must be >= 1"
            )

    @property
    def device(self) -> torch.device:
        """Where Φ computes. Latents and video stay on the CPU between its parts."""
        found: torch.device = next(self.denoiser.parameters()).device
        return found

    def to(self, device: torch.device) -> "WorldModel":
        """Move all parts; returns itself."""
        for part in (self.denoiser, self.codec, self.text):
            part.to(device)
        return self

    def encode(self, video: Float[Tensor, "b t 3 height width"]) -> Float[Tensor, "b c t h w"]:
        """Video to latents by the codec on its device; the latents are on the CPU."""
        latents: Tensor = self.codec.encode(video.to(self.device))
        return latents.cpu()

    def decode(self, latents: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b t 3 height width"]:
        """Latents to video by the codec on its device; the video is on the CPU."""
        video: Tensor = self.codec.decode(latents.to(self.device))
        return video.cpu()

    def check_frame_size(self, given: tuple[int, int], what: str, remedy: str) -> None:
        """Refuse frames of another size than those of training.

        Args:
            given: height and width, pixels.
            what: names the frames.
            remedy: what to do about it.

        Raises:
            ValueError: another size.
        """
        if self.frame_size is not None and given != self.frame_size:
            raise ValueError(
                f"{what} has frames of {given[0]}x{given[1]} pixels (height x width), but this model was "
                f"trained on {self.frame_size[0]}x{self.frame_size[1]}; {remedy}"
            )

    def fingerprint(self) -> str:
        """Hash of Φ; memories (Θ) remember the base model they belong to by it."""
        return str(_identity(self.denoiser)["fingerprint"])

    def save(self, folder: str | Path) -> None:
        """Write the folder, whole or not at all.

        Args:
            folder: new, empty, or an older world model that is replaced.

        Raises:
            FileExistsError: the folder holds something else.
            ValueError: the denoiser holds fast weights, or a weight is not finite.
            OSError: the disk is full; what was there before stays.
        """
        folder = Path(folder)
        claim_folder(folder, MODEL_FILE, "a world model")
        with replacing_parts(folder, MODEL_FILE) as temporary:
            with disk_errors():
                self.denoiser.save(temporary / self.denoiser.folder)
            for name in ("codec", "text"):
                part = getattr(self, name)
                if part.keeps_weights:
                    write_tensors(temporary / f"{name}.safetensors", part.state_dict(), {})
            if self.start is not None:
                write_tensors(temporary / START_FILE, self.start, {})
            description = self._description()
            config = temporary / self.denoiser.folder / CONFIG_FILE
            description["denoiser_config"] = hash_of(config.read_bytes())
            description[CHECKSUM] = checksum_of(description)
            write_json(temporary / MODEL_FILE, description)

    def load_weights(self, folder: str | Path) -> None:
        """Take over Φ and learned text from a saved model of the same shape.

        Args:
            folder: see `find_model`.

        Raises:
            FileNotFoundError: `folder` holds no world model.
            ValueError: the folder's codec, text encoder, kind of prediction or sizes differ from this
                model's.
        """
        folder = find_model(folder)
        saved, ours = read_description(folder), self._description()
        theirs, mine = saved["schedule"].prediction_type, self.schedule.prediction_type
        if theirs != mine:
            raise ValueError(
                f"{folder} was trained to predict {theirs}, but this model's schedule has "
                f"prediction_type {mine}; set the schedule's prediction_type to {theirs}"
            )
        for name in ("codec", "text"):
            _check_same(folder, name, saved[name], ours[name])
        other = _read_denoiser(folder, saved)
        _check_same(folder, "denoiser", saved["denoiser"], _identity(other))
        load_exactly(self.denoiser, other.state_dict(), folder / other.folder)
        if self.text.keeps_weights:
            _load_part(self.text, folder / "text.safetensors")
        self.start = _read_start(folder, saved)
        self.address = self.address or saved["address"]
        self.frame_size = saved["frame_size"]

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu") -> "WorldModel":
        """Read a saved model, frozen and in evaluation mode.

        Args:
            folder: see `find_model`.
            device: where it is to compute, see `find_device`.

        Raises:
            FileNotFoundError: `folder` holds no world model.
            ValueError: a file is damaged, or a codec or text encoder it refers to has changed.
        """
        place = find_device(device)
        folder = find_model(folder)
        saved = read_description(folder)
        model = cls(
            _read_denoiser(folder, saved),
            _read_part(folder, "codec", saved["codec"]),
            _read_part(folder, "text", saved["text"]),
            saved["schedule"],
            saved["num_context"],
            saved["num_generated"],
        )
        for name in ("denoiser", "codec", "text"):
            getattr(model, name).requires_grad_(False).eval()
            _check_same(folder, name, saved[name], _identity(getattr(model, name)))
        model.start = _read_start(folder, saved)
        model.address = saved["address"]
        model.frame_size = saved["frame_size"]
        return model.to(place)

    def _description(self) -> dict[str, Any]:
        parts = {
            name: _identity(part) for name, part in (("codec", self.codec), ("text", self.text))
        }
        for name, part in parts.items():
            part["settings"] = getattr(self, name).settings()
        return {
            "format": FORMAT,
            "denoiser": _identity(self.denoiser),
            **parts,
            "schedule": asdict(self.schedule),
            "num_context": self.num_context,
            "num_generated": self.num_generated,
            **({} if self.frame_size is None else {"frame_size": list(self.frame_size)}),
            **({} if self.address is None else {"address": _plain(self.address)}),
            **({} if self.start is None else {"start": hash_tensors(self.start)}),
        }


def read_description(folder: Path) -> dict[str, Any]:
    """Read and check `model.json`; its schedule becomes a `NoiseSchedule`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is of another format, or damaged.
    """
    path = folder / MODEL_FILE
    try:
        description = read_json(path)
        form, written = description["format"], checksum_of(description)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is {_DAMAGED} ({type(error).__name__}: {error})") from error
    if form != FORMAT:
        raise ValueError(f"{path} has format {form!r}; this version reads {FORMAT!r}")
    try:
        for name in ("denoiser", "codec", "text"):
            description[name]["class"], description[name]["fingerprint"]
        description["schedule"] = NoiseSchedule(**description["schedule"])
        description["num_context"], description["num_generated"]
        description["frame_size"] = _frame_size(description.get("frame_size"))
        description["address"] = _address(description.get("address"))
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is {_DAMAGED} ({type(error).__name__}: {error})") from error
    if written != description.pop(CHECKSUM, written):
        raise ValueError(
            f"{path} is damaged: its checksum is not that of its content. Copy or write the folder again; "
            f"if you have edited the file, remove {CHECKSUM!r} from it"
        )
    return cast(dict[str, Any], description)


def _frame_size(noted: Any) -> tuple[int, int] | None:
    """Height and width; folders of before it was noted have none."""
    if noted is None:
        return None
    height, width = noted
    if not (type(height) is type(width) is int and min(height, width) > 0):
        raise ValueError(f"frame_size is {noted}; allowed: [height, width], in pixels")
    return height, width


def _plain(address: Address) -> dict[str, Any]:
    """As JSON holds it."""
    motions = {action: list(moved) for action, moved in address.motions.items()}
    return {**asdict(replace(address, motions={})), "motions": motions}


def _address(noted: Any) -> Address | None:
    """Models without addressed memories have none."""
    if noted is None:
        return None
    motions = {action: tuple(moved) for action, moved in noted["motions"].items()}
    scales = tuple(tuple(scale) for scale in noted["scales"])
    return Address(**noted | {"motions": motions, "scales": scales})


def _read_denoiser(folder: Path, saved: dict[str, Any]) -> Backbone:
    kind = find_backbone(saved["denoiser"]["class"], folder / MODEL_FILE)
    config, known = (
        folder / kind.folder / CONFIG_FILE,
        saved.get("denoiser_config"),
    )  # None: an old model
    if known is not None and config.is_file() and hash_of(config.read_bytes()) != known:
        raise ValueError(
            f"{config} is damaged: it is not the one of {MODEL_FILE}. Copy or write the folder again"
        )
    return kind.load(folder / kind.folder)


def _identity(part: Any) -> dict[str, Any]:
    """What tells a part from another: its class, and a hash of what decides its output."""
    if isinstance(part, Backbone):
        fingerprint = hash_tensors(base_state_dict(part))
        return {"class": name_of(type(part)), "fingerprint": fingerprint}
    name = getattr(part, "stands_for", type(part).__name__)
    return {"class": name, "fingerprint": part.fingerprint()}


def _files_of(name: str, part: dict[str, Any]) -> str:
    """Where a part of a model lies in its folder."""
    is_denoiser = name == "denoiser"
    return f"{find_backbone(part['class'], MODEL_FILE).folder}/" if is_denoiser else _FILES[name]


def _check_same(folder: Path, name: str, saved: dict[str, Any], ours: dict[str, Any]) -> None:
    if (saved["class"], saved["fingerprint"]) != (ours["class"], ours["fingerprint"]):
        raise ValueError(
            f"{folder} was trained with {name} {saved['class']} {saved['fingerprint']}, but "
            f"{ours['class']} {ours['fingerprint']} was given or found; use the {name} that the model "
            f"was trained with, or copy {_files_of(name, ours)} of {folder} again if that is damaged"
        )


def _read_part(folder: Path, name: str, spec: dict[str, Any]) -> nn.Module:
    if spec["class"] not in PARTS:
        raise ValueError(
            f"{folder / MODEL_FILE} names the class {spec['class']!r} as its {name}; "
            f"allowed: {', '.join(PARTS)}"
        )
    try:
        part = PARTS[spec["class"]](**spec["settings"])
    except (TypeError, KeyError) as error:
        raise ValueError(
            f"{folder / MODEL_FILE} is {_DAMAGED}: the settings of its {name} make no "
            f"{spec['class']} ({error})"
        ) from error
    if part.keeps_weights:
        _load_part(part, folder / f"{name}.safetensors")
    return part


def _read_start(folder: Path, saved: dict[str, Any]) -> dict[str, Tensor] | None:
    if "start" not in saved:
        return None
    start = read_tensors(folder / START_FILE)[0]
    if hash_tensors(start) != saved["start"]:
        raise ValueError(f"{folder / START_FILE} is {_DAMAGED}: it is not the one of {MODEL_FILE}")
    return start


def _load_part(part: nn.Module, path: Path) -> None:
    load_exactly(part, read_tensors(path)[0], path)
