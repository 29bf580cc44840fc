import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from experiments import submit
from tests.cluster.lab import Lab, missing, wait_for
from tests.training.make import Data, make_data

ROOT = Path(__file__).parents[2]
TINY = ROOT / "experiments" / "configs" / "doom" / "tiny.yaml"


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    reason = missing()
    if reason and (os.environ.get("CI") or (os.geteuid() == 0 and shutil.which("apt-get"))):
        pytest.fail(f"no SLURM: {reason}")
    if reason:
        pytest.skip(reason)
    lab = Lab()
    try:
        lab.up()
        yield lab
    finally:
        lab.down()


@pytest.fixture(autouse=True)
def on_the_login_node(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.chdir(ROOT)
    for name in [n for n in os.environ if n.startswith(("SLURM_", "SBATCH_"))]:
        monkeypatch.delenv(name)
    if "lab" in request.fixturenames:
        environment = request.getfixturevalue("lab").environment
        for name in ("PATH", "SLURM_CONF"):
            monkeypatch.setenv(name, environment[name])


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return make_data(tmp_path_factory.mktemp("cluster") / "data", 16, 8, (2, 4), 8)


@dataclass(frozen=True)
class Runs:
    """Submits tiny runs; `probed` is where their probes write."""

    folder: Path
    data: Data

    def flags(self, name: str, steps: int, **changes: object) -> list[str]:
        """Flags of `sfv fit` for a run of seconds."""
        settings = {
            "model.codec.init_args.file": self.data.codec,
            "data.train": self.data.train,
            "data.val": self.data.val,
            "data.batch_size": 1,
            "checkpoint_every": 100,
            "trainer.precision": 32,
            "trainer.max_steps": steps,
            "trainer.val_check_interval": 2,
            "trainer.limit_val_batches": 1,
            "trainer.num_sanity_val_steps": 0,
            "trainer.log_every_n_steps": 1,
            "trainer.enable_progress_bar": "false",
            "trainer.callbacks+": "tests.cluster.probe.Probe",
            **changes,
        }
        return [f"--{key}={value}" for key, value in settings.items()]

    def probed(self, name: str) -> Path:
        return self.folder / f"{name} probed"

    def out(self, name: str) -> Path:
        return self.folder / name

    def gate(self, name: str, place: str, asked: str) -> None:
        gates = self.probed(name) / "gates"
        gates.mkdir(parents=True, exist_ok=True)
        (gates / place).write_text(asked)

    def reached(self, name: str, place: str) -> None:
        """Wait until the run stands at a gate."""
        wait_for(place, (self.probed(name) / "gates" / f"{place}.reached").exists)

    def losses(self, name: str, rank: int = 0) -> list[str]:
        return (self.probed(name) / f"losses-{rank}").read_text().splitlines()

    def site(self, **changes: object) -> Path:
        """What the virtual nodes want: names that resolve, one thread a process."""
        path = self.folder / "site.yaml"
        environment = {
            "MASTER_ADDR": "127.0.0.1",
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
        }
        settings = {"cpus_per_task": 1, "environment": environment, **changes}
        path.write_text(yaml.safe_dump(settings))
        return path

    def command(self, name: str, steps: int, *options: str, **changes: object) -> list[str]:
        config = ["--config", str(TINY), "--out", str(self.out(name)), "--site", str(self.site())]
        return [*config, *options, "--", *self.flags(name, steps, **changes)]


@pytest.fixture
def runs(tmp_path: Path, data: Data) -> Runs:
    return Runs(tmp_path, data)


@pytest.fixture
def submitted(capsys: pytest.CaptureFixture[str]):
    """Submit and return the job's id."""

    def run(command: list[str]) -> str:
        capsys.readouterr()
        code = submit.main(command)
        printed = capsys.readouterr()
        assert code == 0, printed.err
        return next(line.split()[1] for line in printed.out.splitlines() if line.startswith("job "))

    return run
