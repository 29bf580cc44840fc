import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from data_tools.journal import Journal, JournalError
from data_tools.mapping import Results, map_shards
from data_tools.mapping_dask import slurm_cluster
from data_tools.work import Slurm, name_of
from tests.data_tools.jobs import double

ROOT = Path(__file__).parents[2]
BAD = {
    "crash": "crashed: Segmentation fault",
    "hang": "hung beyond the time limit",
    "kill": "killed its process (memory, lost node or a kill)",
    "raise": "raised ValueError",
    "skip": "not wanted",
    "object": "raised TypeError",
}


def run(folder: Path, items: dict[str, Any], **options: Any) -> Results:
    options = {"cluster": "none", "timeout_s": 30.0} | options
    settings = options.pop("settings", {}) | {"log": str(folder)}
    return map_shards(double, items, journal=folder / "journal", settings=settings, **options)


def process(
    folder: Path, cluster: str, resume: str, *values: object
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.data_tools.jobs", str(folder), cluster, resume]
    return subprocess.run(
        [*command, *map(str, values)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def done(folder: Path) -> Counter[str]:
    return Counter((folder / "done").read_text().split("\n")[:-1])


@pytest.fixture(scope="module")
def bad_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    """Two workers on good items among which every kind of bad one is strewn."""
    folder = tmp_path_factory.mktemp("bad")
    values = [*range(6), *BAD, "kill once", "raise once", *range(6, 20)]
    items = {f"item {value}": value for value in values}
    return folder, run(folder, items, cluster="local", workers=2, timeout_s=2.0, attempts=2)


@pytest.mark.slow
def test_bad_items_are_skipped_with_the_reason(bad_run: tuple[Path, Results]) -> None:
    _, results = bad_run
    assert {key: r.reason for key, r in results.skipped.items()} == {
        f"item {value}": reason for value, reason in BAD.items()
    }
    tries = {key.removeprefix("item "): r.attempts for key, r in results.skipped.items()}
    assert tries == dict.fromkeys(BAD, 2) | {"skip": 1}
    assert results.skipped["item raise"].detail == "no number at all"
    assert "jobs.py" in results.skipped["item hang"].detail


@pytest.mark.slow
def test_bad_items_cost_the_others_nothing(bad_run: tuple[Path, Results]) -> None:
    folder, results = bad_run
    assert {k: v for k, v in results.kept.items() if "once" not in k} == {
        f"item {value}": 2 * value for value in range(20)
    }
    assert done(folder) == Counter([*map(str, range(20)), "kill once", "raise once"])
    attempts = {r.key: r.attempts for r in results.records if r.kept}
    assert attempts.pop("item kill once") == attempts.pop("item raise once") == 2
    assert set(attempts.values()) == {1}


@pytest.mark.slow
def test_every_input_is_accounted_for(bad_run: tuple[Path, Results]) -> None:
    account = bad_run[1].account()
    assert account["inputs"] == {"given": 28, "kept": 22, "skipped": 6, "from before": 0}
    assert account["skipped"] == dict.fromkeys(sorted(BAD.values()), 1)


def test_an_error_that_was_noted_is_the_reason_though_its_worker_died_later(tmp_path: Path) -> None:
    lines = [
        {"key": "a", "attempt": 1, "start": "worker"},
        {"key": "a", "attempt": 1, "failed": "raised ValueError", "detail": "no number"},
        {"key": "b", "attempt": 1, "start": "worker"},
    ]
    with Journal(tmp_path, {}, resume=False) as journal:
        (tmp_path / "worker-x-1-f.trace").write_text("Timeout (0:00:02)!\nThread 1:\n  File 'x'\n")
        (tmp_path / "worker-x-1-f.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
        journal.refresh()
        assert journal.cause_of_end("a", 1) == ("raised ValueError", "no number")
        assert journal.cause_of_end("b", 1) == ("hung beyond the time limit", "File 'x'")
    with Journal(tmp_path, {}, resume=True) as journal:  # workers of an earlier driver
        assert journal.starts == {"a": [], "b": []} and journal.tried_here("b") == 0


@pytest.mark.slow
def test_a_killed_driver_loses_and_doubles_nothing(tmp_path: Path) -> None:
    values = [*range(10), "kill the driver once", *range(10, 40)]
    killed = process(tmp_path, "local", "new", *values)
    assert killed.returncode == -9
    for path in (tmp_path / "journal").glob("worker-*.jsonl"):
        pid = int(path.stem.split("-")[-2])
        if psutil.pid_exists(pid):
            psutil.Process(pid).wait(30)
    owner = json.loads((tmp_path / "journal" / "journal.json").read_text())
    with Journal(tmp_path / "journal", owner, resume=True) as journal:
        noted = {key: str(record.result // 2) for key, record in journal.ended.items()}
    assert 0 < len(noted) < 40
    items = {f"i{i:02d}": value for i, value in enumerate(values)}
    results = run(tmp_path, items, resume=True)  # in one process, which changes no result
    assert results.account()["inputs"] == {
        "given": 41, "kept": 41, "skipped": 0, "from before": len(noted),
    }  # fmt: skip
    counts = done(tmp_path)
    assert set(counts) == set(map(str, values))
    # Only what a worker had not noted yet when the driver died may be done again.
    assert all(counts[value] == 1 for value in noted.values())
    assert counts.total() <= len(values) + 2


def test_one_process_needs_no_dask(tmp_path: Path) -> None:
    account = json.loads(process(tmp_path, "none", "new", 3, "raise", "skip", 4).stdout)
    assert account["loaded"] == []
    assert account["skipped"] == {"not wanted": 1, "raised ValueError": 1}
    assert done(tmp_path) == Counter(["3", "4"])


@pytest.mark.parametrize("fault", ["crash", "hang"])
def test_in_one_process_a_fatal_item_is_skipped_after_three_starts(
    tmp_path: Path, fault: str
) -> None:
    assert process(tmp_path, "none", "new", 3, fault, 4).returncode != 0
    for _ in range(2):
        assert process(tmp_path, "none", "resume", 3, fault, 4).returncode != 0
    account = json.loads(process(tmp_path, "none", "resume", 3, fault, 4).stdout)
    assert account["skipped inputs"]["i01"]["reason"] == BAD[fault]
    assert account["skipped inputs"]["i01"]["attempts"] == 3
    assert done(tmp_path) == Counter(["3", "4"])


def test_one_process_says_which_item_hung(tmp_path: Path) -> None:
    ended = process(tmp_path, "none", "new", 3, "sleep")
    assert ended.returncode == 1
    assert "error: i01 hung beyond --timeout 1 s (attempt 1) and ends this command" in ended.stderr


def test_resume_does_only_what_is_left(tmp_path: Path) -> None:
    run(tmp_path, {"a": 1, "b": "raise", "c": 2})
    results = run(tmp_path, {"a": 1, "b": "raise", "c": 2, "d": 3}, resume=True)
    assert results.from_before == 3
    assert list(results.kept) == ["a", "c", "d"] and list(results.skipped) == ["b"]
    assert done(tmp_path) == Counter(["1", "2", "3"])


def test_an_interrupt_is_no_attempt(tmp_path: Path) -> None:
    for resume in (False, True, True, True):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, {"a": 1, "b": "interrupt", "c": 3}, resume=resume)
    assert done(tmp_path) == Counter(["1"])


def test_a_full_disk_stops_the_run_instead_of_skipping_all(tmp_path: Path) -> None:
    items: dict[str, Any] = {"a": 1, "b": "full", "c": 3}
    with pytest.raises(OSError, match="No space left"):
        run(tmp_path, items)
    results = run(tmp_path, items | {"b": 2}, resume=True)
    assert results.kept == {"a": 2, "b": 4, "c": 6}


def test_the_journal_of_another_run_is_refused(tmp_path: Path) -> None:
    run(tmp_path, {"a": 1}, settings={"size": {"height": 64}, "fps": 8})
    with pytest.raises(JournalError, match=r"settings\.fps: then 8, now 9; settings\.size\.height"):
        run(tmp_path, {"a": 1}, settings={"size": {"height": 32}, "fps": 9}, resume=True)
    with pytest.raises(JournalError, match="give --resume"):
        run(tmp_path, {"a": 1}, settings={"size": {"height": 64}, "fps": 8})


def test_two_runs_do_not_share_a_journal(tmp_path: Path) -> None:
    with Journal(tmp_path, {"a": 1}, resume=False), pytest.raises(JournalError, match="in use"):
        Journal(tmp_path, {"a": 1}, resume=True)


def test_a_half_written_line_is_work_not_done(tmp_path: Path) -> None:
    run(tmp_path, {"a": 1, "b": 2})
    (path,) = (tmp_path / "journal").glob("*.jsonl")
    path.write_bytes(path.read_bytes()[:-5])
    assert run(tmp_path, {"a": 1, "b": 2}, resume=True).from_before == 1
    assert done(tmp_path) == Counter(["1", "2", "2"])
    path.write_text("{}\n")
    with pytest.raises(JournalError, match=r"is damaged .* remove that file"):
        run(tmp_path, {"a": 1, "b": 2}, resume=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "--workers 0"),
        ({"attempts": 0}, "--attempts 0"),
        ({"timeout_s": 0.0}, "--timeout 0.0"),
        ({"cluster": "pbs"}, "'pbs': allowed are"),
    ],
)
def test_impossible_options_are_named(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(tmp_path, {"a": 1}, **options)


def test_a_nested_function_is_refused() -> None:
    with pytest.raises(ValueError, match="at the top level of a module"):
        name_of(lambda value, settings: value)


def test_missing_dask_gives_the_line_that_installs_it(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['distributed'] = None\n"
        "from data_tools import filter\n"
        "sys.exit(filter.main(sys.argv[1:]))"
    )
    (tmp_path / "in").mkdir()
    for suffix in ("json", "mp4"):
        (tmp_path / "in" / f"a.{suffix}").touch()
    command = [sys.executable, "-c", code, str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.strip().endswith(
        "error: more than one worker needs Dask, which is not installed; run: "
        "pip install 'sfv[data]' (or give --workers 1)"
    )


def test_a_slurm_job_asks_for_what_was_said(tmp_path: Path) -> None:
    # Reads the job script; no controller is started here.
    slurm = Slurm("long", "lab", 6.0, 130, ("--nice=100",))
    with slurm_cluster(slurm, tmp_path) as cluster:
        script = cluster.job_script()
    for line in ("-p long", "-A lab", "--cpus-per-task=1", "--mem=6G", "-t 02:10:00", "--nice=100"):
        assert f"#SBATCH {line}\n" in script
    assert f"#SBATCH -o {tmp_path}/slurm/" in script
    assert f"cd '{Path.cwd()}'" in script
    assert sys.executable in script and "--nthreads 1 " in script and "--nworkers" not in script
    assert "--lifetime 120m --lifetime-stagger 5m" in script  # 130 - 5 - 5: ends before the job


def test_ctrl_c_still_interrupts_beside_slurm_jobs(tmp_path: Path) -> None:
    code = (
        "import signal, sys; from pathlib import Path\n"
        "signals = (signal.SIGINT, signal.SIGTERM)\n"
        "before = [signal.getsignal(number) for number in signals]\n"
        "from data_tools.mapping_dask import slurm_cluster; from data_tools.work import Slurm\n"
        "with slurm_cluster(Slurm(), Path(sys.argv[1])):\n"
        "    assert 'dask_jobqueue.runner' in sys.modules\n"
        "    assert [signal.getsignal(number) for number in signals] == before\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=True)


def test_a_slurm_job_too_short_for_a_worker_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--slurm-walltime 14: at least 15 minutes"):
        slurm_cluster(Slurm(walltime_min=14), tmp_path)
