import json

import pytest

from sfv.cli import main
from tests.cluster.conftest import TINY
from tests.cluster.lab import wait_for


def attempts(runs, name):
    """What each start of a run noted about itself."""
    return [json.loads(p.read_text()) for p in sorted((runs.out(name) / "attempts").iterdir())]


@pytest.mark.slow
def test_preempted_warned_and_lost_with_its_node_a_run_ends_as_if_nothing_had_been(
    lab, runs, submitted
):
    name = "an 'odd' näme"
    runs.gate(name, "train-1-0", "stop")
    runs.gate(name, "val-4-0", "requeue")
    runs.gate(name, "train-6-0", "stop")
    job = submitted(runs.command(name, 7, checkpoint_every=1))

    runs.reached(name, "train-1-0")
    wrap = ["--partition=high", "--nodes=2", "--exclusive", "--wrap=true", "--output=/dev/null"]
    lab.run("sbatch", *wrap)
    wait_for("pre-emption", lambda: not (runs.probed(name) / "gates" / "train-1-0").exists())

    runs.reached(name, "val-4-0")
    lab.run("timeout", "2", "scancel", "--signal=USR1", f"{job}.0", check=False)

    runs.reached(name, "train-6-0")
    node = attempts(runs, name)[-1]["host"]
    lab.kill_node(node)
    (runs.probed(name) / "gates" / "train-6-0").unlink()
    lab.mark_down(node)
    state = lab.wait(job)
    lab.restore(node)

    log = next(runs.out(name).glob("slurm-*.out")).read_text()
    assert state == "COMPLETED", log
    assert [a["restarts"] for a in attempts(runs, name)] == [0, 1, 2, 3], log
    assert (runs.out(name) / "model").exists()
    alone = ["fit", f"--config={TINY}", f"--out={runs.out('alone')}"]
    assert main([*alone, *runs.flags("alone", 7)]) == 0
    assert runs.losses(name) == runs.losses("alone")


@pytest.mark.slow
def test_a_job_is_warned_by_slurm_itself_before_its_time_is_up(lab, runs, submitted):
    """SLURM looks for jobs to warn every 30 s: with 60 s of 60 it does within the first 30."""
    runs.gate("short", "train-0-0", "requeue")
    command = runs.command("short", 5, "--time=1:00", **{"trainer.val_check_interval": 9})
    runs.site(warn_s=60)
    job = submitted(command)
    runs.reached("short", "train-0-0")
    wait_for("requeue", lambda: lab.state(job) == "PENDING")
    lab.run("scancel", job)
    log = (runs.out("short") / f"slurm-{job}.out").read_text()
    assert "saved slow step 1;" in log
