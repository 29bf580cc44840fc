"""The rating page as a rater has it: a server of its own, a real browser, and wrong requests."""

import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.report.test_rating import make_systems

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Served:
    port: int
    folder: Path

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def ask(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        kinds = {"Content-Type": "application/json", **headers}
        connection.request(
            method, path, content, {k.replace("_", "-"): v for k, v in kinds.items()}
        )
        answer = connection.getresponse()
        found = answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        connection.close()
        return found


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("rate")
    folders = make_systems(folder, "ab", 2)
    command = [sys.executable, "-m", "sfv.cli", "rate", *map(str, folders)]
    out = folder / "ratings"
    with subprocess.Popen(
        [*command, f"--out={out}", "--port=0"], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("4 videos of 2 systems")
            port = int(process.stdout.readline().split("/ in")[0].rpartition(":")[2])
            yield Served(port, out)
        finally:
            process.terminate()


def rate_task(page: Page, value: float) -> None:
    """Give every criterion of every video a value, by keys."""
    for slider in page.get_by_role("slider").all():
        slider.focus()
        page.keyboard.press("Home")
        for _ in range(round(value / 0.05)):
            page.keyboard.press("ArrowRight")
    page.get_by_role("button", name="Save").click()


def test_two_pairs_are_rated_with_a_reload_between(page: Page, served: Served) -> None:
    page.goto(served.address)
    page.get_by_label("Your name").fill("anna")
    page.get_by_role("button", name="Begin").click()
    expect(page.get_by_role("heading", name="1 of 2")).to_be_visible()
    expect(page.get_by_text("turn left")).to_be_visible()
    playing = "() => [...document.querySelectorAll('video')].every(v => v.videoWidth === 48)"
    page.wait_for_function(playing)
    text = page.content()
    assert "walk-" not in text and str(served.folder.parent) not in text, "blind"
    expect(page.get_by_role("button", name="Save")).to_be_disabled()
    expect(page.get_by_text("6 values to give")).to_be_visible()
    rate_task(page, 0.25)
    expect(page.get_by_role("heading", name="2 of 2")).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", name="2 of 2")).to_be_visible()
    assert len((served.folder / "anna.csv").read_text().splitlines()) == 3
    rate_task(page, 1)
    expect(page.get_by_role("heading", name="Done")).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", name="Done")).to_be_visible()
    rows = [line.split(",") for line in (served.folder / "anna.csv").read_text().splitlines()[1:]]
    assert sorted((row[2], row[1]) for row in rows) == [
        (system, f"walk-{e}") for system in "ab" for e in (0, 1)
    ]
    assert [row[4:7] for row in rows] == [["0.25"] * 3] * 2 + [["1"] * 3] * 2


GOOD = {"rater": "ben", "task": 0, "scores": [[0.5, 0.5, 0.5]] * 2}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "holds no JSON"),
        (b"[" * 5000, "holds no JSON"),
        ([1], "no JSON object"),
        (b"x" * 30_000, "longer than 20000 bytes"),
        ({**GOOD, "rater": "../../ben"}, "small letters"),
        ({**GOOD, "task": "0"}, "task is '0'"),
        ({**GOOD, "task": True}, "task is True"),
        ({**GOOD, "task": 1}, "task 1 is not the next one of ben"),
        ({**GOOD, "scores": [[0.5, 0.5, 1.5]] * 2}, "a score is 1.5"),
        ({**GOOD, "scores": [[0.5, 0.5]] * 2}, "a list of 3 for each of 2"),
        (b'{"rater": "ben", "task": 0, "scores": [[NaN, 1, 1], [1, 1, 1]]}', "a score is nan"),
    ],
)
def test_wrong_answers_are_refused_in_one_line(served: Served, body: Any, said: str) -> None:
    status, headers, answer = served.ask("POST", "/answer", body)
    assert (status, headers["content-type"]) == (400, "application/json")
    message = json.loads(answer)["error"]
    assert said in message and "\n" not in message
    assert not (served.folder / "ben.csv").exists()


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/video/0/0?rater=ben", 200),
        ("/video/0/2?rater=ben", 400),
        ("/video/9/0?rater=ben", 400),
        ("/video/-1/0?rater=ben", 404),
        ("/video/0/..%2f..%2frating.json?rater=ben", 404),
        ("/video/0/0?rater=..%2fben", 400),
        ("/video/0/0", 400),
        ("/next", 400),
        ("/rating.json", 404),
        ("/../rating.json", 404),
        ("/answer", 405),
    ],
)
def test_no_address_reaches_another_file(served: Served, path: str, status: int) -> None:
    found, _, _ = served.ask("GET", path)
    assert found == status


def test_other_sites_and_other_names_are_refused(served: Served) -> None:
    assert served.ask("POST", "/answer", GOOD, Content_Type="text/plain")[0] == 400
    assert served.ask("GET", "/next?rater=ben", Host="evil.example")[0] == 400
    status, headers, body = served.ask("GET", "/video/0/0?rater=ben", Range="bytes=4-7")
    assert (status, body) == (206, b"ftyp"), "browsers seek by parts"
    assert headers["x-content-type-options"] == "nosniff"
    assert not (served.folder / "ben.csv").exists()


def test_a_second_server_is_kept_off_the_folder(served: Served) -> None:
    folders = [str(served.folder.parent / system) for system in "ab"]
    command = [sys.executable, "-m", "sfv.cli", "rate", *folders, f"--out={served.folder}"]
    done = subprocess.run([*command, "--port=0"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "another sfv rate serves these ratings" in done.stderr
