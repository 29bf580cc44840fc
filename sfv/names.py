"""Names that become part of a path, a URL or a command: checked, or made safe."""

import hashlib
import re
import unicodedata
from pathlib import Path
from typing import Any

_NAME = re.compile(r"[A-Za-z0-9_][\w.-]{0,199}", re.ASCII)


def is_hidden(path: Path, folder: Path) -> bool:
    """Whether a file in a folder, or a folder on its way, is hidden.

    macOS leaves a `._NAME` beside each file on disks of others; other programs keep half-written files so.
    """
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def ascii_name(text: str, longest: int = 160) -> str:
    """Make a name of letters, digits, `_` and `-`.

    Other characters become `-`. Where letters of another script would be lost, or the end of a long text,
    a hash of the whole text stands for them: two texts then keep two names, today and tomorrow.

    Args:
        text: any.
        longest: characters of the name, so that files named by it can be made (255 bytes).
    """
    text = unicodedata.normalize("NFC", text)  # a file system may give é back as two characters
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")
    if plain and text.isascii() and len(plain) <= longest:
        return plain
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:12]
    return f"{plain[: longest - 13]}-{digest}".lstrip("-")


def plain_name(name: Any, what: str, ending: str = "") -> str:
    """Check a name that was read from a file, before it becomes part of a path, a URL or a command.

    Args:
        name: as it was read.
        what: named in the error: which name it is, and where it stands.
        ending: that it has to have, `.tar` say.

    Raises:
        ValueError: it could lead out of a folder, or mean something to a shell or in a URL.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or not name.endswith(ending):
        last = f" and {ending!r} at its end" if ending else ""
        raise ValueError(
            f"{what} {str(name)[:200]!r} is not a plain file name; allowed are at most 200 letters, "
            f"digits, '_', '-' and '.', with a letter, digit or '_' first{last}"
        )
    return name


def part_of_a_name(text: Any, what: str) -> str:
    """Check a text that was read from a file, before it becomes part of a file's name in a folder of ours.

    Args:
        text: as it was read; any language, spaces too: it goes into no command and no URL.
        what: named in the error.

    Raises:
        ValueError: it leads out of the folder, or names no file.
    """
    if not isinstance(text, str) or text in ("", ".", "..") or "/" in text or "\0" in text:
        raise ValueError(
            f"{what} {str(text)[:200]!r} cannot become part of a file's name: it needs at least one "
            "character, and has no '/'"
        )
    return text
