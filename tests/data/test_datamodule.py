from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from sfv.data.datamodule import EpisodeDataModule
from sfv.data.episodes import episodes
from sfv.data.index import ShardError
from sfv.data.shards import write_shards
from sfv.data.windows import WindowError
from tests.data.make import CHUNK, TEXTS, latents_sample, make_latents, make_video, video_sample

NUM_EPISODES, NUM_CHUNKS = 7, 4
NUM_WINDOWS = NUM_EPISODES * (NUM_CHUNKS - 1)


@pytest.fixture(scope="session")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("latents")
    samples = [
        latents_sample(f"e-{i:03d}", NUM_CHUNKS, number=float(i)) for i in range(NUM_EPISODES)
    ]
    write_shards(samples, folder / "train", "train", 2 * len(samples[0].payload))
    val = [latents_sample("v-000", 3, split="val"), latents_sample("v-001", 4, split="val")]
    write_shards(val, folder / "val", "val")
    return folder


def data(latents: Path, **changes: object) -> EpisodeDataModule:
    settings = {"num_context": CHUNK, "num_generated": CHUNK, "batch_size": 5} | changes
    settings = {"train": str(latents / "train"), "val": str(latents / "val")} | settings
    return EpisodeDataModule(**settings)


def keys(module: EpisodeDataModule, num_batches: int) -> list[str]:
    """Keys of the next batches, epoch after epoch."""
    stream = module.train_dataloader()
    given: list[dict] = []
    while len(given) < num_batches:
        given += islice(stream, num_batches - len(given))
    return [key for batch in given for key in batch["keys"]]


def test_one_pass_holds_every_window_once(latents: Path) -> None:
    batches = list(data(latents).train_dataloader())
    assert [len(batch["keys"]) for batch in batches] == [5, 5, 5, 5, 1]
    counts = Counter(key for batch in batches for key in batch["keys"])
    assert len(counts) == NUM_WINDOWS and set(counts.values()) == {1}


def test_latents_belong_to_their_key_and_action(latents: Path) -> None:
    batch = next(iter(data(latents).train_dataloader()))
    for frames, key in zip(batch["latents"], batch["keys"], strict=True):
        episode, start = int(key[2:5]), int(key[-5:])
        whole = make_latents(float(episode), NUM_CHUNKS * CHUNK)
        assert torch.equal(frames, whole[:, start - CHUNK : start + CHUNK])


def test_the_seed_alone_decides_the_order(latents: Path) -> None:
    first = keys(data(latents, seed=3), 12)
    torch.manual_seed(99)
    assert keys(data(latents, seed=3), 12) == first
    assert keys(data(latents, seed=4), 12) != first


def test_the_global_generator_is_left_alone(latents: Path) -> None:
    before = torch.random.get_rng_state()
    module = data(latents)
    keys(module, 3)
    list(module.val_dataloader())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_each_pass_has_another_order(latents: Path) -> None:
    given = keys(data(latents, batch_size=NUM_WINDOWS), 3)
    passes = [given[i : i + NUM_WINDOWS] for i in range(0, 3 * NUM_WINDOWS, NUM_WINDOWS)]
    assert passes[0] != passes[1] != passes[2]
    assert sorted(passes[0]) == sorted(passes[1]) == sorted(passes[2])


def test_a_second_loop_over_the_loader_goes_on_with_another_order(latents: Path) -> None:
    loader = data(latents).train_dataloader()
    first, second = ([k for b in loader for k in b["keys"]] for _ in range(2))
    assert first != second and sorted(first) == sorted(second)


def test_a_buffer_of_one_keeps_the_stored_order(latents: Path) -> None:
    given = keys(data(latents, shuffle_buffer=1), 5)
    assert given == sorted(given) and len(given) == NUM_WINDOWS


def test_the_cache_changes_no_batch(latents: Path) -> None:
    assert keys(data(latents, cache_mb=0), 9) == keys(data(latents, cache_mb=100), 9)


@pytest.mark.slow
def test_loader_processes_deliver_every_window_once(latents: Path) -> None:
    module = data(latents, num_workers=2)
    counts = Counter(key for batch in module.train_dataloader() for key in batch["keys"])
    assert len(counts) == NUM_WINDOWS and set(counts.values()) == {1}


def test_validation_runs_in_stored_order(latents: Path) -> None:
    given = [key for batch in data(latents).val_dataloader() for key in batch["keys"]]
    assert given == [
        f"v-000/{CHUNK:05d}", f"v-000/{2 * CHUNK:05d}",
        *(f"v-001/{i * CHUNK:05d}" for i in (1, 2, 3)),
    ]  # fmt: skip
    assert data(latents, val=None).val_dataloader() == []


