"""The YAML file of a sweep: its schema, and the settings each trial adds to the config."""

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from experiments.cluster.script import Resources
from experiments.cluster.site import load_yaml

Choice = None | bool | int | float | str
SEED = "seed_everything"


class Method(Enum):
    """How settings are chosen: all combinations, at random, or from what earlier trials found."""

    grid = "grid"
    random = "random"
    tpe = "tpe"


class Direction(Enum):
    """Which objective is better."""

    minimize = "minimize"
    maximize = "maximize"


@dataclass
class Parameter:
    """What one setting may be: some values, or a range.

    Attributes:
        values: the choices.
        low: least value of a range.
        high: greatest value.
        log: draw its logarithm evenly.
        integer: whole numbers only.
    """

    values: list[Any] | None = None
    low: float | None = None
    high: float | None = None
    log: bool = False
    integer: bool = False


@dataclass
class Sweep:
    """A sweep.

    Attributes:
        config: of `sfv fit`.
        out: the sweep's folder; trials are run folders in it.
        space: setting by its dotted name, e.g. `slow_fast.lora.r`.
        method: how settings are chosen.
        trials: how many; None for a grid, which has its own number.
        seeds: a grid takes every combination with each seed.
        objective: what is logged at the end of validation.
        direction: whether less or more is better.
        prune: stop trials that are worse than the median of the earlier ones at the same step.
        parallel: trials at the same time.
        overrides: settings of all trials.
        resources: of one trial.
    """

    config: str = MISSING
    out: str = MISSING
    space: dict[str, Parameter] = field(default_factory=dict)
    method: Method = Method.grid
    trials: int | None = None
    seeds: list[int] = field(default_factory=lambda: [0])
    objective: str = "val/loss"
    direction: Direction = Direction.minimize
    prune: bool = False
    parallel: int = 8
    overrides: dict[str, Any] = field(default_factory=dict)
    resources: Resources = field(default_factory=Resources)


def load_sweep(path: Path) -> Sweep:
    """Read and check a sweep's file.

    Raises:
        ValueError: names the setting and what is allowed.
        OSError: the file cannot be read.
    """
    sweep = load_yaml(path, Sweep, ("overrides",))
    try:
        _check(sweep)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return sweep


def _check(sweep: Sweep) -> None:
    if not sweep.space:
        raise ValueError("space is empty; name at least one setting with values, or low and high")
    for name, parameter in sweep.space.items():
        _check_parameter(name, parameter, sweep.method)
    if sweep.method is Method.grid and sweep.trials is not None:
        raise ValueError("a grid has as many trials as combinations; leave `trials` out")
    if sweep.method is not Method.grid and (sweep.trials or 0) < 1:
        raise ValueError(f"method {sweep.method.value} needs trials: 1 or more")
    if not sweep.seeds or (sweep.method is not Method.grid and len(sweep.seeds) > 1):
        raise ValueError(f"seeds is {sweep.seeds}; give one, or several for a grid")
    if sweep.parallel < 1:
        raise ValueError(f"parallel is {sweep.parallel}; it has to be at least 1")
    twice = sweep.space.keys() & (sweep.overrides.keys() | {SEED, "out", "config"})
    if twice:
        raise ValueError(f"{', '.join(sorted(twice))} cannot be in space: it is set otherwise")


def _check_parameter(name: str, parameter: Parameter, method: Method) -> None:
    if parameter.values is not None:
        if parameter.low is not None or parameter.high is not None or parameter.log:
            raise ValueError(f"{name} has values and a range; give one of them")
        if not parameter.values or not all(isinstance(v, Choice) for v in parameter.values):
            raise ValueError(f"{name}: values is a list of numbers, words, true, false or null")
        return
    if method is Method.grid:
        raise ValueError(f"{name} has no values, which a grid needs")
    low, high = parameter.low, parameter.high
    if low is None or high is None or not low < high:
        raise ValueError(f"{name}: low is {low}, high is {high}; give values, or low < high")
    if not math.isfinite(high - low) or (parameter.log and low <= 0):
        raise ValueError(f"{name}: the range {low} to {high} does not go with log={parameter.log}")
    if parameter.integer and not (low.is_integer() and high.is_integer()):
        raise ValueError(f"{name}: low {low} and high {high} of an integer are whole numbers")


def combinations(sweep: Sweep) -> Iterator[dict[str, Choice]]:
    """All settings of a grid, the first setting changing slowest, seeds fastest."""
    names = [*sweep.space, SEED]
    lists = [parameter.values or [] for parameter in sweep.space.values()]
    for values in itertools.product(*lists, sweep.seeds):
        yield dict(zip(names, values, strict=True))


def num_trials(sweep: Sweep) -> int:
    """How many trials a sweep has."""
    if sweep.trials is not None:
        return sweep.trials
    return len(sweep.seeds) * math.prod(len(p.values or []) for p in sweep.space.values())


def flags(settings: Mapping[str, Any]) -> list[str]:
    """Settings as flags of `sfv fit`."""
    return [
        f"--{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in settings.items()
    ]
