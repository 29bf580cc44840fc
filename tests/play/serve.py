"""A playground of an untrained model for tests, in a process of its own."""

import http.client
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

from sfv.models.world_model import WorldModel

FAST = [
    "--generation.sampler.num_inference_steps=2",
    "--generation.lora.r=2",
    "--generation.fast.num_steps=1",
]


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        return str(self.json["error"])


@dataclass
class Served:
    """A server; asking keeps the cookie as a browser would."""

    port: int
    process: subprocess.Popen[str]
    cookie: str = ""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def another(self) -> "Served":
        """The same server, for somebody else."""
        return Served(self.port, self.process)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=90)
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        kinds = {"Content-Type": "application/json", "Cookie": self.cookie}
        kinds |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, content, kinds)
        answer = connection.getresponse()
        found = Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        connection.close()
        if "set-cookie" in found.headers:
            self.cookie = found.headers["set-cookie"].partition(";")[0]
        return found

    def post(self, path: str, **body: Any) -> Answer:
        return self.ask("POST", path, body)

    def events(self) -> Iterator[dict[str, Any]]:
        """What the server tells, until the caller has heard enough: then the connection is closed."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=90)
        connection.request("GET", "/events", headers={"Cookie": self.cookie})
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        try:
            while line := answer.readline():
                if line.startswith(b"data: "):
                    yield json.loads(line[6:])
        finally:
            connection.close()

    def drive(self, *actions: str) -> dict[str, Any]:
        """Go on, chunk by chunk; the state after the last one."""
        state: dict[str, Any] = self.ask("GET", "/hall").json["visit"]
        for action in actions:
            assert self.post("/go", node=state["here"], action=action).status == 202
            state = next(e for e in self.events() if e["kind"] == "state" and e["job"] is None)
        return state


@contextmanager
def serving(folder: Path, world: WorldModel, *options: str) -> Iterator[Served]:
    """Serve a model with two starts, and end the server."""
    for i, name in enumerate(("hall", "yard")):
        film(folder / "starts" / f"{name}.mp4", 40 + 100 * i)
    with serving_model(folder, world, f"--start={folder / 'starts'}", *options) as served:
        yield served


def write_example(folder: Path) -> None:
    """A way out of two chunks, and its way back."""
    film(folder / "shown.mp4", 40, 7)
    actions = ("walk forward", "turn left", "turn right", "walk backward")
    (folder / "actions.txt").write_text("\n".join(actions))


@contextmanager
def serving_model(folder: Path, world: WorldModel, *options: str) -> Iterator[Served]:
    """Serve a model, with its example where no start is given, and end the server."""
    world.save(folder / "model")
    command = [
        sys.executable,
        "-m",
        "sfv.cli",
        "play",
        f"--ckpt={folder}",
        "--port=0",
        "--no-browser",
    ]
    with subprocess.Popen(
        [*command, *FAST, *options],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(2)]
            found = re.search(r"open http://127.0.0.1:(\d+)/", "".join(lines))
            assert found is not None, lines
            yield Served(int(found[1]), process)
        finally:
            process.terminate()
            process.wait(60)


def film(path: Path, shade: int, num_frames: int = 3) -> None:
    """Frames of 16 x 24 pixels."""
    path.parent.mkdir(exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=8, options={"crf": "0"})
        stream.width, stream.height, stream.pix_fmt = 24, 16, "rgb24"
        for i in range(num_frames):
            frame = av.VideoFrame(24, 16, "rgb24")
            pixels = frame.to_ndarray()
            pixels[:] = shade + 10 * i
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def num_frames(clip: bytes, path: Path) -> tuple[int, int, int]:
    """Frames, height and width of a video."""
    path.write_bytes(clip)
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return (len(frames), *frames[0].shape[:2])
