"""What is the same for every job on one cluster, from one YAML file."""

import os
import re
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from sfv.yaml_file import read_yaml

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
        modules: for `module load`; one that fails ends the job.
        setup: further shell lines before training starts.
        container: command in front of Python, e.g. `apptainer exec --nv image.sif`.
        python: interpreter on the nodes; None takes the one that submits.
        environment: variables of the job. `$NAME` and `${NAME}` are what the node's shell knows under that
            name, nothing where it knows none; `$$` is a dollar sign. All else stays as written.
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

    def __post_init__(self) -> None:
        for name, value in self.environment.items():
            if not isinstance(value, str):
                raise ValueError(f"environment: {name} is {value!r}; it has to be a text")
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError(
                    f"environment: {name!r} is no name of a variable; allowed are letters, digits and _"
                )


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
    if path is None:
        return Site()
    return load_yaml(path, Site, tuple(f.name for f in fields(Site)))


def load_yaml(path: Path, schema: type[T], verbatim: tuple[str, ...] = ()) -> T:
    """Read a YAML file of a given schema, a dataclass.

    Args:
        path: the file.
        schema: with defaults and types; what is text there stays as it is written.
        verbatim: settings whose `${...}` are another file's or the shell's, and stay as they are.

    Raises:
        ValueError: names the file, the key and what is allowed.
        OSError: the file cannot be read.
    """
    content = read_yaml(path, schema)
    if not isinstance(content, dict | None):
        raise ValueError(
            f"{path}: holds {type(content).__name__}, not settings; allowed: {', '.join(_fields(schema))}"
        )
    try:
        escaped = {k: _escaped(v) if k in verbatim else v for k, v in (content or {}).items()}
        merged = OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.create(escaped))
        return cast(T, OmegaConf.to_object(merged))
    except ConfigKeyError as error:
        raise ValueError(
            f"{path}: no setting {error.full_key!r}; allowed: {', '.join(_keys(schema, error))}"
        ) from error
    except OmegaConfBaseException as error:
        where = f" {error.full_key}:" if getattr(error, "full_key", None) else ""
        raise ValueError(f"{path}:{where} {str(error).splitlines()[0]}") from error
    except RecursionError as error:
        raise ValueError(f"{path}: a ${{...}} leads back to itself") from error
    except (
        ValueError,
        TypeError,
    ) as error:  # of the dataclasses' own checks, of other kinds of data
        raise ValueError(f"{path}: {error}") from error


def _escaped(content: Any) -> Any:
    """Texts in which OmegaConf finds no `${...}`; it gives them back as they were."""
    match content:
        case str():
            return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + "\\${", content)
        case list():
            return [_escaped(item) for item in content]
        case dict():
            return {key: _escaped(value) for key, value in content.items()}
    return content


def _fields(schema: type[Any]) -> list[str]:
    return sorted(f.name for f in fields(schema))


def _keys(schema: type[Any], error: ConfigKeyError) -> list[str]:
    inner = getattr(error, "object_type", None)
    return _fields(inner if isinstance(inner, type) and is_dataclass(inner) else schema)
