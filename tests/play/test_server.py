"""The server by plain requests: what is refused, what is told, who may see what."""

import json
import threading
from collections.abc import Iterator

import pytest

from sfv.fast.memory_file import load_memory
from tests.play.serve import Served, num_frames, serving

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory, world) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("play"), world, "--visitors=3", "--chunks=3") as served:
        yield served


@pytest.fixture
def visitor(server) -> Iterator[Served]:
    someone = server.another()
    assert someone.post("/begin", start=0).status == 200
    yield someone
    someone.post("/leave")


def test_a_visitor_drives_forks_saves_and_reaches_the_limit(visitor, world, tmp_path):
    told = []
    assert visitor.post("/go", node=0, action="walk forward").status == 202
    for event in visitor.events():
        told.append(event)
        if event["kind"] == "state" and event["job"] is None:
            break
    jobs = [event["job"] for event in told if event["kind"] == "job"]
    made = {(job["row"], job["stage"]) for job in jobs}
    assert made >= {("none", "sampling"), ("none", "done"), ("fast", "learning"), ("fast", "done")}
    assert [e["version"] for e in told] == sorted(e["version"] for e in told)
    assert told[-1]["here"] == 1 and told[-1]["nodes"][1]["action"] == "walk forward"
    assert told[-1]["nodes"][1]["drift"] > 0

    state = visitor.drive("turn left")
    assert visitor.post("/rewind", node=1).json["here"] == 1
    again = visitor.post("/go", node=1, action="turn left").json
    assert again["job"] is None and again["here"] == 2, "it was made before"
    visitor.post("/rewind", node=1)
    state = visitor.drive("walk backward")
    assert [(n["number"], n["parent"]) for n in state["nodes"]] == [
        (0, None),
        (1, 0),
        (2, 1),
        (3, 1),
    ]
    full = visitor.post("/go", node=3, action="turn left")
    assert full.status == 409 and "holds 3 chunks, the most it may" in full.error

    assert visitor.ask("GET", "/frames/3/fast.png").body.startswith(b"\x89PNG")
    clip = visitor.ask("GET", "/video/3.mp4")
    assert clip.headers["content-disposition"] == 'attachment; filename="hall-chunk-0002.mp4"'
    assert num_frames(clip.body, tmp_path / "v.mp4")[0] == 3 + 2 * 2
    path = tmp_path / "m.memory.safetensors"
    path.write_bytes(visitor.ask("GET", "/memory/3.safetensors").body)
    header = load_memory(path, world.fingerprint()).header
    assert (header.episode, header.num_chunks) == ("hall", 2)
    assert visitor.post("/remove", node=2).json["chunks"] == {"held": 2, "allowed": 3}


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/go", b"{", 400, "holds no JSON"),
        ("/go", [1], 400, "no JSON object"),
        ("/go", b"x" * 30_000, 400, "longer than 20000 bytes"),
        (
            "/go",
            {"node": 0, "action": "fly"},
            400,
            "does not know the action 'fly'; it knows walk forward",
        ),
        ("/go", {"node": 0, "action": ["turn left"]}, 400, "wanted is a text"),
        ("/go", {"node": 7, "action": "turn left"}, 404, "there is no chunk 7"),
        ("/go", {"node": "0", "action": "turn left"}, 400, "node is '0'; wanted is its number"),
        ("/go", {"node": True, "action": "turn left"}, 400, "node is True"),
        ("/rewind", {"node": -1}, 404, "there is no chunk -1"),
        ("/remove", {"node": 0}, 400, "the start cannot be removed"),
        ("/begin", {"start": 2}, 400, "there is no start 2; there are 2"),
        ("/begin", {}, 400, "start is None"),
        ("/begin", {"start": 0, "memory": "temp_lora"}, 400, "this model has fast, none"),
        ("/begin", {"start": 0, "memory": ["fast"]}, 400, "there is no memory"),
        ("/show", {"node": 0}, 400, "the way out of this start has 0 chunks"),
        ("/show", {"node": 7}, 404, "there is no chunk 7"),
    ],
)
def test_wrong_requests_are_refused_in_one_line(visitor, path, body, status, said):
    answer = visitor.ask("POST", path, body)
    assert (answer.status, "\n" in answer.error) == (status, False)
    assert said in answer.error
    state = visitor.ask("GET", "/hall").json["visit"]
    assert (state["here"], state["job"], len(state["nodes"])) == (0, None, 1)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/start/1.png", 200),
        ("/start/2.png", 404),
        ("/frames/0/fast.png", 200),
        ("/frames/0/other.png", 404),
        ("/frames/0/..%2f..%2fmodel.png", 404),
        ("/frames/1/fast.png", 404),
        ("/video/1.mp4", 404),
        ("/memory/-1.safetensors", 404),
        (f"/memory/{'9' * 5000}.safetensors", 404),
        (f"/video/{'9' * 5000}.mp4", 404),
        (f"/start/{'9' * 5000}.png", 404),
        ("/memory/..%2fmodel.safetensors", 404),
        ("/model/model.json", 404),
        ("/go", 405),
    ],
)
def test_no_address_reaches_another_file(visitor, path, status):
    assert visitor.ask("GET", path).status == status


