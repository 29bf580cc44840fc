"""Write RLBench demonstrations without pickles. Run it where RLBench is installed; it needs only that.

    python rlbench_export.py --demos /data/rlbench --out rlbench_export --trust-pickles

Nothing else in this project loads a pickle: one from a stranger can run any program when it is
loaded. So run this only on files that you made yourself or whose maker you trust. It imports
nothing of this project; copy it wherever RLBench lives.

Reads `TASK/variationN/episodes/episodeM/low_dim_obs.pkl` (or `TASK/all_variations/episodes/...`) and
the pictures beside it; writes, for each episode, `TASK/variationN/episodeM/episode.json` and the
pictures of one camera.
"""

import argparse
import json
import pickle
import re
import shutil
import sys
from pathlib import Path
from typing import Any

FORMAT = "sfv.rlbench/1"
SIGNALS = ("gripper_open", "gripper_pose", "joint_positions", "joint_velocities")


def load(path: Path) -> Any:
    """Load a pickle that the user trusts."""
    with path.open("rb") as file:
        return pickle.load(file)


def plain(value: Any) -> Any:
    """Turn arrays and numpy's numbers into lists and Python's numbers."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def describe(episode: Path) -> tuple[int, list[str]]:
    """Number of the variation and its sentences, beside the episode or above it."""
    number = re.fullmatch(r"variation(\d+)", episode.parent.parent.name)
    variation = int(number[1]) if number else int(load(episode / "variation_number.pkl"))
    for folder in (episode, episode.parent.parent):
        path = folder / "variation_descriptions.pkl"
        if path.is_file():
            return variation, [str(text) for text in load(path)]
    raise FileNotFoundError(f"{episode}: no variation_descriptions.pkl beside it or two folders up")


def export(episode: Path, demos: Path, out: Path, camera: str) -> Path:
    """Write one episode; its JSON comes last, so one that has it is complete."""
    task = episode.relative_to(demos).parts[0]
    variation, descriptions = describe(episode)
    demo = load(episode / "low_dim_obs.pkl")
    steps = [demo[index] for index in range(len(demo))]
    given: dict[str, Any] = {
        "format": FORMAT, "task": task, "variation": variation, "descriptions": descriptions,
        "camera": camera,
    }  # fmt: skip
    for name in SIGNALS:
        given[name] = [plain(getattr(step, name)) for step in steps]
    pictures = sorted((episode / camera).glob("*.png"))
    if len(pictures) != len(steps):
        raise ValueError(f"{episode}: {len(pictures)} pictures in {camera}, {len(steps)} steps")
    target = out / task / f"variation{variation}" / episode.name
    (target / camera).mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        shutil.copyfile(picture, target / camera / picture.name)
    (target / "episode.json").write_text(json.dumps(given), encoding="utf-8")
    return target


def main() -> int:
    """Run the command."""
    p = argparse.ArgumentParser(description="Write RLBench demonstrations without pickles.")
    p.add_argument("--demos", type=Path, required=True, help="save_path of RLBench's generator")
    p.add_argument("--out", type=Path, required=True, help="folder for the export")
    p.add_argument("--camera", default="front_rgb", help="front_rgb, overhead_rgb, wrist_rgb, ...")
    p.add_argument("--trust-pickles", action="store_true", help="needed: loading runs their code")
    args = p.parse_args()
    if not args.trust_pickles:
        print("error: loading a pickle can run any program; give --trust-pickles if you know "
              "who made these files", file=sys.stderr)  # fmt: skip
        return 2
    # Python looks for modules beside this file first, where a converter is named as RLBench is.
    here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != here]
    episodes = sorted(path.parent for path in args.demos.rglob("low_dim_obs.pkl"))
    failed = 0
    for episode in episodes:
        try:
            print(export(episode, args.demos, args.out, args.camera))
        except Exception as error:  # a pickle can raise anything; the others are still wanted
            failed += 1
            print(f"skipped: {episode}: {error}", file=sys.stderr)
    print(f"{len(episodes) - failed} episodes exported, {failed} skipped")
    return 1 if failed or not episodes else 0


if __name__ == "__main__":
    sys.exit(main())
