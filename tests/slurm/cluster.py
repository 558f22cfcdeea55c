"""A SLURM of two nodes for tests: private, on loopback, with accounting and fake GPUs.

Everything lives in one folder: configuration, keys, sockets, spool, logs, database. Nothing in /etc
is read or changed, and only processes that were started here are ended. Both nodes are this host,
each a slurmd with its own port, spool and control groups. Memory is limited by cgroup v1, so that a
job that takes too much is killed as on a real cluster. The GPUs are device nodes that nobody opens;
CUDA_VISIBLE_DEVICES names them by their numbers on their node, so that both nodes have a GPU 0.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "slurmdbd", "mariadbd", "mariadb-install-db")
MEMORY = Path("/sys/fs/cgroup/memory")
HOST = socket.gethostname().partition(".")[0]
NODES = ("nodea", "nodeb")
#: The control group of memory of each node.
GROUPS = [MEMORY / f"slurm_{node}" for node in NODES]

SLURM = """\
ClusterName=two
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.socket
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/spool/ctld
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
ProctrackType=proctrack/cgroup
TaskPlugin=task/cgroup
TaskProlog={folder}/bin/note
JobAcctGatherType=jobacct_gather/cgroup
JobAcctGatherFrequency=5
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
# More cores than the machine has, so that jobs run side by side.
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=5,sched_min_interval=0
MpiDefault=none
ReturnToService=2
MinJobAge=600
KillWait=2
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd}
AccountingStoragePass={folder}/run/munge.socket
AccountingStoreFlags=job_comment
AccountingStorageTRES=gres/gpu
GresTypes=gpu
PartitionName=main Nodes=ALL Default=YES MaxTime=UNLIMITED State=UP
"""
SLURM_NODE = """\
NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=100000 \
Gres=gpu:fake:{gpus}
"""
# The others of cgroup's limits would hide the numbers of the GPUs and the cores of the machine.
CGROUP = """\
CgroupPlugin=cgroup/v1
CgroupAutomount=no
ConstrainRAMSpace=yes
"""
GRES = "AutoDetect=off\nNodeName={nodes} Name=gpu Type=fake File={folder}/dev/nvidia[0-{last}]\n"
SLURMDBD = """\
AuthType=auth/munge
AuthInfo={folder}/run/munge.socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={dbd}
CommunicationParameters=NoInAddrAny
SlurmUser=root
LogFile={folder}/log/slurmdbd.log
PidFile={folder}/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm
"""
GRANTS = """\
CREATE DATABASE slurm;
CREATE USER 'slurm'@'127.0.0.1' IDENTIFIED BY 'slurm';
CREATE USER 'slurm'@'localhost' IDENTIFIED BY 'slurm';
GRANT ALL ON slurm.* TO 'slurm'@'127.0.0.1', 'slurm'@'localhost';
"""
# The executor hides SLURM_CONF from the srun inside a job; a cluster has its file in /etc instead.
# The line of every call is kept: the job it is called in, then its arguments, in log/NAME.calls.
CALL = """\
#!/bin/sh
line=$(printf '%s\\t' "$SLURM_JOB_ID" "$@" | tr '\\n' ' ')
printf '%s\\n' "$line" >> {folder}/log/{name}.calls
SLURM_CONF={folder}/etc/slurm.conf exec {program} "$@"
"""
# What every step of a job sees before it starts.
NOTE = """\
#!/bin/sh
echo "$SLURM_JOB_ID $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES" >> {folder}/log/devices
"""


def missing() -> str | None:
    """Why a cluster cannot be started here, and what to do; None when it can."""
    if os.geteuid() != 0:
        return "slurmd needs root: run this as root, for example in a container"
    if absent := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"{', '.join(absent)} not found: sh tests/slurm/install.sh installs them"
    if not MEMORY.is_dir():
        return f"no {MEMORY}: limits of memory need cgroup v1 (systemd.unified_cgroup_hierarchy=0)"
    if left := [str(group) for group in GROUPS if group.exists()]:
        return f"{', '.join(left)} exists: another slurmd runs or ran here, end it first"
    if socket.gethostbyname(HOST) != "127.0.0.1":
        return f"the name {HOST} is not that of loopback: add '127.0.0.1 {HOST}' to /etc/hosts"
    return None


@contextmanager
def cluster(folder: Path, cpus: int = 32, gpus: int = 4) -> Iterator[dict[str, str]]:
    """Run a cluster, each node with so many CPUs and GPUs.

    Gives the environment in which sbatch and its like find it.
    """
    for name in ("etc", "run", "log", "bin", "dev", "munge", "database", "spool/ctld"):
        (folder / name).mkdir(parents=True)
    daemons = ("ctld", "dbd", "database", *NODES)
    ports = dict(zip(daemons, _free_ports(len(daemons)), strict=True))
    _write_files(folder, {**ports, "cpus": cpus, "gpus": gpus})
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("SLURM_")},
        "SLURM_CONF": str(folder / "etc/slurm.conf"),
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
    }

    def asked(*command: str) -> str:
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        ).stdout

    # Whoever ends the tests with a signal wants no daemons left either.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with ExitStack() as stack:
        stack.callback(signal.signal, signal.SIGTERM, before)

        def start(*command: str | Path) -> None:
            stack.enter_context(_running(command, environment, folder / "log"))

        start("munged", "--foreground", "--force", *_munge_options(folder))
        _wait("munge", (folder / "run/munge.socket").exists, folder)
        _database(folder, ports["database"], start)
        start("slurmdbd", "-D")
        _wait("slurmdbd", lambda: "Cluster" in asked("sacctmgr", "list", "cluster"), folder)
        start("slurmctld", "-D", "-i")
        _wait("slurmctld", lambda: "is UP" in asked("scontrol", "ping"), folder)
        stack.callback(_clear_groups)
        for node in NODES:
            (folder / "spool" / node).mkdir()
            start("slurmd", "-D", "-N", node)
        stack.callback(_cancel_jobs, asked)
        ready = ["idle"] * len(NODES)
        _wait("slurmd", lambda: asked("sinfo", "-h", "-N", "-o", "%t").split() == ready, folder)
        yield environment


def _free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _write_files(folder: Path, values: dict[str, int]) -> None:
    """Write the configuration, the key of munge and the fake GPUs."""
    names = {**values, "folder": folder, "host": HOST, "nodes": ",".join(NODES)}
    names["last"] = values["gpus"] - 1
    lines = (SLURM_NODE.format(**names, node=node, port=values[node]) for node in NODES)
    files = {
        "slurm.conf": SLURM + "".join(lines),
        "cgroup.conf": CGROUP,
        "gres.conf": GRES,
        "slurmdbd.conf": SLURMDBD,
    }
    for name, text in files.items():
        (folder / "etc" / name).write_text(text.format(**names))
    (folder / "etc/slurmdbd.conf").chmod(0o600)
    (folder / "munge/key").write_bytes(os.urandom(128))
    (folder / "munge/key").chmod(0o600)
    for name, text in {"sbatch": CALL, "srun": CALL, "note": NOTE}.items():
        path = folder / "bin" / name
        path.write_text(text.format(folder=folder, name=name, program=shutil.which(name)))
        path.chmod(0o755)
    for index in range(values["gpus"]):
        os.mknod(folder / f"dev/nvidia{index}", 0o020600, os.makedev(195, index))


def _munge_options(folder: Path) -> list[str]:
    return [
        f"--key-file={folder}/munge/key",
        f"--socket={folder}/run/munge.socket",
        f"--pid-file={folder}/run/munged.pid",
        f"--log-file={folder}/log/munged.log",
        f"--seed-file={folder}/munge/seed",
    ]


def _database(folder: Path, port: int, start: Callable[..., None]) -> None:
    """Start a database of our own, which slurmdbd may write to."""
    data, sock = folder / "database", folder / "run/database.sock"
    make = ["mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={data}"]
    make += ["--skip-test-db", "--auth-root-authentication-method=normal"]
    subprocess.run(make, check=True, capture_output=True)
    start(
        *("mariadbd", "--no-defaults", "--user=root", f"--datadir={data}", f"--socket={sock}"),
        *(f"--pid-file={folder}/run/mariadbd.pid", "--bind-address=127.0.0.1", f"--port={port}"),
        *("--innodb-buffer-pool-size=128M", "--innodb-lock-wait-timeout=900", "--skip-log-bin"),
    )
    client = ["mariadb", "--no-defaults", f"--socket={sock}"]

    def answers() -> bool:
        asked = subprocess.run([*client, "-e", "SELECT 1"], check=False, capture_output=True)
        return asked.returncode == 0

    _wait("mariadbd", answers, folder)
    subprocess.run(client, input=GRANTS, text=True, check=True)


@contextmanager
def _running(
    command: tuple[str | Path, ...], environment: dict[str, str], logs: Path
) -> Iterator[None]:
    """Run a daemon in the foreground; end it, softly at first."""
    with (logs / f"{command[0]}.out").open("a") as out:
        daemon = subprocess.Popen(
            command, env=environment, stdout=out, stderr=out, start_new_session=True
        )
        try:
            yield
        finally:
            daemon.terminate()
            try:
                daemon.wait(5)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _wait(what: str, ready: Callable[[], bool], folder: Path, seconds: float = 60) -> None:
    """Wait until a daemon answers.

    Raises:
        TimeoutError: It does not; with the end of all logs.
    """
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            logs = [f"{path}\n{path.read_text()[-2000:]}" for path in (folder / "log").iterdir()]
            raise TimeoutError(f"{what} does not answer after {seconds} s\n" + "\n".join(logs))
        time.sleep(0.1)


def _cancel_jobs(asked: Callable[..., str]) -> None:
    """Cancel all jobs, and wait for their ends."""
    asked("scancel", "--partition=main")
    end = time.monotonic() + 10
    while asked("squeue", "-h") and time.monotonic() < end:
        time.sleep(0.2)


def _clear_groups() -> None:
    """End what jobs have left behind, and remove the control groups of the nodes."""
    groups = [each / path.name for each in MEMORY.parent.iterdir() for path in GROUPS]
    folders = [Path(top) for group in groups for top, _, _ in os.walk(group)]
    end = time.monotonic() + 10
    while left := {
        int(pid) for each in folders for pid in (each / "cgroup.procs").read_text().split()
    }:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert time.monotonic() < end, f"processes of jobs do not end: {left}"
        time.sleep(0.1)
    for each in reversed(folders):
        each.rmdir()
