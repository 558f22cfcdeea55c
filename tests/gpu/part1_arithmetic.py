"""Whether a GPU computes right, and how fast merging on it is: A1, A2, G1, G2, G3, G3b."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import made
import numpy as np
import torch
from steps import Machine, Row, step

from mergegrid import api
from mergegrid.checkpoints.checkpoint import InMemory
from mergegrid.checkpoints.dtypes import DTYPES
from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.checkpoints.torch_tensors import OnDevice
from mergegrid.engine.budget import options_for
from mergegrid.engine.engine import Engine
from mergegrid.engine.masks import mask_key
from mergegrid.engine.ops.cpu import CpuOperations
from mergegrid.engine.ops.torch_operations import TorchOperations
from mergegrid.recipes.recipe import Recipe
from mergegrid.study.runtime import gpu_devices as devices
from mergegrid.study.runtime import gpu_monitor

ROOT = Path(__file__).resolve().parents[2]
#: What the tests of leases set for themselves.
OF_LEASES = {"CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "MERGEGRID_DEVICE", "MERGEGRID_LEASES"}


@step("A1", needs_gpu=True, limit=90)
def driver(machine: Machine, folder: Path) -> Row:
    """nvidia-smi lists the GPU and answers what leases and the watch of jobs ask it."""
    start = time.perf_counter()
    listed = devices.installed_devices()
    seconds = time.perf_counter() - start
    ((memory, load),) = gpu_monitor.sample([devices.visible_devices()[0].key])
    return Row(
        f"{len(listed)} GPUs in {seconds:.1f} s; {memory:.0f} MB used, load {load:.0f} %",
        "1 GPU or more, in less than 2 s; little memory used",
        ok=bool(listed) and seconds < 2,
    )


@step("A2", limit=90)
def seen_by_torch(machine: Machine, folder: Path) -> Row:
    """Torch sees the device that is visible, and looking for it does not start CUDA."""
    program = (
        "import os; from mergegrid.study.runtime.gpu_devices import visible_devices;"
        "seen = visible_devices();"
        "os.environ['PYTORCH_NVML_BASED_CUDA_CHECK'] = '1'; import torch;"
        "print(len(seen), torch.cuda.is_available(), torch.cuda.is_initialized())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    found = done.stdout.strip() or done.stderr.strip().splitlines()[-1]
    expected = machine.size("1 True False", "2 False False")
    return Row(found, f"{expected} (devices, available, started)", found == expected)


@step("G1", limit=400)
def bits_of_operations(machine: Machine, folder: Path) -> Row:
    """Operations and merges give the bits of the CPU, by the tests that skip where CUDA is not."""
    tests = ["tests/unit/engine/ops/test_torch_operations.py"]
    tests += machine.size(["tests/unit/study/runtime/test_gpu_lease.py"], ["-k", "not cuda"])
    # Not the fixtures of the other tests, which need more packages.
    options = ["-q", "-rs", "-p", "no:cacheprovider", "--noconftest"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *tests],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in os.environ.items() if name not in OF_LEASES},
    )
    sys.stdout.write(done.stdout + done.stderr)
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (\w+)", done.stdout.splitlines()[-1])}
    shown = ", ".join(f"{counts.get(word, 0)} {word}" for word in ("passed", "failed", "skipped"))
    ok = done.returncode == 0 and "skipped" not in counts and counts.get("passed", 0) > 390
    return Row(shown, machine.size("about 800", "391") + " passed, 0 failed, 0 skipped", ok)


@step("G2")
def speed_of_operations(machine: Machine, folder: Path) -> Row:
    """Long arrays give the bits of the CPU as well; how long an operation takes."""
    count = machine.size(1 << 24, 1 << 17)
    random = np.random.default_rng(0)
    left, right = (random.standard_normal(count).astype(np.float32) for _ in range(2))
    dtype, key = DTYPES["float32"], mask_key(3, "math", "layer.weight")
    host, ours = CpuOperations(), TorchOperations(machine.device)
    equal, times = 0, []
    for name in OPERATIONS:
        found = []
        for ops in (host, ours):
            ops.restart()
            x, y = ops.load(left, dtype), ops.load(right, dtype)
            work = partial(OPERATIONS[name], ops, x, y, left, key)
            found.append(_bits(ops, work()))
            if ops is ours:
                times.append(f"{name} {milliseconds(machine, work):.2f}")
        equal += np.array_equal(*found)
    total = len(OPERATIONS)
    return Row(
        f"equal bits in {equal} of {total}; ms: {', '.join(times)}",
        f"{total} of {total}; words 3 to 6 ms, dots 30 to 80 ms (estimates, H100)",
        equal == total,
    )


#: Of operations, two arrays, stored numbers and the key of a mask.
OPERATIONS: dict[str, Callable[..., Any]] = {
    "words": lambda ops, x, y, stored, key: ops.random_words(key, 0, len(stored)),
    "thin": lambda ops, x, y, stored, key: ops.thin(
        ops.random_words(key, 0, len(stored)), 1 << 31, x, 2.0
    ),
    "dots": lambda ops, x, y, stored, key: ops.dots(x, y),
    "load": lambda ops, x, y, stored, key: ops.load(stored, DTYPES["float32"]),
    "store": lambda ops, x, y, stored, key: ops.store([x], [DTYPES["bfloat16"]])[0][0],
}


def _bits(ops: Any, values: Any) -> Any:
    """What an operation gave, as bytes."""
    values = values if isinstance(values, np.ndarray) else ops.values(values)
    values = values.cpu().numpy() if isinstance(values, torch.Tensor) else values
    # Words are int64 on a device and uint32 on the CPU.
    values = values.astype(np.uint32) if values.dtype == np.int64 else values
    return values.view(np.uint8)


def milliseconds(machine: Machine, work: Callable[[], object], times: int = 10) -> float:
    """Mean time of some work, by the clock of the device."""
    if not machine.real:
        start = time.perf_counter()
        work()
        return 1000 * (time.perf_counter() - start)
    work()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(times):
        work()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / times


@step("G3", limit=400)
def merges(machine: Machine, folder: Path) -> Row:
    """Merged folders have the same digests from the GPU and from the CPU, and so have encoders."""
    family = made.decoders(folder, machine.size("3B", "tiny"), machine.device, torch.bfloat16)
    if machine.real:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    recipe, found, times = made.merge_file(family), [], []
    for device in ("cpu", "cpu", machine.device, machine.device):
        start = time.perf_counter()
        job = api.job_of(recipe, folder / f"merged{len(times)}")
        (merged,) = api.run_job(job, device=device)
        times.append(f"{time.perf_counter() - start:.1f}")
        found.append(made.digests(merged))
        for path in merged.glob("*.safetensors"):
            path.unlink()
    same = all(each == found[0] for each in found)
    memory = torch.cuda.max_memory_allocated() / 1e9 if machine.real else 0.0
    shown, equal = _encoder_merges(machine, folder / "encoders")
    return Row(
        f"{'equal' if same else 'other'} digests; s: cpu {times[0]}, {times[1]}, "
        f"{machine.device} {times[2]}, {times[3]}; {memory:.1f} GB on the GPU; {shown}",
        "equal digests; below 4 GB; equal bits of the encoder",
        same and equal and memory < 4,
    )


def _encoder_merges(machine: Machine, folder: Path) -> tuple[str, bool]:
    """Merges of encoders as scoring makes them, in the memory of the device."""
    made.encoders(folder, made.roberta_config(base=machine.real), ("math", "code"))
    read = {name: open_checkpoint(folder / name) for name in ("base", "math", "code")}
    recipe = Recipe(
        family="roberta",
        experts=("math", "code"),
        sparsifier={"kind": "dare", "rate": 0.9},
        method={"kind": "ties"},
    )
    found, times = [], []
    for device in ("cpu", machine.device):
        held = {
            name: OnDevice(each, device) if machine.real and device != "cpu" else InMemory(each)
            for name, each in read.items()
        }
        base = held.pop("base")
        for _ in range(2):
            engine = Engine(base, held, options=options_for(device, threads=1))
            start = time.perf_counter()
            merged = engine.checkpoint(recipe)
            tensors = {name: torch.as_tensor(merged[name]).cpu() for name in base}
            times.append(f"{time.perf_counter() - start:.2f}")
        found.append(tensors)
    equal = all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    bits = "equal" if equal else "other"
    return (
        f"encoder: {bits} bits; s: cpu {times[1]}, {machine.device} {times[2]}, {times[3]}"
    ), equal


@step("G3b", needs_gpu=True, limit=90)
def copies(machine: Machine, folder: Path) -> Row:
    """How fast numbers get to the GPU: from plain memory, as now, and from pinned memory."""
    pageable = torch.randn(16 << 20)
    pinned = pageable.pin_memory()
    speeds = [
        pageable.nbytes / 1e6 / milliseconds(machine, partial(each.to, "cuda", non_blocking=True))
        for each in (pageable, pinned)
    ]
    return Row(
        f"{speeds[0]:.0f} and {speeds[1]:.0f} GB/s (pageable, pinned)",
        "about 6 and 25 to 50 GB/s (estimates)",
        ok=True,
    )
