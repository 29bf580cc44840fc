"""What SLURM's commands and a site's wrappers of them may print, and what must not follow from it."""

import json
import subprocess

import pytest

from experiments import submit
from experiments.cluster import slurm
from experiments.cluster.script import Resources, render
from experiments.cluster.site import Site, load_site

BANNER = "-----\n  Welcome to the Example3 Supercomputer\n--> Checking allocation (AB-123)...OK\n"


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Stand-ins of SLURM's commands: what each does, in bash."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def put(**commands):
        for name in ("sbatch", "squeue", "scancel"):
            text = commands.get(name, "echo unexpected >&2; exit 1")
            (folder / name).write_text(f"#!/bin/bash\n{text}\n")
            (folder / name).chmod(0o755)

    return put


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "job.sh").write_text("")
    return folder


@pytest.mark.parametrize(
    ("printed", "job"),
    [
        ("7", "7"), (f"{BANNER}7", "7"), ("7;far", "7;far"), (f"{BANNER}7;far-1.x\n", "7;far-1.x"),
        ("Submitted batch job 7", "7"), ("Submitted batch job 7 on cluster far", "7;far"),
    ],
)  # fmt: skip
def test_the_job_is_found_behind_a_banner_and_on_another_cluster(tools, run, printed, job):
    asked = "--clusters=" + job.partition(";")[2] if ";" in job else "--jobs=7"
    tools(
        sbatch=f"echo 'sbatch: warning: you have 3 hours left' >&2; echo '{printed}'",
        squeue=f'[[ " $* " == *" {asked} "* && " $* " == *" --jobs=7 "* ]] || exit 1\n'
        "echo 'squeue: warning' >&2; echo 'CLUSTER: far'; echo '7 RUNNING'",
    )
    assert submit.submit(run / "job.sh") == job == submit.job_of(run)
    with pytest.raises(FileExistsError, match="job 7 of this folder is still there") as error:
        submit.refuse_alive(run)
    assert ("scancel --clusters=" in str(error.value)) == (";" in job)


@pytest.mark.parametrize(
    "sbatch",
    [
        "echo Welcome", "echo 2026; echo 7", "true", "echo 7_1", "echo 'job: 7'",
        "echo 'error: Socket timed out on send/recv operation' >&2; exit 1",
    ],
)  # fmt: skip
def test_a_job_that_is_not_known_is_not_a_job_that_is_dead(tools, run, sbatch):
    tools(sbatch=sbatch)
    with pytest.raises(slurm.SlurmError, match="squeue --me"):
        submit.submit(run / "job.sh")
    with pytest.raises(ValueError, match=r"names no job's id .* remove .*job\.json"):
        submit.refuse_alive(run)


@pytest.mark.parametrize("before", [None, "3"])
def test_a_refusal_of_sbatch_leaves_what_was_known(tools, run, before):
    tools(sbatch="echo 'sbatch: error: invalid partition specified: x' >&2; exit 1")
    if before:
        (run / "job.json").write_text(json.dumps({"id": before}))
    with pytest.raises(slurm.NotSubmitted, match="invalid partition"):
        submit.submit(run / "job.sh")
    assert submit.job_of(run) == before


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"id": 7}', '{"id": "Welcome"}', '{"id": "7; x"}']
)
def test_a_damaged_note_of_the_job_closes_the_folder(tools, run, text):
    (run / "job.json").write_text(text)
    with pytest.raises(ValueError, match=r"job\.json"):
        submit.refuse_alive(run)


FORGOTTEN = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"


@pytest.mark.parametrize(
    ("squeue", "states"),
    [
        ("echo '7 RUNNING'", {"": "RUNNING"}),
        (f"printf '{BANNER}'; echo '  7 PENDING '", {"": "PENDING"}),
        ("echo 7_0 RUNNING; echo 7_12 COMPLETED; echo 71_3 FAILED", {"0": "RUNNING", "12": "COMPLETED"}),
        ("echo 7+0 RUNNING", {"": "RUNNING"}),
        (FORGOTTEN, {}),
        ("true", {}),
        ("echo 'CLUSTER: far'", {}),
        ("echo Welcome", None),
        ("echo 'error: cannot reach the controller' >&2", None),
        ("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1", None),
    ],
)  # fmt: skip
def test_states_are_read_or_not_understood(tools, squeue, states):
    tools(squeue=squeue)
    if states is None:
        with pytest.raises(slurm.SlurmError):
            slurm.states("7")
    else:
        assert slurm.states("7") == states


