"""A real SLURM cluster on loopback: several virtual nodes, all state in one temporary folder.

It needs Debian's packages slurmctld, slurmd, slurm-client and munge, and root, but no systemd, no cgroups
and no entry in /etc/hosts.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

NODES = ("node1", "node2")
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch")
SEARCH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY"}

# cred_expire is also how long a requeued job waits before it may start again; 5 s is the least.
# PropagateResourceLimits=NONE: sbatch would hand on this process's limits.
CONF = """
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SrunPortRange={srun_first}-{srun_last}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={root}/munge.socket,cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={root}/state
SlurmctldPidFile={root}/slurmctld.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdSpoolDir={root}/spool-%n
SlurmdPidFile={root}/slurmd-%n.pid
SlurmdLogFile={root}/slurmd-%n.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
PropagateResourceLimits=NONE
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=0,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
MinJobAge=3600
KillWait=20
SlurmdTimeout=10
SlurmctldTimeout=10
MessageTimeout=20
CompleteWait=0
InactiveLimit=0
ReturnToService=2
TreeWidth=65533
NodeName=DEFAULT CPUs=4 RealMemory=16000 State=UNKNOWN
{nodes}
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


def missing() -> str:
    """Why no cluster can be had here; empty when one can."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=SEARCH) is None]
    if absent:
        return f"{', '.join(absent)} not installed (make test installs them as root)"
    return "" if os.geteuid() == 0 else "SLURM's daemons need root here"


def wait_for(what: str, done: Callable[[], object], seconds: float = 90) -> None:
    """Wait until something is so.

    Raises:
        TimeoutError: it never was.
    """
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds} s")
        time.sleep(0.1)


class Lab:
    """The cluster; `environment` is what its clients need.

    Attributes:
        root: the temporary folder; short, because a socket's path must fit 108 bytes.
    """

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="lab", dir="/tmp"))
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))}
        self.environment = {**clean, "PATH": SEARCH, "SLURM_CONF": str(self.root / "slurm.conf")}

    def up(self) -> None:
        """Start it and wait until all nodes are idle."""
        first = _free_ports(3 + len(NODES) + 40)
        nodes = "\n".join(
            f"NodeName={name} NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 Port={first + 1 + i}"
            for i, name in enumerate(NODES)
        )
        text = CONF.format(
            root=self.root, host=socket.gethostname(), port=first, nodes=nodes,
            srun_first=first + 4, srun_last=first + 42,
        )  # fmt: skip
        (self.root / "slurm.conf").write_text(text)
        (self.root / "cgroup.conf").write_text("")
        (self.root / "state").mkdir()
        key = self.root / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(1024))
        self.root.chmod(0o755)
        self.run(
            "munged", "--force", f"--socket={self.root}/munge.socket", f"--key-file={key}",
            f"--pid-file={self.root}/munge.pid", f"--log-file={self.root}/munge.log",
            f"--seed-file={self.root}/munge.seed",
        )  # fmt: skip
        self.run("slurmctld")
        for name in NODES:
            self.start_node(name)
        wait_for("idle nodes", lambda: self._node_states() == {"idle"}, 60)

    def down(self) -> None:
        """Cancel all jobs, stop the daemons, remove the folder."""
        with suppress(subprocess.SubprocessError):
            self.run("scancel", "--user=root", check=False)
            self.run("scancel", "--signal=KILL", "--user=root", check=False)
            wait_for("no job", lambda: not self.run("squeue", "--noheader"), 15)
        for name in NODES:
            self.kill_node(name)
        for name in ("slurmctld", "munge"):
            pid = _read_pid(self.root / f"{name}.pid")
            _end(pid, signal.SIGTERM)
            wait_for(f"end of {name}", lambda: pid is None or not _runs(pid), 30)  # noqa: B023
        shutil.rmtree(self.root, ignore_errors=True)

    def run(self, *command: object, check: bool = True, cwd: Path | None = None) -> str:
        """Run a client or a daemon and return what it printed."""
        done = subprocess.run(
            [str(word) for word in command], env=self.environment, capture_output=True, text=True,
            timeout=60, check=False, cwd=cwd,
        )  # fmt: skip
        if check and done.returncode:
            raise RuntimeError(f"{command}: {done.stdout}{done.stderr}")
        return done.stdout.strip()

    def state(self, job: str) -> str:
        """State of a job without an array."""
        return self.run("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T")

    def wait(self, job: str, states: Iterable[str] = ENDED, seconds: float = 90) -> str:
        """Wait until a job is in one of some states, and return it."""
        wanted = set(states)
        wait_for(f"job {job} {sorted(wanted)}", lambda: self.state(job) in wanted, seconds)
        return self.state(job)

    def start_node(self, name: str) -> None:
        (self.root / f"spool-{name}").mkdir(exist_ok=True)
        self.run("slurmd", "-N", name)

    def kill_node(self, name: str) -> None:
        """As a power cut: its daemon, its step daemons and all processes below them."""
        daemon = _read_pid(self.root / f"slurmd-{name}.pid")
        steps = _holders_of(self.root / f"slurmd-{name}.log") - {daemon}
        for pid in [daemon, *(p for step in steps for p in _tree(step))]:
            _end(pid, signal.SIGKILL)
        (self.root / f"slurmd-{name}.pid").unlink(missing_ok=True)

    def lose_node(self, name: str) -> None:
        """As a cable pulled: the daemon is gone, what it started runs on."""
        _end(_read_pid(self.root / f"slurmd-{name}.pid"), signal.SIGKILL)
        (self.root / f"slurmd-{name}.pid").unlink(missing_ok=True)

    def mark_down(self, name: str) -> None:
        """What SLURM does itself after SlurmdTimeout."""
        self.run("scontrol", "update", f"nodename={name}", "state=down", "reason=test")

    def restore(self, name: str) -> None:
        """Bring a lost node back."""
        self.start_node(name)
        self.run("scontrol", "update", f"nodename={name}", "state=resume", check=False)
        wait_for("idle nodes", lambda: "down" not in self._node_states(), 60)

    def _node_states(self) -> set[str]:
        return set(self.run("sinfo", "--noheader", "--format=%T", check=False).split())


def _free_ports(count: int) -> int:
    """The first of `count` ports in a row that nothing listens on."""
    first = 20000 + os.getpid() % 200 * 100
    while True:
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            return first
        except OSError:
            first = 20000 + (first - 20000 + 100) % 40000


def _read_pid(path: Path) -> int | None:
    return int(path.read_text()) if path.exists() and path.read_text().strip() else None


def _end(pid: int | None, number: signal.Signals) -> None:
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _runs(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _holders_of(log: Path) -> set[int]:
    """Processes that hold a node's log open: all step daemons share one name, but not their log."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if link.readlink() == log:
                found.add(int(link.parts[2]))
    return found


def _tree(pid: int) -> list[int]:
    """A process and all that it started."""
    with suppress(OSError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *(p for child in children for p in _tree(int(child)))]
    return [pid]


if __name__ == "__main__":  # python -m tests.cluster.lab bash: a shell on a cluster of its own
    lab = Lab()
    try:
        lab.up()
        sys.exit(subprocess.run(sys.argv[1:], env=lab.environment, check=False).returncode)
    finally:
        lab.down()
