"""Stages that are kept: each is redone only when its settings or what it builds on changed."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sfv.files import claim_folder, read_json, write_json

MARKER = "demo.json"


@dataclass(frozen=True)
class Stage:
    """One step of a pipeline.

    Args:
        name: also its folder's name.
        title: what a person reads while it runs.
        settings: everything that decides its result (JSON).
        run: does the work into the folder that it is given.
        needs: names of the stages it builds on.
    """

    name: str
    title: str
    settings: dict[str, Any]
    run: Callable[[Path], None]
    needs: tuple[str, ...] = field(default=())


class Pipeline:
    """Runs stages in order inside one folder; finished ones are kept.

    A stage works in `NAME.part` and is renamed when it is done, so an interrupted one leaves nothing
    under its name.

    Args:
        out: the pipeline's folder.
        say: prints a line for a person.

    Raises:
        FileExistsError: `out` holds something else.
    """

    def __init__(self, out: Path, say: Callable[[str], None] = print) -> None:
        claim_folder(out, MARKER, "a demo folder")
        self.out, self.say = out, say
        self._hashes: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        marker = out / MARKER
        self._done: dict[str, Any] = read_json(marker) if marker.exists() else {}
        write_json(marker, self._done)

    def run(self, stage: Stage) -> Path:
        """Run a stage, or keep what is there; return its folder."""
        folder = self.out / stage.name
        key = self._key(stage)
        self._hashes[stage.name] = key
        known = self._done.get(stage.name, {})
        if known.get("hash") == key and folder.is_dir():
            self.say(f"[{stage.name}] kept: {stage.title}")
            self.seconds[stage.name] = known["seconds"]
            return folder
        self.say(f"[{stage.name}] {stage.title}")
        part = self.out / f"{stage.name}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        began = time.perf_counter()
        stage.run(part)
        self._finish(stage.name, key, part, folder, time.perf_counter() - began)
        return folder

    def _finish(self, name: str, key: str, part: Path, folder: Path, seconds: float) -> None:
        self._done.pop(name, None)
        write_json(self.out / MARKER, self._done)
        shutil.rmtree(folder, ignore_errors=True)
        part.replace(folder)
        self.seconds[name] = seconds
        self._done[name] = {"hash": key, "seconds": round(seconds, 1)}
        write_json(self.out / MARKER, self._done)

    def _key(self, stage: Stage) -> str:
        content = [stage.name, stage.settings, [self._hashes[name] for name in stage.needs]]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