def test_other_sites_are_refused(server, visitor):
    """By name, by origin, by what a browser says of the asking site, and forms by their type."""
    body = {"node": 0, "action": "turn left"}
    assert visitor.ask("GET", "/hall", Host="evil.example").status == 400
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ):
        answer = visitor.ask("POST", "/go", body, **headers)
        assert answer.status == 403 and "another site" in answer.error
        assert visitor.ask("GET", "/memory/0.safetensors", **headers).status == 403
    assert visitor.ask("POST", "/go", body, Content_Type="text/plain").status == 400
    assert visitor.ask("GET", "/hall").json["visit"]["job"] is None
    ours = {"Origin": server.address.rstrip("/"), "Sec_Fetch_Site": "same-origin"}
    assert visitor.ask("POST", "/stop", {}, **ours).status == 200


def test_the_cookie_is_long_and_for_this_site_alone(server):
    someone = server.another()
    said = someone.post("/begin", start=1).headers["set-cookie"]
    assert "HttpOnly" in said and "SameSite=strict" in said and "Path=/" in said
    first = someone.cookie
    assert first.startswith(f"sfv-play-{server.port}=") and len(first.partition("=")[2]) >= 43
    assert someone.post("/begin", start=0).json["start"] == 0 and someone.cookie == first
    someone.post("/leave")
    made_up = server.another()
    made_up.cookie = first
    assert made_up.post("/begin", start=0).status == 200
    assert made_up.cookie != first, "a token that is not known is not taken over"
    made_up.post("/leave")


def test_who_has_no_visit_learns_so(server):
    nobody = server.another()
    assert nobody.ask("GET", "/hall").json["visit"] is None
    for answer in (
        nobody.post("/go", node=0, action="turn left"),
        nobody.ask("GET", "/events"),
        nobody.ask("GET", "/video/0.mp4"),
    ):
        assert answer.status == 403 and "no visit is known for this browser" in answer.error


def test_visitors_are_apart_and_no_more_are_taken_than_there_is_room_for(server):
    people = [server.another() for _ in range(3)]
    for i, each in enumerate(people):
        assert each.post("/begin", start=i % 2).status == 200
    people[0].post("/go", node=0, action="turn left")
    assert people[1].ask("GET", "/hall").json["visit"]["job"] is None
    last = server.another().post("/begin", start=0)
    assert last.status == 503
    assert "3 visitors are here, the most this server takes (--visitors)" in last.error
    people[1].drive("walk forward")
    assert [n["action"] for n in people[1].drive()["nodes"]] == [None, "walk forward"]
    people[0].post("/stop")
    assert people[0].ask("GET", "/frames/1/none.png").status in (200, 404)
    assert people[2].ask("GET", "/frames/1/none.png").status == 404
    for each in people:
        each.post("/leave")
    assert people[0].ask("GET", "/hall").json["visit"] is None


def test_who_goes_in_the_middle_finds_the_truth_and_harms_nobody(visitor, server):
    other = server.another()
    other.post("/begin", start=1)
    visitor.post("/go", node=0, action="turn left")
    other.post("/go", node=0, action="turn right")
    for event in visitor.events():
        if event["kind"] == "job" and "row" in event["job"]:
            break  # the connection closes here, with the chunk half made
    busy = visitor.post("/go", node=0, action="turn right")
    if busy.status == 409:
        assert "a chunk is being made; wait for it, or stop it" in busy.error
    assert [n["action"] for n in other.drive()["nodes"]][1:] in ([], ["turn right"])
    state = next(e for e in visitor.events() if e["kind"] == "state" and e["job"] is None)
    assert state["nodes"][1]["action"] in ("turn left", "turn right")
    other.post("/leave")


def test_a_visit_without_memory_has_one_panel_and_no_memory_to_save(visitor, tmp_path):
    assert visitor.post("/begin", start=1, memory="none").json["rows"] == ["none"]
    state = visitor.drive("turn left")
    assert list(state["nodes"][1]["seconds"]) == ["none"] and "loss" not in state["nodes"][1]
    for path in ("/frames/1/fast.png", "/memory/1.safetensors"):
        assert visitor.ask("GET", path).status == 404
    clip = visitor.ask("GET", "/video/1.mp4").body
    assert num_frames(clip, tmp_path / "v.mp4")[0] == 3 + 2


def test_pages_of_one_visit_are_counted(visitor):
    streams = [visitor.events() for _ in range(4)]
    for stream in streams:
        assert next(stream)["kind"] == "state"
    answer = visitor.ask("GET", "/events")
    assert answer.status == 409 and "4 pages of this visit are open" in answer.error
    heard: list[str] = []
    listening = threading.Thread(target=lambda: heard.extend(e["kind"] for e in streams[0]))
    listening.start()
    visitor.post("/leave")
    listening.join(60)
    assert heard == ["gone"]
    for stream in streams[1:]:
        stream.close()


def test_pages_carry_no_source_from_elsewhere(server):
    answer = server.ask("GET", "/")
    assert b"http://" not in answer.body.replace(b"http://www.w3.org/2000/svg", b"")
    assert b"https://" not in answer.body
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert json.loads(server.ask("GET", "/hall").body)["actions"][0] == "walk forward"