def test_a_trainer_takes_the_loaders(latents: Path, tmp_path: Path) -> None:
    class Count(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))
            self.seen: list[str] = []
            self.validated = 0

        def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
            self.seen += batch["keys"]
            return (batch["latents"] * self.weight).mean()

        def validation_step(self, batch: dict, batch_idx: int) -> None:
            self.validated += len(batch["keys"])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    module = Count()
    trainer = pl.Trainer(
        max_steps=11, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        val_check_interval=11, num_sanity_val_steps=0, check_val_every_n_epoch=None,
    )  # fmt: skip
    trainer.fit(module, datamodule=data(latents))
    assert module.seen == keys(data(latents), 11)
    assert module.validated == 5


def test_another_codec_is_refused(latents: Path) -> None:
    with pytest.raises(ShardError, match="made by codec 'c0de', in use is codec 'beef'"):
        data(latents, codec_fingerprint="beef")
    assert data(latents, codec_fingerprint="c0de").codec_fingerprint == "c0de"


def test_video_shards_are_refused_for_training(tmp_path: Path) -> None:
    write_shards([video_sample()], tmp_path, "train")
    with pytest.raises(ShardError, match=r"hold video; .*python -m data_tools\.encode_latents"):
        EpisodeDataModule(str(tmp_path))


def test_numbers_that_mean_nothing_are_refused(latents: Path) -> None:
    with pytest.raises(ValueError, match="batch_size is 0; it has to be at least 1"):
        data(latents, batch_size=0)


def test_episodes_gives_whole_latents(latents: Path) -> None:
    given = list(episodes(latents / "train", limit=3))
    assert [meta.id for meta, _ in given] == ["e-000", "e-001", "e-002"]
    assert torch.equal(given[2][1], make_latents(2.0, NUM_CHUNKS * CHUNK))


def test_episodes_gives_video_between_0_and_1(tmp_path: Path) -> None:
    write_shards([video_sample("a")], tmp_path, "train")
    ((_, video),) = episodes(tmp_path)
    expected = np.moveaxis(make_video("a", 12), 3, 1).astype(np.float32) / 255
    assert torch.equal(video, torch.from_numpy(expected))


def test_episode_mode_gives_each_episode_once_an_epoch(latents: Path) -> None:
    stream = data(latents, mode="episodes", seed=5).train_dataloader()
    given = [list(stream), list(stream)]
    first, second = ([episode["key"] for episode in part] for part in given)
    assert sorted(first) == sorted(second) == [f"e-{i:03d}" for i in range(NUM_EPISODES)]
    assert first != second
    for episode in given[0][:2]:
        whole = make_latents(float(episode["key"][2:]), NUM_CHUNKS * CHUNK)
        expected = [whole[:, i * CHUNK : (i + 2) * CHUNK] for i in range(NUM_CHUNKS - 1)]
        assert torch.equal(episode["pairs"], torch.stack(expected))
        assert episode["actions"] == list(TEXTS[1:NUM_CHUNKS])


def test_an_image_can_be_the_context_of_a_first_chunk(latents: Path) -> None:
    buckets = [(CHUNK, CHUNK), (1, CHUNK - 1)]
    batches = list(data(latents, buckets=buckets).train_dataloader())
    first = [batch for batch in batches if batch["num_context"] == 1]
    assert all(batch["latents"].shape[2] == CHUNK for batch in first)
    assert {key[-5:] for batch in first for key in batch["keys"]} == {"00001"}
    assert sum(len(batch["keys"]) for batch in first) == NUM_EPISODES
    assert sum(len(batch["keys"]) for batch in batches) == NUM_EPISODES + NUM_WINDOWS


def test_a_window_that_fits_nowhere_is_an_error_at_once(latents: Path) -> None:
    with pytest.raises(WindowError, match=r"train: no window of \[\(99, 3\)\] .*--chunks"):
        data(latents, num_context=99)


def test_several_folders_are_one_stream(latents: Path, tmp_path: Path) -> None:
    write_shards([latents_sample("z-000", NUM_CHUNKS, number=50.0)], tmp_path, "train")
    given = keys(data(latents, train=[str(latents / "train"), str(tmp_path)]), 4)
    assert len(set(given)) == 20 and any(key.startswith("z-") for key in given)
    with pytest.raises(ShardError, match="needs one split and one codec"):
        data(latents, train=[str(latents / "train"), str(latents / "val")])
