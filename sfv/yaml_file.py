"""YAML that users hand us: read within limits, with the file and the line in every error.

YAML 1.1 takes `4:00:00` for 14400, `0123` for 83, `off` for false and `12.10` for 12.1. Numbers to base 60
and with a leading zero, and dates, are texts here; where a type says that text is wanted, every scalar
stays as it is written.
"""

import dataclasses
import re
import types
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml

from sfv.files import regular_file

MAX_BYTES = 1_000_000
MAX_DEPTH = 64
MAX_NODES = 200_000
"""Scalars, lists and mappings, each as often as its aliases repeat it."""

_BASE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_CORE = "tag:yaml.org,2002:"
_PLAIN = frozenset(_CORE + name for name in ("int", "float", "bool", "value", "merge"))
"""What a scalar without quotes may be taken for, besides null."""

_INT = re.compile(r"[-+]?(?:0b[01][01_]*|0x[0-9a-fA-F][0-9a-fA-F_]*|0|[1-9][0-9_]*)$")
_FLOAT = re.compile(
    r"(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?(?:[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)"
    r"|[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)


def _kept_resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    replaced = [_CORE + name for name in ("int", "float", "timestamp")]
    return {
        first: [(tag, form) for tag, form in forms if tag not in replaced]
        for first, forms in _BASE.yaml_implicit_resolvers.items()
    }


class YamlError(ValueError):
    """A file is no YAML, or more than the limits allow; the message names the file and the line."""


class _Loader(_BASE):  # type: ignore[misc]
    """PyYAML's safe loader without the numbers and dates that nobody means."""

    yaml_implicit_resolvers = _kept_resolvers()


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """PyYAML's, which knows what else the loader takes for a number."""


for kind in (_Loader, _Dumper):
    kind.add_implicit_resolver(_CORE + "float", _FLOAT, list("-+0123456789."))
    kind.add_implicit_resolver(_CORE + "int", _INT, list("-+0123456789"))


def read_yaml(path: Path, kind: Any = Any) -> Any:
    """Read a YAML file.

    Args:
        path: a regular file of at most `MAX_BYTES`.
        kind: type of the content, a dataclass say; where it says `str`, a scalar stays as written.

    Raises:
        YamlError: it is no YAML, or more than the limits allow.
        OSError: it is no regular file, or cannot be read.
    """
    check_size(path)
    return parse_yaml(path.read_bytes(), str(path), kind)


def check_size(path: Path) -> None:
    """Check that a YAML file may be read.

    Raises:
        YamlError: it is too large.
        OSError: it is no regular file.
    """
    size = regular_file(path).stat().st_size
    if size > MAX_BYTES:
        raise YamlError(f"{path} has {size} bytes; a YAML file may have {MAX_BYTES}")


def parse_yaml(content: str | bytes, name: str, kind: Any = Any) -> Any:
    """Read YAML from memory.

    Args:
        content: the text; bytes may be UTF-8 or UTF-16 with a byte order mark.
        name: of the file, for errors.
        kind: as in `read_yaml`.

    Raises:
        YamlError: it is no YAML, or more than the limits allow.
    """
    try:
        _check(content)
        loader = _Loader(content)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _as_written(node, kind)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = "" if mark is None else f", line {mark.line + 1}"
        said = ", ".join(part for part in (error.context, error.problem) if part)
        raise YamlError(f"{name}{where}: {said}") from error
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError) as error:
        # of what tags such as !!int make of their text, and of bytes that are no text
        said = " ".join(str(error).split())
        raise YamlError(f"{name}: not YAML that can be read ({said})") from error


def guard_flags(args: Sequence[str]) -> None:
    """Let jsonargparse read its config files with `parse_yaml`, and check those that `args` name.

    Raises:
        YamlError: a config is too large.
        OSError: a config is no regular file; jsonargparse would wait for a pipe.
    """
    from jsonargparse import set_dumper, set_loader, set_parsing_settings

    # Else null is taken for "not given", whatever the type; but then null could not be printed.
    prints = any(arg.startswith("--print_config") for arg in args)
    set_parsing_settings(unset_sentinel=not prints)
    set_loader("yaml", _jsonargparse_loader(False), (YamlError,))
    set_loader("omegaconf+", _jsonargparse_loader(True), (YamlError,))
    set_dumper("yaml", _dump)
    for path in config_files(args):
        if path.exists():
            check_size(path)
    for value in (arg.rpartition("=")[2] for arg in args):  # parts of configs have files as well
        if _is_pipe(value):
            regular_file(Path(value))


