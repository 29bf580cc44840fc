"""Text that others wrote: read in one way, matched by name, printed so that no terminal obeys it."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from sfv.files import regular_file

Value = TypeVar("Value")

_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def read_text(path: Path) -> str:
    r"""Read UTF-8, with or without a byte order mark; `\r\n` and `\r` become `\n`.

    Raises:
        OSError: the file is not a regular file, or cannot be read.
        ValueError: it is not UTF-8; names the file and the byte.
    """
    regular_file(path)
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        hint = " (it looks like UTF-16)" if data.startswith(_UTF16) else ""
        raise ValueError(
            f"{path} is not UTF-8 text: byte {error.start} is 0x{data[error.start]:02x}{hint}; save it "
            "as UTF-8"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: Path) -> list[str]:
    r"""The lines of `read_text`; unlike `str.splitlines`, none ends at U+2028, `\v`, `\f` or U+0085.

    Raises:
        OSError: as `read_text`.
        ValueError: as `read_text`.
    """
    return read_text(path).removesuffix("\n").split("\n")


def same_form(name: str) -> str:
    """The form in which names are compared: macOS writes é as e and an accent (NFD), others as é (NFC)."""
    return unicodedata.normalize("NFC", name)


def find_name(name: str, known: Iterable[str]) -> str | None:
    """The one of `known` that `name` means: the same characters first, then the same letters.

    Returns:
        None where there is none, or where two have the same letters.
    """
    names = list(known)
    if name in names:
        return name
    alike = [other for other in names if same_form(other) == same_form(name)]
    return alike[0] if len(alike) == 1 else None


def look_up(names: Sequence[str], known: Mapping[str, Value]) -> tuple[list[Value], list[str]]:
    """What stands under names, each as `find_name` finds it.

    Returns:
        values of the names that were found, in order; and, sorted, the names that were not.
    """
    keys = {name: name if name in known else find_name(name, known) for name in names}
    found = [known[key] for name in names if (key := keys[name]) is not None]
    return found, sorted(name for name, key in keys.items() if key is None)


def find_file(root: Path, name: str) -> Path:
    """The path `root / name`, of whose parts each may have another Unicode form on the disk."""
    path = root
    for part in Path(name).parts:
        there = path / part
        if not there.exists() and path.is_dir():
            found = find_name(part, (entry.name for entry in path.iterdir()))
            there = path / (found or part)
        path = there
    return path


def printable(text: object, keep: str = "") -> str:
    """Show characters that a terminal would obey, and those that are not seen, as escapes.

    Args:
        text: a name from a file, say.
        keep: characters to leave as they are: the line ends of a whole page.
    """
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode()
        for c in str(text)
    )
