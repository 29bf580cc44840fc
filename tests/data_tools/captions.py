"""A captioner and a language for the tests: small, real functions."""

import numpy as np

from sfv.data.schema import EpisodeMeta


def brightness(frames: np.ndarray, meta: EpisodeMeta) -> list[str]:
    return [f"brightness {frames[a.start : a.stop].mean():.1f}" for a in meta.actions]


def too_few(frames: np.ndarray, meta: EpisodeMeta) -> list[str]:
    return ["one"]


def politely(action: str, rng: np.random.Generator) -> str:
    return str(rng.choice(["please ", "kindly ", "do "])) + action
