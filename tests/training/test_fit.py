import json
import signal
from pathlib import Path

import pytest
import torch
import yaml

from sfv.cli import main
from sfv.models.autoencoder import PCAPatchCodec
from sfv.models.world_model import WorldModel
from sfv.rng import seed_of
from sfv.training.fit import parse
from sfv.training.slow import SlowLearner
from tests.training.make import make_data, same

CONFIGS = Path(__file__).parents[2] / "experiments" / "configs"
TINY = CONFIGS / "doom" / "tiny.yaml"
FIT_CONFIGS = [  # those of paper/ need pretrained weights: tests/training/test_paper.py
    p
    for p in sorted(CONFIGS.rglob("*.yaml"))
    if p.read_text().startswith("# sfv fit --config") and p.parent.name != "paper"
]
SECRET = f"token-{seed_of(0, 'secret'):x}"  # made here, so that it stands in no source file
SLOW_FAST = CONFIGS / "doom" / "tiny_slow_fast.yaml"


def flags(data, config=TINY):
    """A shipped config with the paths of small data."""
    return [
        f"--config={config}",
        f"--model.codec.init_args.file={data.codec}",
        f"--data.train={data.train}",
        f"--data.val={data.val}",
    ]


def short(out, steps=2):
    """What makes a run of seconds of it."""
    return [
        f"--out={out}",
        f"--trainer.max_steps={steps}",
        "--checkpoint_every=1",
        "--trainer.val_check_interval=1",
        "--trainer.limit_val_batches=1",
        "--trainer.num_sanity_val_steps=0",
        "--trainer.enable_progress_bar=false",
        "--data.batch_size=1",
    ]


@pytest.fixture(scope="module")
def run(config_data, tmp_path_factory):
    """A finished run of two steps."""
    out = tmp_path_factory.mktemp("fit") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SFV_TEST_SECRET", SECRET)
        assert main(["fit", *flags(config_data), *short(out)]) == 0
    return out


def refused(capsys, *arguments):
    """Run `sfv fit`, which must fail, and return what it says."""
    capsys.readouterr()
    try:
        code = main(["fit", *arguments])
    except SystemExit as exit_:  # jsonargparse leaves this way
        code = exit_.code
    assert code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("config", FIT_CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_constructs(config, config_data, tmp_path):
    content = yaml.safe_load(config.read_text())
    channels = content["model"]["denoiser"]["init_args"].get("latent_channels", 16)
    data = config_data
    if channels != 16:
        data = make_data(tmp_path / "data", channels, 8, (2, 4), 8)
    arguments = flags(data, config)
    assert content["seed_everything"] == 0
    if "init_from" in content["model"]:
        first = parse([*arguments, "--model.init_from=null"])
        first.model.world_model.save(tmp_path / "model")
        arguments.append(f"--model.init_from={tmp_path / 'model'}")
    cli = parse(arguments)
    header = config.read_text().splitlines()[0]
    assert header == f"# sfv fit --config {config.relative_to(CONFIGS.parents[1])}"
    assert (cli.datamodule.mode == "episodes") == (cli.config_init.slow_fast is not None)
    assert next(iter(cli.datamodule.train_dataloader()))


def test_a_flag_reaches_model_and_data(config_data):
    cli = parse([*flags(config_data), "--model.num_context=6", "--seed_everything=5"])
    assert (cli.model.num_context, cli.datamodule.num_context) == (6, 6)
    assert cli.model.world_model.num_context == 6
    batch = next(iter(cli.datamodule.train_dataloader()))
    assert batch["latents"].shape == (4, 16, 6 + 8, 2, 4)
    assert (cli.model.seed, cli.datamodule.seed) == (5, 5)


def test_numbers_of_the_trainer_follow_its_flag(config_data):
    cli = parse([*flags(config_data), "--trainer.max_steps=77"])
    assert cli.config.model.lr_scheduler.init_args.total_steps == 77
    optimizer = cli.model.configure_optimizers()
    assert optimizer["lr_scheduler"]["scheduler"].total_steps == 77
    assert optimizer["lr_scheduler"]["interval"] == "step"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data.batchsize=2"], ["data.batchsize"]),
        (["--data.batch_size=two"], ["data.batch_size", "two", "int"]),
        (["--trainer.max_steps=2.5"], ["trainer.max_steps", "2.5", "int"]),
        (["--checkpoint_every=0"], ["checkpoint_every", "0", ">0"]),
        (["--model.text_dropout=2"], ["text_dropout is 2", "allowed: 0 to 1"]),
        (["--slow_fast.precision=16"], ["precision", "32", "bf16"]),
        (["--slow_fast.episodes_per_group=0"], ["episodes_per_group >= 1"]),
        (["--model.schedule.prediction_type=x"], ["prediction_type", "v_prediction"]),
    ],
)
def test_a_typo_or_a_wrong_type_says_what_is_allowed(config_data, capsys, arguments, said):
    message = refused(capsys, *flags(config_data), *arguments)
    for words in said:
        assert words in message


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("batch_size: 4", "batchsize: 4", ["batchsize"]),
        ("num_context: 8", "num_context: eight", ["num_context", "eight", "int"]),
        ("preset: tiny", "preset: tinny", ["preset", "tiny", "small", "modelscope"]),
        ("training.ema.EMA", "training.ema.EMU", ["training.ema.EMU"]),
    ],
)
def test_a_typo_inside_the_file_says_what_is_allowed(config_data, capsys, tmp_path, old, new, said):
    text = TINY.read_text()
    assert old in text
    (tmp_path / "mine.yaml").write_text(text.replace(old, new))
    message = refused(capsys, *flags(config_data, tmp_path / "mine.yaml"))
    for words in said:
        assert words in message


