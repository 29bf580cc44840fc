"""Stands for the codec that made some latents, so that training from them loads no codec."""

import json
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from sfv.files import write_json
from sfv.models.autoencoder import KLVAECodec

FORMAT = "sfv.codec/1"


class LatentsCodec(nn.Module):
    """What is known of a pretrained codec without its weights.

    A model that was trained with it is saved, and found again, with the codec itself, which then encodes
    and decodes.

    Args:
        file: `codec.json`, which `python -m data_tools.encode_latents --codec klvae` writes beside the
            latents.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is none, or damaged.
    """

    keeps_weights = False

    def __init__(self, file: str | Path) -> None:
        super().__init__()
        path = Path(file)
        if not path.is_file():
            raise FileNotFoundError(
                f"{file} does not exist; make it with data_tools.encode_latents --codec klvae"
            )
        try:
            known = json.loads(path.read_bytes())
            if known["format"] != FORMAT:
                raise ValueError(f"format {known['format']!r} instead of {FORMAT!r}")
            self.stands_for = str(known["class"])
            self.latent_channels = int(known["latent_channels"])
            self.spatial_factor = int(known["spatial_factor"])
            self._fingerprint, self._settings = str(known["fingerprint"]), dict(known["settings"])
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{file} does not describe a codec, or is damaged ({type(error).__name__}: {error}); "
                "make it again with data_tools.encode_latents"
            ) from error
        self._file = path

    def encode(self, video: Float[Tensor, "b t 3 height width"]) -> Float[Tensor, "b c t h w"]:
        """Refuse: the weights are elsewhere."""
        raise ValueError(self._refusal("encode"))

    def decode(self, latents: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b t 3 height width"]:
        """Refuse: the weights are elsewhere."""
        raise ValueError(self._refusal("decode"))

    def fingerprint(self) -> str:
        """Of the codec that made the latents."""
        return self._fingerprint

    def settings(self) -> dict[str, Any]:
        """Constructor arguments of the codec that made the latents."""
        return dict(self._settings)

    def _refusal(self, what: str) -> str:
        return (
            f"{self._file} only describes a {self.stands_for}, it cannot {what}: set model.codec to "
            f"{self.stands_for} with {self._settings}"
        )


def write_codec_file(path: Path, codec: KLVAECodec) -> None:
    """Describe a pretrained codec, for `LatentsCodec`."""
    known = {
        "format": FORMAT,
        "class": type(codec).__name__,
        "settings": codec.settings(),
        "fingerprint": codec.fingerprint(),
        "latent_channels": codec.latent_channels,
        "spatial_factor": codec.spatial_factor,
    }
    write_json(path, known)
