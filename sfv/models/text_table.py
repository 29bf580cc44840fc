"""Token states that were computed before training, so that no text model runs in it."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from sfv.storage.weight_files import write_tensors
from sfv.texts import look_up
from sfv.types import TextEncoder

FORMAT = "sfv.text/1"
Dtype = Literal["float32", "float16"]


class TextTable(nn.Module):
    """Looks token states up in a file made by `python -m data_tools.encode_text`.

    It stands for the encoder that made the file: a model that was trained with the table is saved, and
    found again, as one with that encoder, which then reads any text.

    Args:
        file: the table; rows are read as they are asked for.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no table, or damaged.
    """

    keeps_weights = False
    device_marker: Tensor

    def __init__(self, file: str | Path) -> None:
        super().__init__()
        self._file = Path(file)
        if not self._file.is_file():
            raise FileNotFoundError(f"{file} does not exist; make it with data_tools.encode_text")
        try:
            opened: Any = safe_open(self._file, framework="pt")
            self._rows, header = opened.get_slice("states"), opened.metadata() or {}
            if header.get("format") != FORMAT:
                raise ValueError(f"format {header.get('format')!r} instead of {FORMAT!r}")
            self._encoder = json.loads(header["encoder"])
            self._index = {text: i for i, text in enumerate(json.loads(header["texts"]))}
        except (SafetensorError, KeyError, ValueError) as error:
            raise ValueError(
                f"{file} is no table of texts, or damaged ({error}); make it again with "
                "data_tools.encode_text"
            ) from error
        self.stands_for: str = self._encoder["class"]
        _, self.num_tokens, self.text_dim = self._rows.get_shape()
        self.register_buffer("device_marker", torch.empty(0), persistent=False)

    def forward(self, actions: Sequence[str]) -> Float[Tensor, "b n d"]:
        """See `sfv.types.TextEncoder`.

        Raises:
            ValueError: a text is not in the table.
        """
        rows, unknown = look_up(actions, self._index)
        if unknown:
            raise ValueError(
                f"the table {self._file} lacks {unknown[:3]} ({len(unknown)} texts); run "
                "data_tools.encode_text on all shards in use, or train with the encoder itself "
                f"({self.stands_for})"
            )
        states = torch.cat([self._rows[row : row + 1] for row in rows])
        return states.float().to(self.device_marker.device)

    def fingerprint(self) -> str:
        """Of the encoder that made the table."""
        return str(self._encoder["fingerprint"])

    def settings(self) -> dict[str, Any]:
        """Constructor arguments of the encoder that made the table."""
        return dict(self._encoder["settings"])


def write_text_table(
    path: Path, encoder: TextEncoder, texts: Iterable[str], dtype: Dtype = "float32"
) -> int:
    """Encode texts, and "no text", into a table.

    Args:
        path: of the safetensors file.
        encoder: a frozen one; a learned table of actions changes in training.
        texts: repeats count once.
        dtype: float32 gives the encoder's very states; float16 takes half the disk.

    Returns:
        how many texts the table holds.

    Raises:
        ValueError: the encoder is learned along with Φ.
    """
    if getattr(encoder, "keeps_weights", False):
        raise ValueError(
            f"{type(encoder).__name__} is trained along with the model, so its states cannot be "
            "computed before; use MiniLMText or CLIPText"
        )
    known = sorted({"", *texts})
    states = torch.cat([encoder([text]).to(getattr(torch, dtype)) for text in known])
    description = {
        "class": type(encoder).__name__,
        "fingerprint": encoder.fingerprint(),
        "settings": encoder.settings(),  # type: ignore[attr-defined]
    }
    header = {
        "format": FORMAT,
        "texts": json.dumps(known),
        "encoder": json.dumps(description, sort_keys=True),
    }
    write_tensors(path, {"states": states}, header)
    return len(known)
