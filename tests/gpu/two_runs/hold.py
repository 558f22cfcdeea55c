"""Hold the GPU for a second, and live on for two: what a job found when it got its lease.

The record lists the earlier jobs that were still alive, and the memory of the GPU in use, such as
{"others": [4709], "memory_mb": 612.0}.
"""

import json
import os
import time
from pathlib import Path

from _job import device, job
from processes import gone

with job(snakemake):
    from mergegrid.study.runtime import gpu_devices as devices
    from mergegrid.study.runtime import gpu_monitor

    (used,) = devices.visible_devices()
    others = [int(path.stem) for path in Path("../processes").glob("*.txt")]
    alive = [each for each in others if not gone(each)]
    memory = sum(memory for memory, _ in gpu_monitor.sample([used.key]))
    Path(f"../processes/{os.getpid()}.txt").touch()
    import torch

    block = torch.zeros(1 << (31 if device(snakemake) == "cuda" else 10), device=device(snakemake))
    time.sleep(1)
    Path(snakemake.output[0]).write_text(json.dumps({"others": alive, "memory_mb": memory}))
# A job lives on for a while: what it wrote is put on the disk, and modules are torn down.
time.sleep(2)
