import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sfv.planning.chat import Chat, ChatError
from sfv.planning.tasks import SubGoal
from tests.planning.make import MOVES, meadow_task

KEY = "sk-very-secret-0123456789"
GOOD = '[{"action": "east", "waypoint": "a"}, {"action": null, "place": 0, "back": true}]'
GOALS = [SubGoal("east", waypoint="a"), SubGoal(None, 0, back=True)]


class Stub:
    """A chat endpoint that plays a list of replies; the last one again and again."""

    def __init__(self):
        self.replies, self.asked, self.hang = [], [], threading.Event()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                stub.asked.append((self.path, dict(self.headers), json.loads(body)))
                reply = stub.replies[min(len(stub.asked), len(stub.replies)) - 1]
                if reply == "hang":
                    stub.hang.wait(10)
                    return
                status, headers, content = reply
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.hang.set()
        self.server.shutdown()
        self.server.server_close()


def says(text, status=200):
    return status, {}, json.dumps({"choices": [{"message": {"content": text}}]}).encode()


def fails(status, text="busy", **headers):
    return status, headers, text.encode()


@pytest.fixture
def stub(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "*")
    made = Stub()
    yield made
    made.close()


def chat(stub, **changes):
    return Chat(stub.url, "any-model", **{"wait_seconds": 0, "timeout_seconds": 5, **changes})


def ask(stub, **changes):
    return chat(stub, **changes).plan(meadow_task(), tuple(MOVES))


def test_sub_goals_come_over_http(stub):
    stub.replies = [says(GOOD)]
    assert ask(stub) == GOALS
    path, headers, body = stub.asked[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == f"Bearer {KEY}"
    assert body["model"] == "any-model" and body["temperature"] == 0
    question = body["messages"][1]["content"]
    assert meadow_task().text in question and '["east", "west", "north"]' in question
    assert '["a", "b", "origin"]' in question


def test_words_and_fences_around_the_list_are_cut_off(stub):
    stub.replies = [says(f"Sure:\n```json\n{GOOD}\n```\nGood luck!")]
    assert ask(stub) == GOALS


def test_a_malformed_answer_is_told_what_is_wrong(stub):
    stub.replies = [says('[{"action": "swim"}]'), says(GOOD)]
    assert ask(stub) == GOALS
    told = stub.asked[1][2]["messages"]
    assert [m["role"] for m in told] == ["system", "user", "assistant", "user"]
    assert "'swim' is unknown" in told[3]["content"]


@pytest.mark.parametrize(
    "reply",
    [
        says("no idea"),
        says("[1, 2]"),
        says("[]"),
        says(None),
        (200, {}, b"<html>"),
        (200, {}, b'{"choices": []}'),
        (200, {}, b"x" * 1_000_002),
        fails(500),
        fails(429),
    ],
)
def test_attempts_are_bounded(stub, reply):
    stub.replies = [reply]
    with pytest.raises(ChatError, match="in 2 attempts") as error:
        ask(stub, max_attempts=2)
    assert len(stub.asked) == 2 and "\n" not in str(error.value)


def test_a_busy_endpoint_is_asked_again(stub):
    stub.replies = [fails(503), fails(429), says(GOOD)]
    assert ask(stub) == GOALS and len(stub.asked) == 3


def test_an_endpoint_that_hangs_times_out(stub):
    stub.replies = ["hang"]
    began = time.monotonic()
    with pytest.raises(ChatError, match="no answer"):
        ask(stub, max_attempts=2, timeout_seconds=0.2)
    assert len(stub.asked) == 2 and time.monotonic() - began < 8


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_refusal_is_not_repeated_and_does_not_show_the_key(stub, status):
    stub.replies = [fails(status, f"Incorrect API key provided: {KEY}")]
    with pytest.raises(ChatError, match=f"status {status}") as error:
        ask(stub)
    assert len(stub.asked) == 1 and KEY not in str(error.value) and "***" in str(error.value)
    assert error.value.__cause__ is None and error.value.__suppress_context__


def test_an_answer_that_echoes_the_key_does_not_show_it(stub):
    stub.replies = [says(f'[{{"action": "{KEY}"}}]')]
    with pytest.raises(ChatError) as error:
        ask(stub, max_attempts=1)
    assert KEY not in str(error.value)


def test_a_redirect_does_not_take_the_key_along(stub):
    other = Stub()
    other.replies, stub.replies = [says(GOOD)], [fails(302, "", Location=f"{other.url}/x")]
    with pytest.raises(ChatError, match="status 302"):
        ask(stub)
    assert other.asked == []
    other.close()


def test_nobody_listens(stub):
    url = stub.url
    stub.server.shutdown()
    stub.server.server_close()
    with pytest.raises(ChatError, match="no answer"):
        Chat(url, "m", max_attempts=1, timeout_seconds=1).plan(meadow_task(), tuple(MOVES))


def test_without_a_key_the_variable_is_named(stub, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    stub.replies = [says(GOOD)]
    with pytest.raises(ChatError, match="OPENAI_API_KEY is empty"):
        ask(stub)
    assert stub.asked == []
    assert ask(stub, key_variable=None) == GOALS
    assert "Authorization" not in stub.asked[0][1]


def test_the_object_holds_no_key(stub):
    made = chat(stub)
    assert KEY not in repr(vars(made)) + repr(made)


@pytest.mark.parametrize(
    "changes",
    [
        {"base_url": "ftp://x/v1"},
        {"base_url": f"http://me:{KEY}@host/v1"},
        {"timeout_seconds": 0},
        {"max_attempts": 0},
        {"wait_seconds": -1},
    ],
)
def test_bad_settings_are_refused(changes):
    with pytest.raises(ValueError, match=r"allowed|give e\.g\.") as error:
        Chat(**{"base_url": "http://localhost/v1", "model": "m", **changes})
    assert KEY not in str(error.value)
