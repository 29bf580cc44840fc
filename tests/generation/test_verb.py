import json
import os
import re
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from sfv.cli import main
from sfv.data.episodes import episodes
from sfv.fast.memory_file import load_memory
from sfv.fast.temporal_lora import TemporalLoRA
from sfv.generation.tasks import fit_start, name_of, read_actions, read_start
from sfv.models.world_model import WorldModel
from sfv.report.video import encode_mp4, to_frames
from tests.world import untrained_world

QUICK = [
    "--generation.sampler.num_inference_steps=1",
    "--generation.lora.r=2",
    "--generation.fast.num_steps=1",
    "--generation.fast.learning_rate=0.01",
    "--generation.fast.probe_draws=0",
]


def film(path, num_frames, size=(32, 32)):
    """Write frames of growing brightness."""
    frames = np.full((num_frames, *size, 3), 40, dtype=np.uint8)
    frames += (np.arange(num_frames, dtype=np.uint8) * 10)[:, None, None, None]
    path.write_bytes(encode_mp4(frames, 8.0))
    return path


def decode(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def refused(capsys, verb, *arguments):
    capsys.readouterr()
    assert main([verb, *arguments]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "turn left\n\n  walk forward  \n"),
        ("a.json", '["turn left", "walk forward"]'),
        ("a.jsonl", '{"text": "turn left", "raw": 3}\n\n{"text": "walk forward"}\n'),
    ],
)
def test_actions_are_read_from_each_format(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_actions(tmp_path / name) == ["turn left", "walk forward"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "turn left", r"a\.csv has the unknown format '\.csv'; allowed: \.txt.*\.jsonl"),
        ("actions", "turn left", r"unknown format ''; allowed: \.txt"),
        ("a.txt", " \n\n", r"a\.txt holds no list of actions; \.txt has one a line"),
        ("a.json", "[]", r"a\.json holds no list of actions; .*\.json is a list of strings"),
        ("a.json", '{"text": "turn left"}', "holds no list of actions"),
        ("a.json", '["turn left", 3]', "holds no list of actions"),
        ("a.json", '["turn left"', r"a\.json is not valid JSON: .*line 1 column"),
        ("a.jsonl", '{"action": "turn left"}', r'\.jsonl has {"text": "..."} on every line'),
        ("a.jsonl", '"turn left"', "holds no list of actions"),
        ("a.jsonl", "turn left", r"a\.jsonl is not valid JSON"),
        ("a.json", "[" * 100_000, r"a\.json is not valid JSON"),
    ],
)
def test_a_wrong_actions_file_says_what_is_allowed(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_actions(tmp_path / name)


@pytest.mark.parametrize("read", [read_actions, lambda path: read_start(path, 4)])
def test_actions_and_start_are_regular_files(tmp_path, read):
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "device.txt").symlink_to("/dev/zero")
    (tmp_path / "folder.txt").mkdir()
    for name in ("pipe", "device", "folder"):
        with pytest.raises(OSError, match=rf"{name}\.txt is a {name}; give a regular file"):
            read(tmp_path / f"{name}.txt")


def test_the_start_is_the_first_frames_of_a_video(tmp_path):
    path = film(tmp_path / "start.mp4", 6, (16, 24))
    video = read_start(path, 4)
    assert video.shape == (1, 4, 3, 16, 24)
    brightness = video[0].mean(dim=(1, 2, 3)) * 255
    torch.testing.assert_close(brightness, torch.tensor([40.0, 50, 60, 70]), atol=2.0, rtol=0)


def test_an_image_is_a_start_of_one_frame(tmp_path):
    image = np.zeros((16, 24, 3), dtype=np.uint8)
    image[..., 0], image[:, 12:, 2] = 200, 100
    Image.fromarray(image).save(tmp_path / "start.png")
    video = read_start(tmp_path / "start.png", 1)
    expected = torch.from_numpy(image).permute(2, 0, 1).float() / 255
    torch.testing.assert_close(video, expected[None, None])