def test_a_run_folder_holds_what_is_needed_to_go_on_and_to_repeat(run, config_data):
    for name in ("environment.json", "git.txt", "git.diff", "checkpoints/newest.ckpt"):
        assert (run / name).is_file(), name
    assert list((run / "tensorboard").glob("events*"))
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["trainer"]["max_steps"] == 2
    assert config["model"]["lr_scheduler"]["init_args"]["total_steps"] == 2
    assert config["data"]["num_context"] == 8, "what was linked is written out"
    world = WorldModel.load(run / "model")
    assert world.codec.fingerprint() == PCAPatchCodec.load(config_data.codec).fingerprint()
    assert world.schedule.prediction_type == "v_prediction"
    state = torch.load(run / "checkpoints" / "newest.ckpt", weights_only=True)
    assert state["global_step"] == 2


def test_environment_json_holds_no_environment_variable(run):
    written = json.loads((run / "environment.json").read_text())
    assert written.keys() == {"sfv", "python", "platform", "command", "packages"}
    assert written["packages"]["torch"].startswith(torch.__version__.split("+")[0])
    for path in run.rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes()


class Steps:
    """Counts slow steps of a learner; interrupts before one of them as Ctrl-C would."""

    def __init__(self, monkeypatch):
        self.seen, self.cut = [], None
        begin = SlowLearner.on_train_batch_start

        def on_train_batch_start(learner, batch, batch_idx):
            if learner.global_step == self.cut:
                raise KeyboardInterrupt
            self.seen.append(learner.global_step)
            begin(learner, batch, batch_idx)

        monkeypatch.setattr(SlowLearner, "on_train_batch_start", on_train_batch_start)


@pytest.fixture
def steps(monkeypatch):
    handler = signal.getsignal(signal.SIGINT)
    yield Steps(monkeypatch)
    signal.signal(signal.SIGINT, handler)  # Lightning ignores Ctrl-C while it shuts down


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_a_finished_one_stays(config_data, tmp_path, capsys, steps):
    out = tmp_path / "run"
    command = ["fit", *flags(config_data), *short(out, 3)]
    steps.cut = 2
    assert main(command) == 130
    assert "sfv fit: interrupted; run the same command again to go on" in capsys.readouterr().err
    assert steps.seen == [0, 1]
    assert not (out / "model").exists()
    steps.cut = None
    assert main(command) == 0
    assert steps.seen == [0, 1, 2]
    finished = WorldModel.load(out / "model").denoiser.state_dict()
    assert main(command) == 0
    assert steps.seen == [0, 1, 2]
    assert same(WorldModel.load(out / "model").denoiser.state_dict(), finished)


