"""Monitor of a job's GPUs, run as a process by path: `python gpu_monitor.py FILE UUID...`.

It asks nvidia-smi every five seconds until its standard input is closed, which a killed job does
too, and leaves one line, where `memory_mb` is the sum over the GPUs at its largest:

    gpus	samples	memory_mb	load
    2	118	61742	87.5
"""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

SECONDS_BETWEEN_SAMPLES = 5.0
SHARED = "MERGEGRID_JOBS_ON_THIS_GPU"
"""Variable with the number of jobs that share the GPUs, of which each counts as a part."""
#: How long nvidia-smi may take, which a GPU that is lost can keep for ever.
PATIENCE = 30.0


def nvidia_smi(*words: str) -> str:
    """What nvidia-smi prints; nothing where there is none, or no driver.

    Raises:
        TimeoutExpired: it has not answered within `PATIENCE`.
    """
    try:
        process = subprocess.Popen(
            ["nvidia-smi", *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
    except OSError:
        return ""
    try:
        printed, _ = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()  # And no more: in the hands of a driver it may not even die.
        raise
    return printed if process.returncode == 0 else ""


def sample(keys: list[str]) -> list[tuple[float, float]]:
    """Memory in MB and load in percent of each GPU; nothing where nvidia-smi does not say."""
    query = ["--query-gpu=memory.used,utilization.gpu", "--format=csv,noheader,nounits"]
    try:
        rows = [
            line.split(",") for line in nvidia_smi(f"--id={','.join(keys)}", *query).splitlines()
        ]
        return [(float(memory), float(load)) for memory, load in rows]
    except (ValueError, subprocess.TimeoutExpired):
        return []


def watch(file: Path, keys: list[str], seconds: float = SECONDS_BETWEEN_SAMPLES) -> None:
    """Sample until standard input is closed, then write the line; none without a sample."""
    memory: list[float] = []
    loads: list[float] = []
    ended = False
    while not ended:
        if rows := sample(keys):
            memory.append(sum(row[0] for row in rows))
            loads.append(sum(row[1] for row in rows) / len(rows))
        ended = bool(select.select([sys.stdin], [], [], seconds)[0])
    if memory:
        gpus = len(keys) / int(os.environ.get(SHARED, "1"))
        line = f"{gpus:g}\t{len(memory)}\t{max(memory):.0f}\t{sum(loads) / len(loads):.1f}"
        file.write_text(f"gpus\tsamples\tmemory_mb\tload\n{line}\n", encoding="utf-8")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the job, whose end is ours.
    interval = os.environ.get("MERGEGRID_WATCH_SECONDS", SECONDS_BETWEEN_SAMPLES)
    watch(Path(sys.argv[1]), sys.argv[2:], float(interval))
