"""Results that are kept with the settings that made them, so that a stopped benchmark goes on."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfv.files import read_json, write_json
from sfv.metrics.protocol import MetricValue, from_plain


@dataclass(frozen=True)
class Kept:
    """A finished piece of work: `FOLDER/NAME.json`, written last.

    Args:
        folder: of the piece, and of files that belong to it.
        name: of the piece.
        settings: what decides it, as JSON values or what JSON makes of them.
    """

    folder: Path
    name: str
    settings: dict[str, Any]

    @property
    def path(self) -> Path:
        return self.folder / f"{self.name}.json"

    def read(self) -> dict[str, Any] | None:
        """What was written, or None where it is not finished.

        Raises:
            ValueError: it was made with other settings; names the first that differs.
        """
        if not self.path.is_file():
            return None
        found: dict[str, Any] = read_json(self.path)
        now = json.loads(json.dumps(self.settings))
        differing = sorted(
            k
            for k in now.keys() | found["settings"].keys()
            if now.get(k) != found["settings"].get(k)
        )
        if differing:
            key = differing[0]
            raise ValueError(
                f"{self.path} was made with other settings ({key}: {found['settings'].get(key)!r}, now "
                f"{now.get(key)!r}); give the settings of then or another --out"
            )
        result: dict[str, Any] = found["result"]
        return result

    def write(self, result: dict[str, Any]) -> None:
        """Note that it is finished."""
        write_json(self.path, {"settings": self.settings, "result": result})


def kept_scores(
    folder: Path, name: str, settings: dict[str, Any], measure: Callable[[], dict[str, MetricValue]]
) -> dict[str, MetricValue]:
    """Measure, or read what was measured with exactly these settings.

    Args:
        folder: where scores are kept, as `NAME-DIGEST.json`; other settings have another digest.
        name: what is scored.
        settings: what decides the scores, such as a hash of the videos.
        measure: gives the scores by metric.
    """
    digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
    kept = Kept(folder, f"{name}-{digest}", settings)
    known = kept.read()
    if known is not None:
        return {metric: from_plain(cell) for metric, cell in known.items()}
    scores = measure()
    kept.write({metric: value.to_plain() for metric, value in scores.items()})
    return scores
