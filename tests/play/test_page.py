"""The playground as people have it: a server of its own and a real browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from sfv.fast.memory_file import load_memory
from tests.browser import PATIENCE_MS, Seen
from tests.play.serve import Served, num_frames, serving, serving_model, write_example

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory, world) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("play"), world) as served:
        yield served


@pytest.fixture(scope="module")
def example_server(tmp_path_factory, world) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("play-example")
    write_example(folder)
    with serving_model(folder, world) as served:
        yield served


def begin(page: Page, server: Served, start: str = "hall") -> None:
    page.goto(server.address)
    page.get_by_role("button", name=start).click()
    expect(page.locator(".node")).to_have_count(1)


def press(page: Page, key: str, num_nodes: int) -> None:
    """Drive by a key and wait until its chunk is there."""
    page.keyboard.press(key)
    expect(page.locator("button.node")).to_have_count(num_nodes)
    expect(page.locator("#stop")).to_be_disabled()


def here(page: Page) -> str:
    return page.locator('[aria-current="true"]').get_attribute("aria-label") or ""


def last_frame(page: Page, row: str, number: int) -> str:
    """The picture on a screen once it holds still at the end of a chunk."""
    screen = page.locator(f'[data-row="{row}"]')
    expect(screen).to_have_attribute("data-shows", str(number))
    picture: str = screen.locator("canvas").evaluate("c => c.toDataURL()")
    return picture


def test_out_and_back_a_fork_and_both_files(
    page: Page, server: Served, world, tmp_path: Path
) -> None:
    begin(page, server)
    before = last_frame(page, "memory", 0)
    press(page, "ArrowUp", 2)
    near = last_frame(page, "memory", 1)
    press(page, "ArrowLeft", 3)
    assert here(page) == "chunk 2, turn left"
    far = last_frame(page, "memory", 2)
    assert len({before, near, far, last_frame(page, "none", 2)}) == 4, "memory changes chunk 2"
    expect(page.locator("#loss circle")).to_have_count(2)
    expect(page.locator("#drift circle")).to_have_count(2)

    page.keyboard.press("Backspace")
    assert last_frame(page, "memory", 1) == near and here(page) == "chunk 1, walk forward"
    press(page, "s", 4)
    assert here(page) == "chunk 2, walk backward" and last_frame(page, "memory", 3) != far
    page.get_by_role("button", name="chunk 2, turn left").click()
    assert last_frame(page, "memory", 2) == far, "the first future is as it was"
    page.get_by_role("button", name="Hold to compare").click()
    page.get_by_role("button", name="chunk 2, walk backward").click()
    assert last_frame(page, "memory", 3) != far == last_frame(page, "held", 2)

    with page.expect_download() as video:
        page.get_by_role("link", name="Save video").click()
    assert video.value.suggested_filename == "hall-chunk-0002.mp4"
    count, _, width = num_frames(video.value.path().read_bytes(), tmp_path / "v.mp4")
    assert count == 3 + 2 * 2 and width > 2 * 24
    with page.expect_download() as memory:
        page.get_by_role("link", name="Save memory").click()
    assert memory.value.suggested_filename == "hall.chunk-0002.memory.safetensors"
    memory.value.save_as(tmp_path / "m.memory.safetensors")
    assert (
        load_memory(tmp_path / "m.memory.safetensors", world.fingerprint()).header.num_chunks == 2
    )

    page.get_by_role("button", name="Remove this one").click()
    expect(page.locator("button.node")).to_have_count(3)
    assert here(page) == "chunk 1, walk forward"
    page.get_by_role("button", name="Leave").click()
    expect(page.get_by_role("heading", name="Where do you want to begin?")).to_be_visible()


def test_two_visitors_drive_at_once_and_one_goes_in_the_middle(
    browser: Browser, server: Served
) -> None:
    seen = Seen()
    with browser.new_context() as one, browser.new_context() as two:
        anna, ben = one.new_page(), two.new_page()
        for page in (anna, ben):
            page.set_default_timeout(PATIENCE_MS)
            seen.watch(page)
        begin(anna, server, "hall")
        begin(ben, server, "yard")
        anna.keyboard.press("ArrowUp")
        ben.keyboard.press("ArrowRight")
        expect(anna.locator(".ghost, button.node >> nth=1")).to_be_visible()
        anna.goto("about:blank")
        expect(ben.locator("button.node")).to_have_count(2)
        assert here(ben) == "chunk 1, turn right"
        anna.goto(server.address)
        expect(anna.locator("button.node")).to_have_count(2)
        expect(anna.locator("#stop")).to_be_disabled()
        assert here(anna) == "chunk 1, walk forward"
        assert last_frame(anna, "memory", 1) != last_frame(ben, "memory", 1)
        for cookie in one.cookies():
            assert cookie["httpOnly"] and cookie["sameSite"] == "Strict"
        for page in (anna, ben):
            page.get_by_role("button", name="Leave").click()
    assert (seen.errors, seen.requests) == ([], [])


def test_a_key_waits_for_the_chunk_and_escape_ends_it(page: Page, server: Served) -> None:
    begin(page, server)
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowDown")
    expect(page.locator("button.node")).to_have_count(3)
    expect(page.locator("#stop")).to_be_disabled()
    assert here(page) == "chunk 2, walk backward"
    page.keyboard.press("ArrowUp")
    expect(page.locator("#stop")).to_be_enabled()
    page.keyboard.press("Escape")
    expect(page.locator("#stop")).to_be_disabled()
    expect(page.locator(".ghost")).to_have_count(0)
    page.get_by_role("button", name="Leave").click()


def test_a_key_waits_for_the_answer_too(page: Page, server: Served) -> None:
    """The first chunk is asked for, and the server slow to say so: the second key is not lost."""
    begin(page, server)
    asked: list[Route] = []

    def hold_the_first(route: Route) -> None:
        asked.append(route)
        if len(asked) > 1:
            route.continue_()

    page.route("**/go", hold_the_first)
    with page.expect_request("**/go"):
        page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowDown")
    expect(page.locator("#status")).to_contain_text("Then: walk backward.")
    assert len(asked) == 1
    asked[0].continue_()
    expect(page.locator("button.node")).to_have_count(3)
    assert here(page) == "chunk 2, walk backward"
    expect(page.locator("#alert")).to_be_hidden()
    page.get_by_role("button", name="Leave").click()


def test_a_way_out_is_walked_and_the_way_back_goes_on_by_itself(
    page: Page, example_server: Served
) -> None:
    begin(page, example_server, "shown a way out of 2 chunks can be shown")
    expect(page.locator("#hint")).to_contain_text("A way out of 2 chunks can be shown")
    expect(page.get_by_role("button", name="Go back")).to_be_disabled()
    page.get_by_role("button", name="Walk this for me").click()
    expect(page.locator("button.node.shown")).to_have_count(2)
    expect(page.locator("#hint")).to_have_text("Leads back from here: turn right, walk backward.")
    assert here(page) == "chunk 2, turn left, shown"
    assert last_frame(page, "none", 2) == last_frame(page, "memory", 2), "both are the true frames"
    expect(page.locator("[data-action].next")).to_have_attribute("data-action", "turn right")
    page.get_by_role("button", name="Go back").click()
    expect(page.locator("button.node")).to_have_count(5)
    expect(page.locator("#stop")).to_be_disabled()
    assert here(page) == "chunk 4, walk backward"
    expect(page.locator("#hint")).to_contain_text("The way back ends here")
    assert last_frame(page, "none", 4) != last_frame(page, "memory", 4)

    page.get_by_role("button", name="chunk 1, walk forward, shown").click()
    press(page, "d", 6)
    expect(page.locator("#hint")).to_contain_text("choose the last chunk that was shown")
    page.get_by_role("button", name="Walk this for me").click()
    expect(page.locator('[aria-current="true"]')).to_have_attribute(
        "aria-label", "chunk 2, turn left, shown"
    )
    expect(page.locator("button.node")).to_have_count(6)
    page.get_by_role("button", name="Leave").click()


def test_a_visitor_stops_the_way_back_and_drives_on(page: Page, example_server: Served) -> None:
    begin(page, example_server, "shown")
    page.get_by_role("button", name="Walk this for me").click()
    expect(page.locator("button.node.shown")).to_have_count(2)
    asked: list[Route] = []
    page.route("**/go", lambda route: asked.append(route))
    with page.expect_request("**/go"):
        page.get_by_role("button", name="Go back").click()
    page.get_by_role("button", name="Pause").click()
    asked[0].continue_()
    page.unroute("**/go")
    expect(page.locator("button.node")).to_have_count(4)
    expect(page.locator("#stop")).to_be_disabled()
    assert here(page) == "chunk 3, turn right"
    press(page, "ArrowLeft", 5)
    assert here(page) == "chunk 4, turn left"
    page.get_by_role("button", name="Leave").click()


def test_the_memory_can_be_switched_off(page: Page, server: Served) -> None:
    begin(page, server)
    expect(page.locator("#kind option")).to_have_text(["temporal LoRA", "off"])
    press(page, "ArrowUp", 2)
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.get_by_label("Second panel").select_option("off")
    expect(page.get_by_label("Second panel")).to_have_value("fast")
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_label("Second panel").select_option("off")
    expect(page.locator("button.node")).to_have_count(1)
    expect(page.locator('[data-row="memory"]')).to_be_hidden()
    press(page, "ArrowUp", 2)
    page.get_by_role("button", name="Hold to compare").click()
    assert last_frame(page, "held", 1) == last_frame(page, "none", 1)
    expect(page.get_by_role("link", name="Save memory")).to_be_hidden()
    page.get_by_role("button", name="Leave").click()


def test_the_page_fits_a_phone(browser: Browser, server: Served) -> None:
    with browser.new_context(viewport={"width": 360, "height": 740}) as context:
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        begin(page, server)
        page.get_by_role("button", name="Hold to compare").click()
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        page.get_by_role("button", name="Leave").click()
