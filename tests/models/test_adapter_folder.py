"""Adapters of PEFT's own making: imported as PEFT computes them, or refused."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from sfv.backbones.video_unet import VideoUNet
from sfv.fast.temporal_lora import TemporalLoRA
from sfv.models.adapter_folder import CONFIG, WEIGHTS, check_layers, moves_nothing, read_adapter
from sfv.rng import stream


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    VideoUNet("tiny", 4, 12).save(folder / "unet")
    return folder


def base(folder):
    return VideoUNet.from_diffusers(folder).eval()


def write(folder, out, targets="temporal", trained=True, **options):
    """What PEFT saves of an adapter with these options, after some training."""
    denoiser = base(folder)
    names = [name.removeprefix("unet.") for name in denoiser.fast_layers(targets)]
    given = {"r": 4, "lora_alpha": 6, "target_modules": names, **options}
    model = get_peft_model(denoiser.unet, LoraConfig(**given))
    generator = stream(0, "adapter")
    for name, parameter in model.named_parameters():
        if trained and ".lora_" in name:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data += 0.1 * noise
    model.save_pretrained(out)
    return out


def outputs(folder, adapter, targets):
    """What PEFT and what we compute with an adapter."""
    latents = torch.randn(1, 4, 5, 4, 6, generator=stream(0, "latents"))
    timestep, text = torch.tensor([500]), torch.randn(1, 1, 12, generator=stream(0, "text"))
    ours, theirs = base(folder), PeftModel.from_pretrained(base(folder).unet, adapter).eval()
    state, r, alpha = read_adapter(adapter)
    check_layers(adapter, state, ours, targets)
    with torch.no_grad(), TemporalLoRA(ours, r, alpha, targets) as lora:
        plain = ours(latents, timestep, text, 3)
        with lora.use(lora.theta(state)[None]):
            found = ours(latents, timestep, text, 3)
        return found, theirs(latents, timestep, text).sample, plain


@pytest.mark.parametrize(
    ("targets", "options"),
    [
        ("temporal", {}),
        ("temporal", {"lora_alpha": 3, "lora_dropout": 0.3, "init_lora_weights": False}),
        ("temporal", {"init_lora_weights": "gaussian"}),
        ("temporal", {"init_lora_weights": "orthogonal"}),
        ("temporal", {"exclude_modules": ["conv_in"]}),
        ("attention", {}),
        ("all", {}),
    ],
)
def test_an_understood_adapter_computes_what_peft_does(folder, tmp_path, targets, options):
    found, theirs, plain = outputs(folder, write(folder, tmp_path, targets, **options), targets)
    assert not torch.allclose(theirs, plain, atol=1e-2)
    torch.testing.assert_close(found, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["pissa", "olora"])
def test_a_changed_base_is_refused_and_what_peft_converts_is_taken(folder, tmp_path, kind):
    adapter = write(folder, tmp_path / "a", init_lora_weights=kind)
    with pytest.raises(ValueError, match=rf"init_lora_weights is '{kind}'.*path_initial_model_for"):
        read_adapter(adapter)
    denoiser = base(folder)
    names = [name.removeprefix("unet.") for name in denoiser.fast_layers("temporal")]
    config = LoraConfig(r=4, lora_alpha=6, target_modules=names, init_lora_weights=kind)
    model = get_peft_model(denoiser.unet, config)
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "untrained")
    model.peft_config["default"].init_lora_weights = kind
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=stream(0, name))
    model.save_pretrained(
        tmp_path / "plain", path_initial_model_for_weight_conversion=str(tmp_path / "untrained")
    )
    found, theirs, _ = outputs(folder, tmp_path / "plain", "temporal")
    torch.testing.assert_close(found, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("use_dora", {"use_dora": True}),
        ("use_rslora", {"use_rslora": True}),
        ("rank_pattern", {"rank_pattern": {"to_q": 2}}),
        ("alpha_pattern", {"alpha_pattern": {"to_q": 2}}),
        ("bias", {"bias": "lora_only"}),
        ("lora_bias", {"lora_bias": True}),
        ("modules_to_save", {"modules_to_save": ["conv_out"]}),
        ("init_lora_weights", {"init_lora_weights": "mica"}),
        ("init_lora_weights", {"init_lora_weights": "pissa_niter_4"}),
    ],
)
def test_what_peft_computes_otherwise_is_refused(folder, tmp_path, field, options):
    with pytest.raises(
        ValueError, match=rf"adapter_config\.json: {field} is .*; allowed: |{field}"
    ):
        read_adapter(write(folder, tmp_path, **options))


@pytest.fixture(scope="module")
def plain(folder, tmp_path_factory):
    return write(folder, tmp_path_factory.mktemp("plain") / "adapter")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"init_lora_weights": "corda"}, "init_lora_weights is 'corda'"),
        ({"init_lora_weights": "lora_ga"}, "init_lora_weights is 'lora_ga'"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights is 'loftq'"),
        ({"init_lora_weights": ["x"]}, "init_lora_weights is"),
        ({"loftq_config": {"loftq_bits": 4}}, "loftq_config is"),
        ({"target_parameters": ["weight"]}, r"target_parameters is \['weight'\]; allowed: None"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is True; allowed: False"),
        ({"layer_replication": [[0, 2]]}, "layer_replication is"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices is"),
        ({"of_next_year": False}, "of_next_year is False; allowed: none: this version of sfv does"),
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA'; allowed: 'LORA'"),
        ({"r": True}, "r is True; allowed: a whole number"),
        ({"r": 4.5}, "r is 4.5; allowed: a whole number"),
        ({"r": 2}, r"is \[4, .*, but adapter_config.json says r = 2"),
        ({"lora_alpha": "x"}, "lora_alpha is 'x'; allowed: a number"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan; allowed: a number"),
        ({"lora_alpha": 10**400}, "lora_alpha is"),
    ],
)
def test_a_changed_configuration_is_refused(plain, tmp_path, change, message):
    config = json.loads((plain / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps({**config, **change}))
    (tmp_path / WEIGHTS).write_bytes((plain / WEIGHTS).read_bytes())
    with pytest.raises(ValueError, match=message) as raised:
        read_adapter(tmp_path)
    assert "\n" not in str(raised.value)


def test_weights_that_are_none_are_refused(plain, tmp_path):
    (tmp_path / CONFIG).write_bytes((plain / CONFIG).read_bytes())
    with pytest.raises(FileNotFoundError, match=r"holds no adapter_model\.safetensors.*\.bin"):
        read_adapter(tmp_path)
    weights = load_file(plain / WEIGHTS)
    name = next(iter(weights))
    for change, message in (
        ({name: torch.full_like(weights[name], torch.inf)}, "are NaN or infinit"),
        ({"x.lora_magnitude_vector": torch.ones(3)}, "allowed: lora_A and lora_B weights alone"),
    ):
        save_file({**weights, **change}, tmp_path / WEIGHTS)
        with pytest.raises(ValueError, match=message):
            read_adapter(tmp_path)


def test_other_layers_are_named_with_the_targets_that_fit(folder, plain, tmp_path):
    state, _, _ = read_adapter(plain)
    with pytest.raises(ValueError, match=r"of targets 'all'; allowed: .*Give --targets temporal"):
        check_layers(plain, state, base(folder), "all")
    other = {"unet.none.lora_A.weight": torch.ones(4, 2)}
    with pytest.raises(ValueError, match=r"adapts 1 layers \(unet.none, ...\), 0 of which"):
        check_layers(plain, other, base(folder), "temporal")


def test_an_adapter_that_moves_nothing_is_known(folder, plain, tmp_path):
    state, _, alpha = read_adapter(plain)
    assert not moves_nothing(state, alpha) and moves_nothing(state, 0.0)
    assert moves_nothing(*read_adapter(write(folder, tmp_path, trained=False))[::2])
