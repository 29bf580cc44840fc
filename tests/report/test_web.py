"""Our servers under attack, over a real socket: names, other sites, links, long numbers, silence."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from starlette.applications import Starlette

from sfv.cli import main
from sfv.report import address, web
from sfv.report.rating.answers import Ratings
from sfv.report.rating.server import make_app
from sfv.report.rating.videos import find_videos
from tests.report.test_rating import make_systems

LONG = "9" * 5000


@contextmanager
def served(app: Starlette, host: str = "127.0.0.1") -> Iterator[int]:
    """The application behind our server, in a thread."""
    with web.listen(host, 0) as listening:
        server = web.server(app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def ratings_of(folder: Path) -> Ratings:
    return Ratings(folder / "ratings", find_videos(make_systems(folder, "ab", 1)), 2, 0)


@pytest.fixture(scope="module")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> Ratings:
    return ratings_of(tmp_path_factory.mktemp("rate"))


@pytest.fixture(scope="module")
def port(ratings: Ratings) -> Iterator[int]:
    with served(make_app(ratings, [*address.HERE])) as number:
        yield number


def raw(port: int, sent: bytes, host: str = "127.0.0.1") -> bytes:
    """Send bytes and read until the server ends the connection."""
    with socket.create_connection((host, port), timeout=30) as connection:
        connection.sendall(sent)
        parts = []
        while part := connection.recv(65_536):
            parts.append(part)
    return b"".join(parts)


def ask(port: int, path: str, *lines: str, body: bytes = b"", host: str = "localhost") -> bytes:
    head = [f"{'POST' if body else 'GET'} {path} HTTP/1.1", f"Host: {host}", "Connection: close"]
    head += [*lines, *([f"Content-Length: {len(body)}"] if body else [])]
    return raw(port, "\r\n".join([*head, "", ""]).encode() + body)


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("127.0.0.1", 200),
        ("localhost:9000", 200),  # a tunnel's end
        ("LOCALHOST", 200),
        ("[::1]:8010", 200),
        ("evil.example", 400),
        ("localhost.evil.example", 400),
        ("evil.example#@localhost", 400),
        ("user@localhost", 400),
        ("[::1", 400),
        ("", 400),
    ],
)
def test_only_names_of_this_computer_are_answered(port: int, host: str, found: int) -> None:
    assert status(ask(port, "/next?rater=ben", host=host)) == found
    assert status(ask(port, "/", host=host)) == found


@pytest.mark.parametrize(
    "line",
    [
        "Origin: http://evil.example",
        "Origin: null",
        "Origin: http://localhost:1",
        "Origin: http://[",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-site",
    ],
)
def test_pages_of_other_sites_are_refused(port: int, ratings: Ratings, line: str) -> None:
    answer = {"rater": "ben", "task": 0, "scores": [[0.5, 0.5, 0.5]] * 2}
    kind, body = "Content-Type: application/json", json.dumps(answer).encode()
    assert status(ask(port, "/answer", kind, line, body=body)) == 403
    assert status(ask(port, "/video/0/0?rater=ben", line)) == 403
    assert status(ask(port, "/", line)) == 200, "the page itself may be linked to"
    assert not (ratings.folder / "ben.csv").exists()
    own = "Origin: http://localhost"
    assert status(ask(port, "/next?rater=ben", own, "Sec-Fetch-Site: same-origin")) == 200


@pytest.mark.parametrize(
    ("path", "line", "body", "found"),
    [
        (f"/video/{LONG}/0?rater=ben", "", b"", {404}),
        (f"/video/0/{LONG}?rater=ben", "", b"", {404}),
        ("/video/0/٣?rater=ben", "", b"", {400, 404}),
        ("/video/0/0?rater=ben", f"Range: bytes={LONG}-", b"", {400, 416}),
        ("/video/0/0?rater=ben", f"Range: bytes=0-{LONG}", b"", {200, 206, 400, 416}),
        ("/video/0/0?rater=ben", f"Range: bytes={'1-2,' * 900}1-2", b"", {200, 206, 400, 416}),
        ("/next?rater=ben", f"Content-Length: {LONG}", b"", {200, 400}),
        ("/next", f"X: {'x' * 100_000}", b"", {400, 431}),
        ("/answer", "Content-Type: application/json", f'{{"task": {LONG}}}'.encode(), {400}),
        ("/answer", "Content-Type: application/json",
         b'{"rater": "ben", "task": 9999999999, "scores": []}', {400}),
        ("/answer", "Content-Type: application/json",
         b'{"rater": "ben", "task": 0, "scores": [[1e999, 1, 1], [1, 1, 1]]}', {400}),
        ("/answer", "Content-Type: application/json", b'{"rater": "\\ud800", "task": 0}', {400}),
        ("/answer", "Content-Type: application/json", b"\xff\xfe", {400}),
    ],
)  # fmt: skip
def test_nonsense_is_refused_and_never_an_error_of_the_server(
    port: int, path: str, line: str, body: bytes, found: set[int]
) -> None:
    assert status(ask(port, path, *([line] if line else []), body=body)) in found


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /next?rater=ben HTTP/1.1\r\nHost: localhost\r\n",
        b"POST /answer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b'Content-Length: 99\r\n\r\n{"rater"',
        b"GET /next?rater=ben HTTP/1.1\r\nHost: localhost\r\n\r\nGET /next",
    ],
    ids=["silent", "half a head", "half a body", "half a second request"],
)
def test_a_request_that_never_ends_ends_the_connection(
    port: int, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(web, "REQUEST_S", 0.1)
    answer = raw(port, sent)  # comes back at all
    assert answer == b"" or status(answer) in (200, 400)


def test_more_connections_than_allowed_are_ended(
    ratings: Ratings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "MAX_CONNECTIONS", 2)
    with served(make_app(ratings, [*address.HERE])) as number:
        held = [socket.create_connection(("127.0.0.1", number), timeout=30) for _ in range(2)]
        try:
            patience = web.REQUEST_S / 2  # a silent one that is not refused is held longer
            with socket.create_connection(("127.0.0.1", number), timeout=patience) as third:
                assert third.recv(1) == b""
        finally:
            for connection in held:
                connection.close()


@pytest.mark.parametrize("link", ["walk-0.mp4", "walk-0.txt"])
def test_links_out_of_the_folder_are_refused_before_anything_is_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], link: str
) -> None:
    folders = make_systems(tmp_path, "ab", 1)
    (folders[0] / link).unlink(missing_ok=True)
    (folders[0] / link).symlink_to("/etc/passwd")
    assert main(["rate", *map(str, folders), f"--out={tmp_path / 'out'}", "--port=0"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "leads out of" in said and "/etc/passwd" in said
    assert not (tmp_path / "out").exists()


def test_a_video_that_became_a_link_is_not_served(tmp_path: Path) -> None:
    ratings = ratings_of(tmp_path)
    with served(make_app(ratings, [*address.HERE])) as number:
        assert status(ask(number, "/video/0/0?rater=ben")) == 200
        for video in ratings.videos.values():
            video.path.unlink()
            video.path.symlink_to("/etc/passwd")
        answer = ask(number, "/video/0/0?rater=ben")
        assert status(answer) == 400 and b"replaced by a link" in answer and b"root:" not in answer


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("[::1]", True),
        ("::ffff:127.0.0.1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
        ("10.0.0.1", False), ("example.org", False), ("", False),
    ],
)  # fmt: skip
def test_which_addresses_are_this_computers_alone(host: str, here: bool) -> None:
    assert address.is_here(host) == here


@pytest.mark.parametrize(
    ("host", "shown", "hosts"),
    [
        ("::1", "http://[::1]:", [*address.HERE, "::1"]),
        ("127.0.0.2", "http://127.0.0.2:", [*address.HERE, "127.0.0.2"]),
        ("0.0.0.0", "http://0.0.0.0:", ["*"]),
    ],
)
def test_an_address_decides_who_may_ask(
    ratings: Ratings,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    shown: str,
    hosts: list[str],
) -> None:
    asked: list[list[str]] = []

    def made(names: list[str], number: int) -> Starlette:
        asked.append(names)
        return make_app(ratings, names)

    monkeypatch.setattr(web.uvicorn.Server, "run", lambda *_, **__: None)
    web.serve(made, host, 0)
    said = capsys.readouterr().out
    assert asked == [hosts] and shown in said and ("warning" in said) == (hosts == ["*"])


def test_ipv6_is_served(ratings: Ratings) -> None:
    with served(make_app(ratings, [*address.HERE]), "::1") as number:
        answer = raw(number, b"GET / HTTP/1.1\r\nHost: [::1]\r\nConnection: close\r\n\r\n", "::1")
        assert status(answer) == 200


@pytest.mark.parametrize("port", [-1, 65_536, int("9" * 30)])
@pytest.mark.parametrize("verb", ["rate", "board"])
def test_a_port_that_is_none_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str, port: int
) -> None:
    assert main([verb, str(tmp_path), f"--port={port}"]) == 2
    assert f"--port is {port}; allowed: 0" in capsys.readouterr().err
