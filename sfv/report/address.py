"""Addresses: which are this computer's alone, and what a request says of where it comes from."""

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

HERE = ("localhost", "127.0.0.1", "::1")
MAX_PORT = 65_535


def is_here(host: str) -> bool:
    """Whether an address can be reached from this computer alone: all of 127.0.0.0/8, ::1, localhost."""
    if host.lower() == "localhost":
        return True
    try:
        found = ipaddress.ip_address(plain(host))
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback


def plain(host: str) -> str:
    """An address without the brackets of IPv6."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def url(host: str, port: int) -> str:
    """Where a page is."""
    name = plain(host)
    return f"http://[{name}]:{port}/" if ":" in name else f"http://{name}:{port}/"


def check_port(port: int) -> None:
    """Check a port.

    Raises:
        ValueError: it is none.
    """
    if not 0 <= port <= MAX_PORT:
        raise ValueError(f"--port is {port}; allowed: 0 (any free one) to {MAX_PORT}")


def named_in(header: str) -> str:
    """The name in a `Host` header, without port and brackets; "" where it is none."""
    if set(header) & set("@/?#\\ "):
        return ""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def is_asked_for(header: str, hosts: Collection[str]) -> bool:
    """Whether a `Host` header names this server; "*" in `hosts` lets every name pass.

    No other site can have its name resolved to this computer, then.
    """
    return "*" in hosts or named_in(header) in hosts


def is_own_page(host: str, origin: str | None, site: str | None) -> bool:
    """Whether a request comes from the server's own page, or from no page at all.

    Args:
        host: the header `Host`.
        origin: the header `Origin`, which browsers add where another site asks.
        site: the header `Sec-Fetch-Site`.
    """
    if site in ("cross-site", "same-site"):
        return False
    try:
        return origin is None or urlsplit(origin).netloc == host != ""
    except ValueError:
        return False
