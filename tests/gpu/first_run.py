"""Run everything that needs a GPU, once, and print one line per step: the first run on real CUDA.

    make test-gpu                                   about 25 minutes on one GPU
    make test-gpu DEVICE=cpu                        the same steps, tiny, on the CPU: minutes
    PYTHONPATH=src python tests/gpu/first_run.py --only G2 G4

A line says what was found and, beside it, what was expected:

    A2  ok                    2.5 s  1 True False | expected: 1 True False (devices, ...)

`DIFFERS` means that a claim of the docs does not hold; `ERROR` that the step broke off. Either way
the next step runs. Times, speeds and whatever is marked `estimate` are printed to be read, and are
never judged. The output of the steps, tracebacks included, goes to the log.

Every step runs in a process of its own, forked before CUDA starts, so that neither a CUDA error
nor memory left behind reaches the next one. Models have random weights and are made on the spot;
nothing is downloaded, and mergegrid need not be installed. Of several GPUs, the first is used, and
it should have no other work.

What is not covered: vLLM, several GPUs in one job, MIG, SLURM on real nodes.

Exit status: 0 all is as expected, 1 something differs or broke off, 2 there is no GPU to run on.
"""

import argparse
import contextlib
import logging
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import traceback
from collections import Counter
from importlib import import_module, metadata
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "src"))
sys.path.append(str(Path(__file__).resolve().parents[1] / "helpers"))

from steps import STEPS, Machine, Row, SkippedError, Step

from mergegrid.study.runtime import gpu_devices as devices

ROOT = Path(__file__).resolve().parents[2]

logger = logging.getLogger("first_run")


def main() -> int:
    """Run the command line."""
    arguments = parse()
    if arguments.device == "cuda" and (reason := no_gpu()):
        sys.stderr.write(f"{reason}\n")
        return 2
    machine, log = Machine(arguments.device, arguments.work.resolve()), arguments.out.resolve()
    prepare_environment(machine)
    load_steps()
    if unknown := sorted(set(arguments.only or []) - set(STEPS)):
        sys.stderr.write(f"no step {', '.join(unknown)}; choose from {', '.join(STEPS)}\n")
        return 2
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    shutil.rmtree(machine.work, ignore_errors=True)
    machine.work.mkdir(parents=True)
    # Both append: the steps write to the same log.
    handlers = [logging.StreamHandler(sys.stdout), logging.FileHandler(log, mode="a")]
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=handlers, force=True)
    logger.info("%s", heading(machine))
    start = time.monotonic()
    counts: Counter[str] = Counter()
    for name, step in STEPS.items():
        if not arguments.only or name in arguments.only:
            counts[run(step, machine, log)] += 1
            shutil.rmtree(machine.work / name, ignore_errors=True)
    shutil.rmtree(machine.work)
    seconds = time.monotonic() - start
    summary = ", ".join(f"{count} {status}" for status, count in counts.items())
    logger.info("%s; %.0f s; log: %s", summary, seconds, log)
    return int(bool(counts["DIFFERS"] or counts["ERROR"]))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: rehearse, in tiny sizes")
    add("--only", nargs="+", metavar="STEP", help="names of steps, e.g. A1 G4")
    add("--out", type=Path, default=ROOT / "results/gpu/log.txt", help="the log")
    add("--work", type=Path, default=ROOT / "results/gpu/work", help="scratch; up to 40 GB")
    return parser.parse_args()


def no_gpu() -> str | None:
    """Why nothing can run on a GPU here, in one sentence; none where something can.

    CUDA is not started: steps are forked from this process.
    """
    listed = devices.installed_devices()
    smi = f"nvidia-smi -L lists {len(listed)}" if shutil.which("nvidia-smi") else "no nvidia-smi"
    try:
        import torch
    except ImportError:
        found, seen = False, "torch is not installed"
    else:
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
        found = torch.cuda.is_available()
        seen = f"torch {torch.__version__} sees {'some' if found else 'none'}"
        del os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"]
    rehearse = "to rehearse on the CPU: make test-gpu DEVICE=cpu"
    if not (listed and found):
        return f"no GPU was found ({smi}; {seen}); {rehearse}"
    too_old = devices.driver_is_too_old(torch.version.cuda)
    return f"the GPU cannot be used: {too_old}; {rehearse}" if too_old else None


