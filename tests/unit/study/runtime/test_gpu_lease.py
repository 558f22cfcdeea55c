"""Leases of GPUs with real locks, on a machine that may have no GPU: devices are names."""

import logging
import os
import signal
import stat
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from mergegrid.errors import ConfigError, MergegridError
from mergegrid.study.runtime import gpu_lease, gpu_monitor
from mergegrid.study.runtime.gpu_devices import (
    Device,
    driver_is_too_old,
    hardware_name,
    visible_devices,
)
from mergegrid.study.runtime.gpu_lease import lease

SCRIPTS = Path(__file__).parents[4] / "workflow" / "scripts"
LISTED = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa-0)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bbbb-1)
  MIG 3g.20gb     Device  0: (UUID: MIG-cccc-0)
  MIG 3g.20gb     Device  1: (UUID: MIG-dddd-1)
"""
SNAKEFILE = """
rule all:
    input:
        expand("done/{number}", number=range(10)),


rule use:
    output:
        "done/{number}",
    log:
        "logs/{number}.log",
    resources:
        gpu=lambda wildcards: int(wildcards.number) % 4 + 1,
    script:
        "use.py"
"""
USE = f"""
import os, sys, time
sys.path.insert(0, {str(SCRIPTS)!r})
from _job import device, job

def note(what):
    line = f"{{time.monotonic_ns()}} {{what}} {{os.environ['CUDA_VISIBLE_DEVICES']}}\\n"
    file = os.open(os.environ["EVENTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode())
    os.close(file)

with job(snakemake):
    assert device(snakemake) == "cpu"
    assert len(os.environ["CUDA_VISIBLE_DEVICES"].split(",")) == snakemake.resources.gpu
    note("take")
    time.sleep(0.3)
    note("free")
    open(snakemake.output[0], "w").close()
"""
HOLD = (
    "import sys, time\n"
    "from mergegrid.study.runtime.gpu_lease import lease\n"
    "held = lease(int(sys.argv[1]), int(sys.argv[3]))\n"
    "print(*(device.name for device in held), flush=True)\n"
    "time.sleep(float(sys.argv[2]))\n"
)


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """Isolate the leases of this test, on a machine that shows no GPU."""
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "MERGEGRID_DEVICE"):
        monkeypatch.delenv(name, raising=False)
    # Undone after the test, with whatever a lease sets.
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "")
    monkeypatch.setenv("MERGEGRID_LEASES", str(tmp_path / "leases"))
    yield
    give_back()


def give_back():
    """Drop the leases of this process, as the kernel does at its end."""
    while gpu_lease._held:
        os.close(gpu_lease._held.pop())


@pytest.fixture
def rehearse(monkeypatch):
    """Start a rehearsal with so many devices."""

    def name(count):
        monkeypatch.setenv("MERGEGRID_DEVICE", "cpu")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count))))

    return name


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """A fake nvidia-smi: two GPUs, one in two partitions, and their use."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    listing = f"cat <<END\n{LISTED}END\n"
    busy = "echo 1000, 50; echo 3000, 100"
    program.write_text(f'#!/bin/sh\nif [ "$1" = -L ]; then {listing}else {busy}; fi\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


@pytest.fixture
def hold():
    """Start a process that holds devices and prints their names in its first line."""
    running = []

    def start(count, seconds=60.0, jobs_per_gpu=1):
        command = [sys.executable, "-c", HOLD, str(count), str(seconds), str(jobs_per_gpu)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def names(devices):
    return [device.name for device in devices]


def test_twenty_jobs_of_two_snakemakes_never_share_a_device(tmp_path, rehearse):
    rehearse(8)
    environment = {**os.environ, "EVENTS": str(tmp_path / "events")}
    runs = []
    for run in ("first", "second"):
        folder = tmp_path / run
        folder.mkdir()
        (folder / "Snakefile").write_text(SNAKEFILE)
        (folder / "use.py").write_text(USE)
        command = [sys.executable, "-m", "snakemake", "--cores", "10", "--resources", "gpu=8"]
        runs.append(
            subprocess.Popen(
                [*command, "--quiet", "all"],
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    for run in runs:
        printed, _ = run.communicate(timeout=300)
        assert run.returncode == 0, printed
    events = [line.split() for line in (tmp_path / "events").read_text().splitlines()]
    holders = Counter()
    most = 0
    for _, what, held in sorted(events, key=lambda event: int(event[0])):
        holders.update(dict.fromkeys(held.split(","), 1 if what == "take" else -1))
        assert max(holders.values()) <= 1
        most = max(most, sum(holders.values()))
    assert Counter(what for _, what, _ in events) == {"take": 20, "free": 20}
    assert not any(holders.values())
    # They did run side by side: more was held at once than one job can hold.
    assert 4 < most <= 8


def test_a_killed_holder_frees_its_devices(rehearse, hold):
    rehearse(2)
    holder = hold(2)
    assert holder.stdout.readline() == "0 1\n"
    waiting = hold(1)
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(1)
    holder.send_signal(signal.SIGKILL)
    assert waiting.stdout.readline() == "0\n"


LINGER = f"""
import os, sys, time
from types import SimpleNamespace
sys.path.insert(0, {str(SCRIPTS)!r})
from _job import job

files = {{"log": ["job.log"], "input": [], "output": []}}
with job(SimpleNamespace(rule="x", **files, params={{}}, resources={{"gpu": 1}})):
    print("at work", flush=True)
print("done", flush=True)
if len(sys.argv) > 1 and os.fork():
    os._exit(0)
time.sleep(60)
"""


@pytest.mark.parametrize("forks", [(), ("forks",)], ids=["itself", "its worker"])
def test_a_lease_lasts_as_long_as_the_memory_of_the_gpu(tmp_path, rehearse, hold, forks):
    rehearse(1)
    command = [sys.executable, "-c", LINGER, *forks]
    job = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert [job.stdout.readline() for _ in range(2)] == ["at work\n", "done\n"]
    if forks:
        job.wait(10)
    waiting = hold(1)
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(2)
    os.killpg(job.pid, signal.SIGKILL)
    assert waiting.stdout.readline() == "0\n"
    job.communicate()


def test_sharing_jobs_spread_out_and_others_wait_for_all_of_them(rehearse, hold):
    rehearse(2)
    shared = [hold(1, 60, 2) for _ in range(4)]
    assert sorted(process.stdout.readline() for process in shared) == ["0\n"] * 2 + ["1\n"] * 2
    fifth = hold(1, 60, 2)
    with pytest.raises(subprocess.TimeoutExpired):
        fifth.wait(1)
    # The waiting job comes first; then a whole device waits for both jobs that share one.
    shared[0].kill()
    assert fifth.stdout.readline()
    whole = hold(1)
    shared[1].kill()
    with pytest.raises(subprocess.TimeoutExpired):
        whole.wait(1)
    for process in (*shared, fifth):
        process.kill()
    assert whole.stdout.readline()


def test_a_job_of_all_devices_is_not_starved_by_jobs_of_one(rehearse, hold):
    rehearse(3)
    small = [hold(1, 1.0) for _ in range(3)]
    for process in small:
        process.stdout.readline()
    large = hold(3, 0.5)
    time.sleep(0.6)
    later = [hold(1, 5.0) for _ in range(3)]
    # Those that came later would hold their devices for five seconds.
    began = time.monotonic()
    assert large.stdout.readline() == "0 1 2\n"
    assert time.monotonic() - began < 4
    for process in later:
        assert process.stdout.readline()


def test_runs_on_other_devices_do_not_wait_for_each_other(rehearse, hold, monkeypatch):
    rehearse(2)
    first = hold(2)
    first.stdout.readline()
    hold(2)
    time.sleep(0.5)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert names(lease(2)) == ["2", "3"]


def test_a_waiting_job_logs_what_it_waits_for(rehearse, hold, caplog):
    rehearse(2)
    holder = hold(1, 1.0)
    holder.stdout.readline()
    with caplog.at_level(logging.INFO):
        lease(2)
    assert "waiting for 1 of 2 GPUs; other jobs hold 0" in caplog.text
    assert "leased GPUs: " in caplog.text


def test_a_job_that_waited_starts_when_the_memory_is_free(rehearse, hold, tmp_path, monkeypatch):
    rehearse(1)
    program = tmp_path / "nvidia-smi"
    # The memory in use drops to 300 MB after a while.
    program.write_text(
        f"#!/bin/sh\necho x >> {tmp_path}/asked; n=$(wc -l < {tmp_path}/asked)\n"
        'echo "$(( n < 4 ? 70000 : 300 )), 0"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    lease(1)
    assert not (tmp_path / "asked").exists()
    give_back()
    hold(1, 3.0).stdout.readline()
    assert names(lease(1)) == ["0"]
    assert (tmp_path / "asked").read_text().count("x") == 4
    # The wait for a program without a lease ends.
    program.write_text("#!/bin/sh\necho 70000, 0\n")
    monkeypatch.setattr(gpu_lease, "_SECONDS_FOR_MEMORY", 0.5)
    give_back()
    hold(1, 1.0).stdout.readline()
    assert names(lease(1)) == ["0"]


def test_leases_are_for_all_users_of_the_machine(tmp_path, rehearse):
    rehearse(1)
    mask = os.umask(0o077)
    try:
        lease(1)
    finally:
        os.umask(mask)
    folder = tmp_path / "leases"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o1777
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {
        "unlisted--0.lock": 0o644,
        "unlisted--0.turn": 0o644,
    }
    assert str(gpu_lease.FOLDER) == "/tmp/mergegrid-devices"


@pytest.mark.usefixtures("nvidia_smi")
def test_devices_are_those_of_nvidia_smi_and_partitions_replace_their_gpu():
    parts = [Device("MIG-cccc-0", "MIG-cccc-0"), Device("MIG-dddd-1", "MIG-dddd-1")]
    assert visible_devices() == [Device("0", "GPU-aaaa-0"), *parts]


@pytest.mark.usefixtures("nvidia_smi")
@pytest.mark.parametrize("name", ["0", "GPU-aaaa-0", "GPU-aa"])
def test_index_and_uuid_are_one_device(name, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", f"{name},-1,MIG-cccc-0")
    # vLLM does not accept the start of a UUID.
    whole = name if name == "0" else "GPU-aaaa-0"
    assert visible_devices() == [Device(whole, "GPU-aaaa-0")]
    assert names(lease(1)) == [whole]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == whole
    assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


@pytest.mark.usefixtures("nvidia_smi")
def test_the_hardware_of_a_score_is_the_model_of_its_gpu(monkeypatch):
    assert hardware_name("cpu") == "cpu"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert hardware_name("cuda") == "NVIDIA A100-SXM4-40GB"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-dd")
    assert hardware_name("cuda") == "NVIDIA A100-SXM4-40GB MIG 3g.20gb"
    # Without nvidia-smi no model is invented.
    monkeypatch.setenv("PATH", "/nowhere")
    assert hardware_name("cuda") == "cuda"


@pytest.mark.parametrize(
    ("offered", "built", "says"),
    [
        (
            "12.4",
            "13.0",
            "its driver 550.54.15 supports CUDA 12.4 and older, but torch",
        ),
        ("13.0", "13.0", None),
        ("13.1", "12.8", None),
        # Within a major version of CUDA, an older driver works.
        ("12.2", "12.8", None),
        ("12.4", None, None),
    ],
)
def test_a_driver_too_old_for_torch_is_reported(tmp_path, monkeypatch, offered, built, says):
    program = tmp_path / "nvidia-smi"
    line = f"| NVIDIA-SMI 550.54.15    Driver Version: 550.54.15    CUDA Version: {offered}     |"
    program.write_text(f"#!/bin/sh\necho '{line}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    actual = driver_is_too_old(built)
    assert (actual is None) if says is None else actual.startswith(says)
    monkeypatch.setenv("PATH", "/nowhere")
    assert driver_is_too_old(built) is None


@pytest.mark.usefixtures("nvidia_smi")
def test_a_device_that_does_not_exist_is_an_error(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    with pytest.raises(ConfigError, match="lists 5, but nvidia-smi reports 0, MIG-cccc-0, MIG-"):
        visible_devices()


@pytest.fixture
def lost(tmp_path, monkeypatch):
    """A fake nvidia-smi that lists one GPU once and then hangs."""
    program = tmp_path / "lost" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(
        '#!/bin/sh\n[ "$1" = -L ] && [ ! -e "$0.asked" ] && > "$0.asked" '
        '&& echo "GPU 0: A (UUID: GPU-aaaa-0)" && exit\nexec sleep 60\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


@pytest.mark.usefixtures("lost")
def test_an_nvidia_smi_that_hangs_is_an_error(monkeypatch):
    assert visible_devices() == [Device("0", "GPU-aaaa-0")]
    monkeypatch.setattr(gpu_monitor, "TIMEOUT", 0.2)
    with pytest.raises(MergegridError, match=r"`nvidia-smi -L` has not answered within 0\.2 s"):
        visible_devices()
    assert gpu_monitor.sample(["GPU-aaaa-0"]) == []


@pytest.mark.usefixtures("lost")
def test_a_finished_job_frees_its_gpus_even_if_its_monitor_hangs(tmp_path):
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", DONE], cwd=tmp_path, capture_output=True, text=True, timeout=50
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    # The monitor itself waits for 30 s.
    assert time.monotonic() - began < 25
    assert "nvidia-smi does not answer" in (tmp_path / "job.log").read_text()


DONE = f"""
import sys
from types import SimpleNamespace
sys.path.insert(0, {str(SCRIPTS)!r})
from _job import gpu_monitor, job

files = {{"log": ["job.log"], "input": [], "output": []}}
with job(SimpleNamespace(rule="x", **files, params={{}}, resources={{"gpu": 1}})):
    gpu_monitor.TIMEOUT = -4  # The job waits five seconds longer.
print("done")
"""


def test_a_gpu_job_on_a_machine_without_gpus_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"needs gpu=1, but this machine shows 0 GPUs \(nvidia-"):
        lease(1)


def test_devices_assigned_by_a_scheduler_are_not_leased(rehearse, hold, monkeypatch):
    rehearse(2)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert names(lease(2)) == names(lease(2)) == ["0", "1"]
    # More than asked for is a whole node, where jobs share.
    assert names(lease(1)) == ["0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    other = hold(1)
    assert other.stdout.readline() == "1\n"


def test_a_rehearsal_without_named_devices_leases_nothing(monkeypatch):
    monkeypatch.setenv("MERGEGRID_DEVICE", "cpu")
    assert lease(4) == []
    monkeypatch.setenv("MERGEGRID_DEVICE", "tpu")
    with pytest.raises(ConfigError, match="MERGEGRID_DEVICE is 'tpu'; set it to cpu"):
        lease(1)


def test_an_unusable_lease_folder_is_an_error(rehearse, tmp_path, monkeypatch):
    rehearse(1)
    (tmp_path / "file").touch()
    monkeypatch.setenv("MERGEGRID_LEASES", str(tmp_path / "file" / "leases"))
    with pytest.raises(ConfigError, match=r"file/leases for GPU leases.*set MERGEGRID_LEASES"):
        lease(1)
    monkeypatch.setenv("MERGEGRID_LEASES", str(tmp_path / "leases"))
    (tmp_path / "leases").mkdir()
    (tmp_path / "leases" / "unlisted--0.turn").symlink_to("/etc/passwd")
    with pytest.raises(ConfigError, match=r"unlisted--0\.turn.*remove it"):
        lease(1)


def run_job(tmp_path, rule, **environment):
    (tmp_path / "Snakefile").write_text(rule)
    (tmp_path / "use.py").write_text(USE)
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--resources", "gpu=1"]
    done = subprocess.run(
        [*command, "--", "done"],
        cwd=tmp_path,
        env={**os.environ, "EVENTS": str(tmp_path / "events"), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


SPLIT = """
rule split:
    output:
        "done",
    log:
        "logs/split.log",
    resources:
        gpu=2,
    params:
        request='{"generation": {"gpus": 2}}',
    script:
        "use.py"
"""


def test_a_job_that_got_fewer_gpus_than_its_model_needs_stops(tmp_path, rehearse):
    rehearse(4)
    code, printed = run_job(tmp_path, SPLIT)
    assert code == 1
    message = "split: generation.gpus is 2, but the job has gpu=1"
    assert message in printed
    assert message.removeprefix("split: ") in (tmp_path / "logs" / "split.log").read_text()


@pytest.mark.usefixtures("nvidia_smi")
def test_gpu_use_is_recorded_even_for_a_killed_job(tmp_path):
    file = tmp_path / "use.tsv"
    environment = {**os.environ, "MERGEGRID_WATCH_SECONDS": "0.1"}
    parent = subprocess.Popen(
        [sys.executable, "-c", MONITORED, gpu_monitor.__file__, str(file)], env=environment
    )
    time.sleep(1.5)
    parent.kill()
    parent.wait()
    for _ in range(100):
        if file.exists() and file.read_text().endswith("\n"):
            break
        time.sleep(0.1)
    head, line = file.read_text().splitlines()
    assert head.split("\t") == ["gpus", "samples", "memory_mb", "load"]
    gpus, samples, memory, load = line.split("\t")
    assert (gpus, memory, load) == ("2", "4000", "75.0")
    assert int(samples) > 1


MONITORED = (
    "import subprocess, sys, time\n"
    "subprocess.Popen([sys.executable, *sys.argv[1:], 'GPU-a', 'GPU-b'], stdin=subprocess.PIPE)\n"
    "time.sleep(60)\n"
)


def test_without_nvidia_smi_nothing_is_recorded(tmp_path):
    file = tmp_path / "use.tsv"
    environment = {**os.environ, "PATH": str(tmp_path)}
    command = [sys.executable, gpu_monitor.__file__, str(file), "GPU-a"]
    subprocess.run(command, input=b"\n", env=environment, check=True)
    assert not file.exists()
