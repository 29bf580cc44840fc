"""Which backbone a model's folder means: ours by a short name, others by their class path.

A new backbone of this project is one file in this folder and one line in `BACKBONES`.
"""

import os
import sys
from importlib import import_module

from sfv.backbones.base import Backbone

BACKBONES: dict[str, str] = {
    "VideoUNet": "sfv.backbones.video_unet",
    "WanTransformer": "sfv.backbones.wan",
}
"""Short name (the class's) → module."""

TRUST = "SFV_TRUST"
"""Environment variable: class paths, separated by commas, that a model's folder may name."""


def name_of(backbone: type[Backbone]) -> str:
    """What `model.json` calls a class: its short name, or its class path."""
    known = BACKBONES.get(backbone.__name__) == backbone.__module__
    return backbone.__name__ if known else f"{backbone.__module__}.{backbone.__qualname__}"


def find_backbone(name: str, source: object) -> type[Backbone]:
    """The class that a model's folder names.

    A file that somebody hands us must not choose what code is imported. So a class outside of this
    project is taken only if it is imported already, or if the user lists it in the environment variable
    `SFV_TRUST`.

    Args:
        name: short name or class path.
        source: the file, for the error.

    Raises:
        ValueError: the class is not trusted, does not exist, or is no `Backbone`.
    """
    if name in BACKBONES:
        found = getattr(import_module(BACKBONES[name]), name)
        assert isinstance(found, type) and issubclass(found, Backbone)
        return found
    module, _, qualname = name.rpartition(".")
    if name in os.environ.get(TRUST, "").split(","):
        try:
            import_module(module)
        except (ImportError, ValueError) as error:
            raise ValueError(f"{source} names the backbone {name!r}: {error}") from error
    loaded = sys.modules.get(module)
    if loaded is None:
        raise ValueError(
            f"{source} names the backbone {name!r}, which is not part of sfv; allowed: "
            f"{', '.join(BACKBONES)}, and classes that you trust: set {TRUST}={name}"
        )
    found = getattr(loaded, qualname, None)
    if not (isinstance(found, type) and issubclass(found, Backbone)):
        raise ValueError(
            f"{source} names {name!r}, which is no subclass of {Backbone.__module__}.Backbone"
        )
    return found
