"""Modules that have moved: configs and scripts that name the old place still work, with a warning.

An entry stays for one minor release after the one that moved the module.
"""

import re
import sys
import warnings
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED: dict[str, str] = {
    "sfv.fast.chunk_sampler": "sfv.generation.chunk_sampler",
    "sfv.fast.rollout": "sfv.generation.rollout",
    "sfv.models.denoiser": "sfv.backbones.video_unet",
    "sfv.models.lora_math": "sfv.fast.lora_math",
    "sfv.models.presets": "sfv.backbones.video_unet",
    "sfv.models.pretrained": "sfv.storage.pretrained",
    "sfv.models.recompute": "sfv.backbones.recompute",
    "sfv.models.temporal_lora": "sfv.fast.temporal_lora",
    "sfv.models.weight_files": "sfv.storage.weight_files",
    "sfv.planning.inverse_dynamics": "sfv.models.inverse_dynamics",
    "sfv.training.evaluate": "sfv.evaluation.evaluate",
    "sfv.training.rollout": "sfv.generation.verb",
    "sfv.training.run_folder": "sfv.run_folder",
}
"""Old module → new module."""

_OLD = re.compile(r"\b(?:" + "|".join(map(re.escape, MOVED)) + r")(?=\.\w)")


def current_names(text: str) -> str:
    """A text, a config say, in which class paths name the modules of this version."""
    return _OLD.sub(lambda match: MOVED[match[0]], text)


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: object, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        return ModuleSpec(fullname, _Loader()) if fullname in MOVED else None


class _Loader(Loader):
    def exec_module(self, module: ModuleType) -> None:
        old, new = module.__name__, MOVED[module.__name__]
        warnings.warn(f"{old} is now {new}; change the name", FutureWarning, stacklevel=2)
        content = vars(import_module(new)).items()
        vars(module).update({name: value for name, value in content if not name.startswith("__")})


def install() -> None:
    """Let old names be imported."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