def test_the_model_of_a_run_holds_the_averaged_weights(run):
    state = torch.load(run / "checkpoints" / "newest.ckpt", weights_only=True)
    saved = WorldModel.load(run / "model").denoiser.state_dict()
    averaged = {name: state["averaged_state"][f"denoiser.{name}"] for name in saved}
    current = {name: state["state_dict"][f"denoiser.{name}"] for name in saved}
    assert same(saved, averaged)
    assert not same(saved, current)


def test_other_settings_in_the_folder_of_a_run_are_refused(run, config_data, capsys):
    before = (run / "config.yaml").read_bytes()
    message = refused(capsys, *flags(config_data), *short(run), "--model.text_dropout=0.2")
    assert "belongs to another run" in message
    assert "`text_dropout: 0.1` there, `text_dropout: 0.2` now" in message
    assert "Give another --out" in message
    assert (run / "config.yaml").read_bytes() == before


def test_a_folder_that_is_no_run_is_refused(config_data, tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    message = refused(capsys, *flags(config_data), *short(tmp_path))
    assert "holds thesis.tex, which is not a run folder (no config.yaml in it)" in message
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_latents_of_another_codec_are_refused_and_both_are_named(config_data, tmp_path, capsys):
    other = make_data(tmp_path / "other", 16, 8, (2, 4), 8, seed=1)
    message = refused(capsys, *flags(config_data), f"--data.train={other.train}")
    for codec in (other.codec, config_data.codec):
        assert repr(PCAPatchCodec.load(codec).fingerprint()) in message
    assert "give the codec file of then, or encode the shards again" in message


def test_a_missing_folder_of_shards_is_named(config_data, tmp_path, capsys):
    message = refused(capsys, *flags(config_data), f"--data.train={tmp_path / 'nowhere'}")
    assert f"{tmp_path / 'nowhere'}: no index.json there, so no shards" in message
    message = refused(capsys, *flags(config_data), f"--data.train={config_data.folder}")
    assert "did you mean one of its folders ['train', 'val']?" in message


def test_a_window_longer_than_the_episodes_is_refused(config_data, tmp_path, capsys):
    out = tmp_path / "run"
    message = refused(capsys, *flags(config_data), *short(out), "--model.num_context=25")
    assert "train: no window of [(25, 8)] [num_context, num_generated] frames" in message
    message = refused(capsys, *flags(config_data), *short(out), "--model.num_generated=9")
    assert "no window of [(8, 9)]" in message and "lower them, or collect longer" in message
    assert not out.exists(), "known before anything is written"


@pytest.mark.slow
def test_the_slow_fast_loop_starts_from_a_trained_model(run, config_data, tmp_path):
    out = tmp_path / "run"
    arguments = [*flags(config_data, SLOW_FAST), *short(out), f"--model.init_from={run / 'model'}"]
    quick = ["--slow_fast.fast.num_steps=1", "--slow_fast.max_chunks=1", "--slow_fast.lora.r=2"]
    assert main(["fit", *arguments, *quick, "--trainer.check_val_every_n_epoch=null"]) == 0
    before, after = (
        WorldModel.load(folder / "model").denoiser.state_dict() for folder in (run, out)
    )
    assert before.keys() == after.keys()
    moved = [float((after[name] - before[name]).abs().max()) for name in before]
    assert 0 < max(moved) < 1e-3, "two small steps away from where it started"
    state = torch.load(out / "checkpoints" / "newest.ckpt", weights_only=True)
    assert state["global_step"] == 2
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["data"]["mode"] == "episodes"
    assert config["slow_fast"]["fast"]["num_steps"] == 1
