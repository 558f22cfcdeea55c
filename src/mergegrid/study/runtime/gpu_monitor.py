"""GPU monitor of a job, run as a process by path: `python gpu_monitor.py FILE UUID...`.

It samples nvidia-smi every five seconds until its standard input closes, which also happens when
the job is killed, and writes one line; `memory_mb` is the peak of the sum over the GPUs:

    gpus	samples	memory_mb	load
    2	118	61742	87.5

Standard library only: it starts in the folder of this file, without the package.
"""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

SECONDS_BETWEEN_SAMPLES = 5.0
JOBS_VARIABLE = "MERGEGRID_JOBS_ON_THIS_GPU"
"""Environment variable: number of jobs that share the GPUs; each counts as a fraction of one."""
TIMEOUT = 30.0
"""Seconds to wait for nvidia-smi, which may hang forever on a lost GPU."""


def nvidia_smi(*arguments: str) -> str:
    """Return the output of nvidia-smi; empty if there is no nvidia-smi or no driver.

    Raises:
        TimeoutExpired: it has not answered within `TIMEOUT`.
    """
    try:
        process = subprocess.Popen(
            ["nvidia-smi", *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
    except OSError:
        return ""
    try:
        output, _ = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()  # Without waiting: a process stuck in the driver may not even die.
        raise
    return output if process.returncode == 0 else ""


def sample(keys: list[str]) -> list[tuple[float, float]]:
    """Return memory in MB and load in percent of each GPU; empty if nvidia-smi reports neither."""
    query = ["--query-gpu=memory.used,utilization.gpu", "--format=csv,noheader,nounits"]
    try:
        lines = nvidia_smi(f"--id={','.join(keys)}", *query).splitlines()
        return [(float(memory), float(load)) for memory, load in (row.split(",") for row in lines)]
    except (ValueError, subprocess.TimeoutExpired):
        return []


def monitor(file: Path, keys: list[str], seconds: float = SECONDS_BETWEEN_SAMPLES) -> None:
    """Sample until standard input closes, then write the line, if there was any sample."""
    memory: list[float] = []
    loads: list[float] = []
    ended = False
    while not ended:
        if rows := sample(keys):
            memory.append(sum(row[0] for row in rows))
            loads.append(sum(row[1] for row in rows) / len(rows))
        ended = bool(select.select([sys.stdin], [], [], seconds)[0])
    if memory:
        gpus = len(keys) / int(os.environ.get(JOBS_VARIABLE, "1"))
        line = f"{gpus:g}\t{len(memory)}\t{max(memory):.0f}\t{sum(loads) / len(loads):.1f}"
        file.write_text(f"gpus\tsamples\tmemory_mb\tload\n{line}\n", encoding="utf-8")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the job, and the job ends this.
    interval = os.environ.get("MERGEGRID_WATCH_SECONDS", SECONDS_BETWEEN_SAMPLES)
    monitor(Path(sys.argv[1]), sys.argv[2:], float(interval))