def prepare_environment(machine: Machine) -> None:
    """Set what steps and their subprocesses inherit."""
    for name in ("SLURM_JOB_ID", "MERGEGRID_SNAKEMAKE", "MERGEGRID_DEVICE"):
        os.environ.pop(name, None)
    path = [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    os.environ |= {
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "MERGEGRID_CACHE": str(machine.work / "cache"),
    }
    if machine.real:
        os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        os.environ["CUDA_VISIBLE_DEVICES"] = devices.visible_devices()[0].name
    else:
        os.environ |= {
            "MERGEGRID_DEVICE": "cpu",
            "CUDA_VISIBLE_DEVICES": "0,1",
            "MERGEGRID_LEASES": str(machine.work / "leases"),
            "OMP_NUM_THREADS": "1",
        }


def heading(machine: Machine) -> str:
    """The machine, the versions, and packages of pyproject.toml that are not installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["torch"], *extras["workflow"], "pytest"]
    names = [re.split(r"[^\w.-]", text)[0] for text in wanted if "mergegrid[" not in text]
    versions = {name: _version(name) for name in names}
    gpu = "a rehearsal on the CPU"
    if machine.real:
        query = ["--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        key = devices.visible_devices()[0].key
        gpu = subprocess.run(
            ["nvidia-smi", f"--id={key}", *query], capture_output=True, text=True, check=False
        ).stdout.strip()
    missing = [name for name, version in versions.items() if version is None]
    shown = [f"{name} {versions[name]}" for name in ("torch", "transformers", "snakemake")]
    lines = [f"{gpu}; Python {sys.version.split()[0]}, {', '.join(shown)}"]
    if missing:
        lines.append(f"not installed, which may end a step with ERROR: {', '.join(missing)}")
    return "\n".join(lines)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def load_steps() -> None:
    """Import the steps, in their order, with the libraries that each would import anew."""
    for name in ("part1_arithmetic", "part2_workflow", "part3_models"):
        import_module(name)
    from transformers.utils import logging as of_transformers

    of_transformers.set_verbosity_error()
    of_transformers.disable_progress_bar()


def run(step: Step, machine: Machine, log: Path) -> str:
    """Run one step in a process of its own and report it; gives its status."""
    start = time.monotonic()
    if step.needs_gpu and not machine.real:
        return report(step, "only on a GPU", "", step.claim, 0.0)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=in_child, args=(step, machine, log, theirs))
    process.start()
    theirs.close()
    status, row = "ERROR", Row(f"not done within {step.limit} s", step.claim, ok=False)
    try:
        if ours.poll(step.limit):
            row = Row("the process of the step died", step.claim, ok=False)
            with contextlib.suppress(EOFError):
                status, row = ours.recv()
            process.join(5)
    finally:
        # The step leads a process group of its own: end it, and what it left behind.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
    return report(step, status, row.found, row.expected, time.monotonic() - start)


def in_child(step: Step, machine: Machine, log: Path, pipe: Connection) -> None:
    """Run a step with its output in the log; send its status and its row."""
    os.setpgid(0, 0)
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    folder = machine.work / step.name
    folder.mkdir()
    os.chdir(folder)
    own = [logging.StreamHandler(sys.stdout)]
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=own, force=True)
    logger.info("\n== %s: %s", step.name, step.claim)
    try:
        row = step.function(machine, folder)
        pipe.send(("ok" if row.ok else "DIFFERS", row))
    except SkippedError as skipped:
        pipe.send((str(skipped), Row("", step.claim, ok=True)))
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        said = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        pipe.send(("ERROR", Row(said, step.claim, ok=False)))


def report(step: Step, status: str, found: str, expected: str, seconds: float) -> str:
    """Print the line of a step; gives its status."""
    beside = f"{found} | expected: {expected}" if found else expected
    logger.info("%-3s %-18s %6.1f s  %s", step.name, status, seconds, beside)
    return status


if __name__ == "__main__":
    sys.exit(main())
