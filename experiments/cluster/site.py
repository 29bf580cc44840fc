"""What is the same for every job on one cluster, from one YAML file."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

SITE_VARIABLE = "SFV_SITE"
T = TypeVar("T")


@dataclass
class Site:
    """Defaults of one cluster.

    Attributes:
        partition: `sbatch --partition`; None takes the cluster's default.
        account: `sbatch --account`.
        qos: `sbatch --qos`.
        cpus_per_task: CPU cores of each process: one trains, the others load data.
        memory: `sbatch --mem`, e.g. 400G; None takes the cluster's default.
        warn_s: seconds before the time limit at which training is asked to save; longer than a
            slow step, a validation and a checkpoint together take.
        max_restarts: of one job, after which it stays ended.
        modules: for `module load`.
        setup: further shell lines before training starts.
        container: command in front of Python, e.g. `apptainer exec --nv image.sif`.
        python: interpreter on the nodes; None takes the one that submits.
        environment: variables of the job.
        sbatch: further options of sbatch, e.g. `--exclude=node7`.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    cpus_per_task: int = 4
    memory: str | None = None
    warn_s: int = 180
    max_restarts: int = 100
    modules: list[str] = field(default_factory=list)
    setup: list[str] = field(default_factory=list)
    container: str | None = None
    python: str | None = None
    environment: dict[str, str] = field(default_factory=dict)
    sbatch: list[str] = field(default_factory=list)


def load_site(path: Path | None) -> Site:
    """Read a site's file.

    Args:
        path: None takes the file named by the variable SFV_SITE, or the defaults above.

    Raises:
        ValueError: an unknown key or a wrong type; names it and what is allowed.
        OSError: the file cannot be read.
    """
    if path is None and os.environ.get(SITE_VARIABLE):
        path = Path(os.environ[SITE_VARIABLE])
    return Site() if path is None else load_yaml(path, Site)


def load_yaml(path: Path, schema: type[T], verbatim: tuple[str, ...] = ()) -> T:
    """Read a YAML file of a given schema, a dataclass.

    Args:
        path: the file.
        schema: with defaults and types.
        verbatim: mappings whose `${...}` are another file's, and stay as they are.

    Raises:
        ValueError: names the file, the key and what is allowed.
        OSError: the file cannot be read.
    """
    try:
        content = OmegaConf.load(path)
        kept = _taken_out(content, verbatim)
        merged = OmegaConf.merge(OmegaConf.structured(schema), content)
        made = cast(T, OmegaConf.to_object(merged))
    except ConfigKeyError as error:
        raise ValueError(
            f"{path}: no setting {error.full_key!r}; allowed: {', '.join(_keys(schema, error))}"
        ) from error
    except OmegaConfBaseException as error:
        where = f" {error.full_key}:" if getattr(error, "full_key", None) else ""
        raise ValueError(f"{path}:{where} {str(error).splitlines()[0]}") from error
    except ValueError as error:  # of the dataclasses' own checks
        raise ValueError(f"{path}: {error}") from error
    except YAMLError as error:
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from error

    for name, value in kept.items():
        setattr(made, name, value)
    return made


def _taken_out(content: Any, names: tuple[str, ...]) -> dict[str, Any]:
    found = {}
    for name in names:
        if isinstance(content, DictConfig) and isinstance(content.get(name), DictConfig):
            found[name] = OmegaConf.to_container(content.pop(name), resolve=False)
    return found


def _keys(schema: type[Any], error: ConfigKeyError) -> list[str]:
    inner = getattr(error, "object_type", None)
    fields = getattr(inner if isinstance(inner, type) else schema, "__dataclass_fields__", None)
    return sorted(fields or schema.__dataclass_fields__)