def _is_pipe(value: str) -> bool:
    try:
        return Path(value).is_fifo()
    except OSError:  # longer than a name may be
        return False


def config_files(args: Sequence[str]) -> list[Path]:
    """What flags name as configs."""
    found = []
    for arg, after in pairwise([*args, ""]):
        name, equals, value = arg.partition("=")
        if name in ("--config", "-c"):
            found.append(Path(value if equals else after))
    return found


def _dump(content: Any) -> str:
    """Write YAML in which a text that `parse_yaml` would take for a number has quotes."""
    text: str = yaml.dump(
        content, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False
    )
    return text


@cache
def _jsonargparse_loader(interpolates: bool) -> Callable[..., Any]:
    from jsonargparse import get_loader
    from jsonargparse._optionals import omegaconf_absolute_to_relative_paths

    # It keeps `word:` and `{word}` of a command line as texts.
    plain = get_loader("yaml")

    def load(value: str, path: Any = None) -> Any:
        content = parse_yaml(value, str(Path(path).absolute()) if path else "a flag's value")
        if isinstance(content, dict) and all(v is None for v in content.values()):
            content = plain(value)
        if interpolates and isinstance(content, dict):
            return omegaconf_absolute_to_relative_paths(content)
        return content

    return load


@dataclasses.dataclass
class _Open:
    """A list or mapping that has not ended; `keys` are None for a list."""

    anchor: str | None
    keys: set[str] | None
    num: int = 1
    is_key: bool = True


def _check(content: str | bytes) -> None:
    """Go through the parser's events, which takes no recursion and repeats no alias.

    Raises:
        yaml.MarkedYAMLError: too deep, too many nodes, an alias of what holds it, or a key twice.
    """
    size_of: dict[str, int] = {}
    open_: list[_Open] = [_Open(None, None)]
    for event in yaml.parse(content, Loader=_Loader):
        num = 1
        match event:
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                keys: set[str] | None = set() if isinstance(event, yaml.MappingStartEvent) else None
                open_.append(_Open(event.anchor, keys))
                if len(open_) > MAX_DEPTH:
                    raise _fault(event, f"nested more than {MAX_DEPTH} deep")
                continue
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                ended = open_.pop()
                num = ended.num
                if ended.anchor:
                    size_of[ended.anchor] = num
            case yaml.ScalarEvent():
                _check_key(event, open_[-1])
                if event.anchor:
                    size_of[event.anchor] = 1
            case yaml.AliasEvent():
                if any(parent.anchor == event.anchor for parent in open_):
                    raise _fault(event, f"alias *{event.anchor} holds itself")
                num = size_of.get(event.anchor, 1)
            case _:
                continue
        parent = open_[-1]
        parent.num += num
        parent.is_key = not parent.is_key
        if parent.num > MAX_NODES:
            raise _fault(event, f"more than {MAX_NODES} values, with what aliases repeat")


def _check_key(event: yaml.ScalarEvent, parent: _Open) -> None:
    if parent.keys is None or not parent.is_key or event.value == "<<":
        return
    if event.value in parent.keys:
        raise _fault(event, f"key {event.value!r} stands there twice")
    parent.keys.add(event.value)


def _fault(event: yaml.Event, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)


def _as_written(node: yaml.Node, kind: Any) -> None:
    """Make texts of plain scalars that stand where `kind` wants text."""
    wanted = [arg for arg in _options(kind) if arg is not type(None)]
    kind = wanted[0] if len(wanted) == 1 else Any
    origin, args = get_origin(kind) or kind, get_args(kind)
    if isinstance(node, yaml.ScalarNode):
        if kind is str and not node.style and node.tag in _PLAIN:
            node.tag = f"{_CORE}str"
    elif isinstance(node, yaml.SequenceNode) and origin in (list, tuple, Sequence):
        for item in node.value:
            _as_written(item, args[0] if args else Any)
    elif isinstance(node, yaml.MappingNode):
        hints = get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}
        of_dict = args if origin in (dict, Mapping) and args else (Any, Any)
        for key, value in node.value:
            if key.tag == f"{_CORE}merge":
                _as_written(value, kind)
                continue
            _as_written(key, str if hints else of_dict[0])
            _as_written(value, hints.get(getattr(key, "value", ""), of_dict[1]))


def _options(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