def test_a_short_or_unreadable_start_says_so(tmp_path):
    with pytest.raises(
        ValueError, match=r"has 5 frames, but this model needs a start of 8; give a l"
    ):
        read_start(film(tmp_path / "short.mp4", 5), 8)
    (tmp_path / "bad.mp4").write_bytes(b"no film at all" * 50)
    with pytest.raises(
        ValueError, match=r"bad\.mp4 cannot be read as a video or an image \(.*give"
    ):
        read_start(tmp_path / "bad.mp4", 8)
    whole = film(tmp_path / "whole.mp4", 8).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.mp4 (cannot be read|has \d frames)"):
        read_start(tmp_path / "cut.mp4", 8)
    with pytest.raises(ValueError, match=r"nowhere\.mp4 cannot be read"):
        read_start(tmp_path / "nowhere.mp4", 8)


@pytest.mark.parametrize("stem", ["散歩", "yard", "x" * 240, "散" * 80])
def test_a_rollout_is_named_by_its_start_if_files_can_be(tmp_path, stem):
    name = name_of(tmp_path / f"{stem}.mp4")
    assert (name == stem) == (len(stem) < 10)
    (tmp_path / f".{name}.chunk-0001.memory.safetensors.1234567.tmp").touch()


def test_damage_of_a_start_is_named_with_its_frame(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "s.mp4"
    path.write_bytes(encode_mp4(rng.integers(0, 256, (9, 32, 32, 3), dtype=np.uint8), 8.0))
    data = path.read_bytes()
    hole = len(data) // 4
    path.write_bytes(data[:hole] + bytes(hole) + data[2 * hole :])
    with pytest.raises(ValueError, match=r"s\.mp4 cannot be read .*frame \d"):
        read_start(path, 8)


def test_a_start_of_another_size_is_refused_or_fitted():
    world = untrained_world(["turn left"])
    video = torch.rand(1, 3, 3, 32, 24)
    assert fit_start(video, world, Path("s.mp4"), None) is video, "an old folder takes any size"
    with pytest.raises(
        ValueError, match=r'does not say the size .*"frame_size": \[HEIGHT, WIDTH\]'
    ):
        fit_start(video, world, Path("s.mp4"), "crop")
    world.frame_size = (16, 24)
    expected = (
        r"s\.mp4 has frames of 32x24 pixels .*trained on 16x24; give --fit crop, stretch or pad"
    )
    with pytest.raises(ValueError, match=expected):
        fit_start(video, world, Path("s.mp4"), None)
    for fit in ("crop", "stretch", "pad"):
        assert fit_start(video, world, Path("s.mp4"), fit).shape == (1, 3, 3, 16, 24)
    padded = fit_start(video, world, Path("s.mp4"), "pad")
    assert not padded[..., :6].any() and not padded[..., 18:].any() and padded[..., 6:18].all()
    cropped = fit_start(video, world, Path("s.mp4"), "crop")
    torch.testing.assert_close(cropped, video[..., 8:24, :], atol=1 / 255, rtol=0)


@pytest.fixture(scope="module")
def own(demo, tmp_path_factory):
    """`sfv rollout` from a start and actions of one's own."""
    folder = tmp_path_factory.mktemp("own")
    film(folder / "yard.mp4", 10)
    (folder / "walk.txt").write_text("turn left\nwalk forward\n")
    arguments = [
        f"--model={demo.model}", f"--start={folder / 'yard.mp4'}", "--fps=5",
        f"--actions={folder / 'walk.txt'}", f"--out={folder / 'out'}", *QUICK,
    ]  # fmt: skip
    assert main(["rollout", *arguments]) == 0
    return folder / "out", arguments


@pytest.mark.slow
def test_a_rollout_from_a_start_of_one_s_own(own):
    out, _ = own
    written = json.loads((out / "rollout.json").read_text())
    assert written["settings"]["rows"] == ["none", "fast"]
    assert written["videos"].keys() == {"yard-none.mp4", "yard-fast.mp4"}
    for name, chunks in written["videos"].items():
        assert [chunk["action"] for chunk in chunks] == ["turn left", "walk forward"]
        assert [chunk["fast"] is not None for chunk in chunks] == [name == "yard-fast.mp4"] * 2
        frames = decode(out / name)
        assert len(frames) == 8 + 2 * 8
        assert frames[0].shape == (4 * 32, 4 * 32, 3)
        brightness = [frame.mean() for frame in frames[:8]]
        assert brightness == sorted(brightness), "the given frames come first"
    none, fast = (np.stack(decode(out / f"yard-{row}.mp4")).astype(int) for row in ("none", "fast"))
    gap = np.abs(none - fast).mean(axis=(1, 2, 3))
    assert gap[:16].max() < 0.5 < gap[16:].max(), "nothing is learned before the first chunk"
    with av.open(str(out / "yard-fast.mp4")) as container:
        assert container.streams.video[0].average_rate == 5


@pytest.mark.slow
def test_the_memory_of_a_rollout_belongs_to_its_model(own, demo):
    out, _ = own
    world = WorldModel.load(demo.model)
    path = out / "yard.memory.safetensors"
    stored = load_memory(path, world.fingerprint())
    assert (stored.header.episode, stored.header.num_chunks, stored.header.r) == ("yard", 2, 2)
    with TemporalLoRA(world.denoiser, r=2, alpha=32.0) as lora:
        drift = lora.drift(lora.theta(stored.weights))
    assert min(drift.values()) > 0
    assert stored.header.settings["fast"]["learning_rate"] == 0.01
    other = WorldModel.load(demo.folder / "slow" / "model").fingerprint()
    with pytest.raises(
        ValueError, match=f"learned on base model {world.fingerprint()}.*is {other}"
    ):
        load_memory(path, other)


@pytest.mark.slow
def test_a_rollout_goes_on_from_a_memory_bit_for_bit(own, demo, tmp_path, capsys):
    """Cut behind the first of two chunks; then a fork, which has noise of its own."""
    out, arguments = own
    whole = tmp_path / "whole"
    assert main(["rollout", *arguments, f"--out={whole}", "--rows=[fast]", "--memory-every=1"]) == 0
    assert (whole / "yard.memory.safetensors").read_bytes() == (
        out / "yard.memory.safetensors"
    ).read_bytes(), "keeping memories, and a row without one before, change nothing"
    middle = whole / "yard.chunk-0001.memory.safetensors"
    (tmp_path / "rest.txt").write_text("walk forward\n")
    paths = [f"--model={demo.model}", f"--actions={tmp_path / 'rest.txt'}"]
    rest = tmp_path / "rest"
    assert main(["rollout", *paths, f"--resume-from={middle}", f"--out={rest}"]) == 0
    last = "yard.memory.safetensors"
    assert (rest / last).read_bytes() == (whole / last).read_bytes()
    frames = [decode(folder / "yard-fast.mp4") for folder in (whole, rest)]
    assert (len(frames[0]), len(frames[1])) == (8 + 2 * 8, 8 + 8)
    gap = np.abs(np.stack(frames[0][-8:]).astype(int) - np.stack(frames[1][-8:])).mean()
    assert gap < 2, "the same chunk, compressed after other frames"
    fork = tmp_path / "fork.memory.safetensors"
    assert main(["memory", "fork", str(middle), str(fork), "other"]) == 0
    assert main(["rollout", *paths, f"--resume-from={fork}", f"--out={tmp_path / 'fork'}"]) == 0
    ours = load_memory(tmp_path / "fork" / "other.memory.safetensors")
    theirs = load_memory(whole / last)
    assert ours.header.num_chunks == 2
    assert not torch.equal(ours.extras["context"], theirs.extras["context"])
    foreign = f"--model={demo.folder / 'slow' / 'model'}"
    said = refused(
        capsys, "rollout", *paths, foreign, f"--resume-from={middle}", f"--out={tmp_path / 'no'}"
    )
    assert "was learned on base model" in said
    assert not (tmp_path / "no").exists()


@pytest.mark.slow
def test_a_merged_memory_begins_at_a_start_alone(own, demo, tmp_path, capsys):
    out, arguments = own
    memory = str(out / "yard.memory.safetensors")
    merged = tmp_path / "two.memory.safetensors"
    assert main(["memory", "merge", memory, memory, str(merged), "--rank=2"]) == 0
    target = [f"--resume-from={merged}", f"--out={tmp_path / 'out'}"]
    without = [a for a in arguments if not a.startswith(("--start", "--generation"))]
    assert "holds no frames to go on from" in refused(capsys, "rollout", *without, *target)
    assert main(["rollout", *[a for a in arguments if "--generation" not in a], *target]) == 0
    stored = load_memory(tmp_path / "out" / "yard+yard.memory.safetensors")
    assert (stored.header.num_chunks, stored.header.r, stored.header.alpha) == (2, 2, 2.0)


@pytest.mark.slow
def test_episodes_rolled_out_at_once_are_those_rolled_out_alone(demo, tmp_path):
    paths = [f"--model={demo.model}", f"--episodes={demo.test_shards}", "--rows=[fast]", *QUICK]
    for folder, at_once in (("alone", 1), ("together", 2)):
        flags = [f"--out={tmp_path / folder}", f"--at-once={at_once}"]
        assert main(["rollout", *paths, *flags, "--generation.fast.learning_rate=1e-4"]) == 0
    written = [
        json.loads((tmp_path / f / "rollout.json").read_text()) for f in ("alone", "together")
    ]
    assert written[0]["videos"].keys() == written[1]["videos"].keys()
    assert len(written[0]["videos"]) == 2
    for name, chunks in written[0]["videos"].items():
        for mine, other in zip(chunks, written[1]["videos"][name], strict=True):
            assert mine["action"] == other["action"]
            assert mine["fast"]["loss"] == pytest.approx(other["fast"]["loss"], rel=1e-3)
            assert mine["fast"]["drift"] == pytest.approx(other["fast"]["drift"], rel=1e-2)


@pytest.mark.slow
def test_the_folder_of_a_rollout_takes_no_other_settings(own, capsys, tmp_path):
    out, arguments = own
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    said = refused(capsys, "rollout", *arguments, "--generation.seed=1")
    assert "holds a rollout with other settings (see its rollout.json); give another --out" in said
    other = film(tmp_path / "yard.mp4", 10, (64, 32))
    said = refused(capsys, "rollout", *arguments, f"--start={other}")
    assert "has frames of 64x32 pixels" in said and "trained on 32x32; give --fit" in said
    said = refused(capsys, "rollout", *arguments, f"--start={other}", "--fit=pad")
    assert "holds a rollout with other settings" in said
    assert before == {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.mark.slow
def test_a_rollout_from_episodes_starts_as_they_do(demo, tmp_path):
    arguments = ["--rows=[none]", "--num_episodes=1", *QUICK]
    paths = [f"--model={demo.model}", f"--episodes={demo.test_shards}", f"--out={tmp_path / 'out'}"]
    assert main(["rollout", *paths, *arguments]) == 0
    meta, true = next(episodes(demo.test_shards, limit=1))
    written = json.loads((tmp_path / "out" / "rollout.json").read_text())
    (name,) = written["videos"]
    assert name == f"{meta.id}-none.mp4"
    assert [c["action"] for c in written["videos"][name]] == [a.text for a in meta.actions[1:]]
    made = np.stack(decode(tmp_path / "out" / name)).astype(float)[:, ::4, ::4]
    assert len(made) == meta.num_frames
    shown = to_frames(true).astype(float)
    error = [np.abs(made[i] - shown[i]).mean() for i in (0, 7, 20)]
    assert max(error[:2]) < 0.5 * error[2], "the given frames look like the truth, later ones not"
    assert not list((tmp_path / "out").glob("*.memory.safetensors"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ["start"],
            "give either --start (or --shown) and --actions, or --episodes, or --resume-from and --actions",
        ),
        (
            ["actions"],
            "give either --start (or --shown) and --actions, or --episodes, or --resume-from and --actions",
        ),
        (
            ["start", "actions", "episodes"],
            "give either --start (or --shown) and --actions, or --episodes, or --resume-from and --actions",
        ),
        ([], "give either --start (or --shown) and --actions, or --episodes, or"),
    ],
)
def test_half_a_task_is_refused(demo, tmp_path, capsys, given, said):
    paths = {"start": film(tmp_path / "s.mp4", 8), "episodes": demo.test_shards}
    (tmp_path / "a.txt").write_text("turn left")
    paths["actions"] = tmp_path / "a.txt"
    arguments = [f"--{name}={paths[name]}" for name in given]
    out = tmp_path / "out"
    assert said in refused(capsys, "rollout", f"--model={demo.model}", f"--out={out}", *arguments)
    assert not out.exists()


def test_an_unknown_action_or_a_wrong_start_is_refused_before_the_folder_is_made(
    demo, tmp_path, capsys
):
    (tmp_path / "a.txt").write_text("turn left\nfly\n")
    out, start = tmp_path / "out", film(tmp_path / "s.mp4", 8)
    arguments = [f"--model={demo.model}", f"--out={out}", f"--actions={tmp_path / 'a.txt'}"]
    said = refused(capsys, "rollout", *arguments, f"--start={start}")
    assert f"{tmp_path / 'a.txt'}: unknown actions ['fly']" in said
    assert "'walk forward', 'walk backward', 'turn left', 'turn right'" in said
    (tmp_path / "a.txt").write_text("turn left\n")
    odd = film(tmp_path / "odd.mp4", 8, (36, 32))
    assert "36" in refused(capsys, "rollout", *arguments, f"--start={odd}")
    assert not out.exists()


def test_a_folder_without_a_model_says_which_to_give(demo, tmp_path, capsys):
    said = refused(capsys, "rollout", f"--model={demo.folder}", f"--out={tmp_path}")
    assert "holds no world model (no model.json); give the folder of a finished run" in said


def test_a_shown_video_is_learned_and_the_rollout_goes_on_from_its_end(demo, tmp_path):
    shown = film(tmp_path / "walk.mp4", 24)
    (tmp_path / "a.txt").write_text("turn left\nwalk forward\nturn left\n")
    out = tmp_path / "out"
    given = [f"--model={demo.model}", f"--shown={shown}", f"--actions={tmp_path / 'a.txt'}"]
    assert main(["rollout", f"--out={out}", *given, *QUICK]) == 0
    chunks = json.loads((out / "rollout.json").read_text())["videos"]["walk-fast.mp4"]
    assert [chunk["shown"] for chunk in chunks] == [True, True, False]
    assert all(chunk["fast"]["loss"] > 0 for chunk in chunks)
    assert len(decode(out / "walk-fast.mp4")) == 32
    assert load_memory(out / "walk.memory.safetensors").header.num_chunks == 3


@pytest.mark.parametrize(
    ("frames", "actions", "message"),
    [
        (23, "turn left\n" * 3, "has 23 frames; to be shown it needs 8 and then a multiple of 8"),
        (24, "turn left\n" * 2, "has 2 actions, but .* takes 2 of them; add those of the chunks"),
    ],
)
def test_a_shown_video_that_does_not_fit_is_refused(
    demo, tmp_path, capsys, frames, actions, message
):
    shown = film(tmp_path / "walk.mp4", frames)
    (tmp_path / "a.txt").write_text(actions)
    given = [f"--model={demo.model}", f"--shown={shown}", f"--actions={tmp_path / 'a.txt'}"]
    said = refused(capsys, "rollout", f"--out={tmp_path / 'out'}", *given, *QUICK)
    assert re.search(message, said)