def test_a_filter_of_the_user_hides_no_job(tools, monkeypatch):
    monkeypatch.setenv("SQUEUE_USERS", "nobody")
    tools(squeue='[ -n "$SQUEUE_USERS" ] || echo 7 RUNNING')
    assert slurm.alive("7")


def script(tmp_path, site, command="print('TRAINED', dict(__import__('os').environ))"):
    text = render("x", ["-c", command], site, Resources())
    (tmp_path / "job.sh").write_text(text)
    environment = {"PATH": "/usr/bin:/bin", "USER": "me", "BASH_FUNC_module%%": MODULE}
    return subprocess.run(
        ["bash", str(tmp_path / "job.sh")], capture_output=True, text=True, env=environment
    )


MODULE = '() { case $2 in good*) return 0;; esac; echo "unknown module $2" >&2; return 1; }'


@pytest.mark.parametrize(
    "modules", [["good/1"], ["good/1", "bad"], ["bad", "good/1"], ["a'; echo b"]]
)
def test_a_module_that_cannot_be_loaded_ends_the_job(tmp_path, modules):
    done = script(tmp_path, Site(modules=modules))
    good = modules == ["good/1"]
    assert ("TRAINED" in done.stdout) == good == (done.returncode == 0)
    assert good or "failed: see modules in the site's file" in done.stderr


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("/scratch/$USER", "/scratch/me"), ("${USER}/a b", "me/a b"), ("/x:$NOTHING", "/x:"),
        ("$$USER", "$USER"), ("$(id)", "$(id)"), ("`id`", "`id`"), ("a; id", "a; id"), ("$5 $", "$5 $"),
        ("${USER:-$(id)}", "${USER:-$(id)}"), ("\"'\\", "\"'\\"), ("", ""), ("$USER$USER", "meme"),
        ("${USER", "${USER"), ("a\nid", "a\nid"), ("*", "*"), ("~", "~"), ("$USERS", ""), ("!x", "!x"),
        ("$((1+1))", "$((1+1))"), ("$'a'", "$'a'"), ("\\$USER", "\\me"),
    ],
)  # fmt: skip
def test_names_alone_are_the_shell_s_in_the_environment(tmp_path, written, meant):
    (tmp_path / "site.yaml").write_text(json.dumps({"environment": {"X": written}}))
    site = load_site(tmp_path / "site.yaml")
    assert site.environment == {"X": written}
    done = script(tmp_path, site, "print(repr(__import__('os').environ['X']))")
    assert (done.stdout, done.stderr) == (f"{meant!r}\n", "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("environment: {'A; id': x}", "no name of a variable"),
        ("environment: {A: null}", "environment"),
        ("environment: {A: [1]}", "A is [1]"),
        ("environment: {A: {b: c}}", "A is {'b': 'c'}"),
        ("modules: {a: b}", "Cannot merge"),
        ("account: [1]", "account"),
        ("cpus_per_task: ${X}", "cpus_per_task"),
        ("- 1", "holds list"),
        ("qeue: 1", "no setting 'qeue'"),
    ],
)
def test_a_wrong_site_names_file_and_setting(tmp_path, text, said):
    path = tmp_path / "site.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"site\.yaml") as error:
        load_site(path)
    assert said in str(error.value)


def test_an_option_of_sbatch_is_one_line():
    with pytest.raises(ValueError, match="one line"):
        render("x", [], Site(account="a\nid"), Resources())


def test_shell_lines_of_a_site_keep_their_variables(tmp_path):
    (tmp_path / "site.yaml").write_text(
        "setup: ['A=${USER:-x}', 'B=$A']\ncontainer: run ${IMAGE}\n"
    )
    site = load_site(tmp_path / "site.yaml")
    assert (site.setup, site.container) == (["A=${USER:-x}", "B=$A"], "run ${IMAGE}")
