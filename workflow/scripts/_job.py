"""What every job does first: write its log, hold its GPUs, and set up threads before torch.

With `MERGEGRID_DEVICE=cpu` in the environment, jobs that hold GPUs lease them as usual and compute
on the CPU, to rehearse a study on a machine without GPUs.
"""

import atexit
import gc
import json
import logging
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# The environment that Snakemake makes with conda does not hold the project itself.
sys.path.append(str(Path(__file__).parents[2] / "src"))

from mergegrid.errors import ConfigError, DamagedError, MergegridError
from mergegrid.extras import explain
from mergegrid.fsync import sync_directory, sync_tree
from mergegrid.study.runtime import gpu_monitor
from mergegrid.study.runtime.gpu_devices import Device, driver_is_too_old, rehearsal
from mergegrid.study.runtime.gpu_lease import lease

# Read once, when CUDA starts: with it, matrix products add up in one order.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
# Threads that wait by spinning slow a shared machine down tenfold; the libraries read this once.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# At the end of a job its modules need not be searched for garbage: with torch half a second.
atexit.register(gc.freeze)
# Would otherwise ask the hub for a conversion of every .bin checkpoint, in the background.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")


# How torch says that a GPU has no way to add in one order.
_UNREPEATABLE = "does not have a deterministic implementation"
_TRAINING = "lower finetune.batch_size, or take a GPU with more (docs/gpus.md)"
#: What to do when a rule runs out of the memory of its GPU.
_LESS_MEMORY = {
    "expert": _TRAINING,
    "oracle": "lower oracle.finetune.batch_size, or take a GPU with more",
    "decoder": "raise finetune.accumulation, set finetune.gradient_checkpointing or finetune.lora, "
    "or take a GPU with more (docs/gpus.md)",
    "generate": "lower generation.batch_size or generation.max_model_len, or let vLLM split the "
    "model with generation.gpus",
    "similarity": "lower similarity.examples",
    "decoder_similarity": "lower similarity.examples, or take a GPU with more",
}


def _less_memory(snakemake: Any) -> str:
    """The keys that help where a job runs out of the memory of its GPU."""
    # All variants of a set through one engine have a rule of their own.
    name = "generate" if snakemake.rule.startswith("generate_") else snakemake.rule
    own = _LESS_MEMORY.get(name, "take a GPU with more")
    return f"lower jobs_per_gpu, or {own}" if _held(snakemake)[1] > 1 else own


@contextmanager
def job(snakemake: Any) -> Iterator[None]:
    """Log to the rule's log file; an error that users can mend is one line, not a traceback.

    Published folders among the inputs are compared with their manifests before anything else. One
    that is damaged is renamed to `<folder>.damaged`, so that the next run makes it again. What the
    job made is on the disk when it ends.
    """
    handler = logging.FileHandler(snakemake.log[0], mode="w")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    _end_with_snakemake()
    if rehearsal():
        # On the CPU sums of torch depend on its threads: it gets one, as in jobs without GPUs.
        os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    inputs = [Path(each) for each in snakemake.input]
    try:
        _check(inputs)
        with _gpus(snakemake):
            yield
        _settle([Path(each) for each in snakemake.output])
    except DamagedError as error:
        said = f"{error}{_put_aside(error.folder, inputs)}"
        logging.error("%s", said)
        sys.exit(f"{snakemake.rule}: {said}")
    except MergegridError as error:
        logging.error("%s", error)
        sys.exit(f"{snakemake.rule}: {error}")
    except Exception as error:
        logging.exception("unexpected error")
        if isinstance(error, ModuleNotFoundError) and (missing := explain(error)):
            sys.exit(f"{snakemake.rule}: {missing}")
        if type(error).__name__ == "OutOfMemoryError":
            (first, *_) = str(error).splitlines() or [""]
            sys.exit(
                f"{snakemake.rule}: the memory of the GPU does not suffice ({first}): "
                f"{_less_memory(snakemake)}"
            )
        if _UNREPEATABLE in str(error):
            sys.exit(
                f"{snakemake.rule}: {str(error).splitlines()[0]} With MERGEGRID_DETERMINISTIC=warn "
                "in the environment it is computed all the same, and the seed gives other weights "
                "on every run"
            )
        raise


def _check(inputs: Sequence[Path]) -> None:
    """Check the published folders among the inputs of a job."""
    folders = [path for path in inputs if path.is_dir()]
    if folders:
        from mergegrid.checkpoints.publish import check_published

        for folder in folders:
            check_published(folder)


def _settle(outputs: Sequence[Path]) -> None:
    """Wait until the disk has what the job made, before Snakemake notes that it is done."""
    made = [path for path in outputs if path.exists()]
    for path in made:
        sync_tree(path)
    for folder in {path.parent for path in made}:
        sync_directory(folder)


def _put_aside(folder: Path, inputs: Sequence[Path]) -> str:
    """Rename a damaged folder where a rule makes it; what is to be said of that."""
    if folder.resolve() not in [path.resolve() for path in inputs]:
        return ""
    aside = folder.with_name(f"{folder.name}.damaged")
    own = folder.with_name(f".{folder.name}.damaged-{os.getpid()}")
    try:
        # Of all jobs that read it one gets it; only that one may remove what lies aside already.
        folder.replace(own)
        shutil.rmtree(aside, ignore_errors=True)
        own.replace(aside)
    except FileNotFoundError:
        pass  # Another job that reads it was faster.
    except OSError as error:
        left = own if own.exists() else folder
        return f"; it cannot be renamed ({error}), so remove {left} and run the same command"
    return f": it is now {aside}, and the same command makes it again"


def quiet_transformers() -> None:
    """Send what transformers says to the log; its bars only clutter it."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()  # A base has no head: no news in a log.
    transformers_logging.disable_default_handler()
    transformers_logging.enable_propagation()
    transformers_logging.disable_progress_bar()


def device(snakemake: Any) -> str:
    """`cuda` when the job holds a GPU and this is no rehearsal, else `cpu`."""
    if not _held(snakemake)[0] or rehearsal():
        return "cpu"
    import torch

    if not torch.cuda.is_available():
        raise ConfigError(
            f"the job was given a GPU, but torch {torch.__version__} sees none; "
            "install a CUDA build of torch, or run without --resources gpu"
        )
    # NVML has answered, not CUDA: that a driver is too old would show at the first tensor.
    if too_old := driver_is_too_old(torch.version.cuda):
        raise ConfigError(f"the job was given a GPU, but {too_old}")
    return "cuda"


def _end_with_snakemake() -> None:
    """End when a killed Snakemake leaves this job behind, which would write beside a rerun's.

    Snakemake may be gone before the job looks for it, so the Snakefile leaves word of its process.
    """
    named = os.environ.get("MERGEGRID_SNAKEMAKE")
    if named is None or not hasattr(os, "pidfd_open"):
        return
    parent = int(named)
    gone = f"Snakemake (process {parent}) is gone, so this job ends too"
    try:
        descriptor = os.pidfd_open(parent)
    except ProcessLookupError:
        descriptor = None
    if descriptor is None or parent not in _processes_above():
        logging.error("%s", gone)
        sys.exit(gone)

    def wait() -> None:
        select.select([descriptor], [], [])
        logging.error("%s", gone)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def _processes_above() -> Iterator[int]:
    """The parent of this process, its parent, and so on: in a container, up to process 1."""
    process = os.getppid()
    while process:
        yield process
        try:
            status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
        except OSError:
            return
        process = int(status.rpartition(")")[2].split()[1])


@contextmanager
def _gpus(snakemake: Any) -> Iterator[None]:
    """Hold the job's GPUs, and write beside its log how much it used them."""
    usage = Path(snakemake.log[0]).with_suffix(".gpu.tsv")
    usage.unlink(missing_ok=True)
    gpus, sharing = _held(snakemake)
    if not gpus:
        yield
        return
    wanted = _split_over(snakemake.params.get("request"))
    if gpus < wanted:
        raise ConfigError(
            f"generation.gpus is {wanted}, and the job was given gpu={gpus}, for Snakemake gives "
            f"no more than all that a run has; run with --resources gpu={wanted} or more, or set "
            f"generation.gpus to {gpus}"
        )
    # Asking whether there is a GPU must not start CUDA: vLLM's workers are forked later.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    with _watched(lease(gpus, sharing), usage, sharing):
        yield


def _held(snakemake: Any) -> tuple[int, int]:
    """How many GPUs a job holds, and how many jobs may share each."""
    if snakemake.resources.get("gpu_share", 0):
        return 1, int(snakemake.config["jobs_per_gpu"])
    return snakemake.resources.get("gpu", 0), 1


def _split_over(request: str | None) -> int:
    """Among how many GPUs the request wants its model split."""
    asked = json.loads(request or "{}")
    return int((asked.get("generation") or asked.get("on_gpus") or {}).get("gpus", 1))


@contextmanager
def _watched(devices: Sequence[Device], usage: Path, sharing: int) -> Iterator[None]:
    if rehearsal() or not devices:
        yield
        return
    command = [
        sys.executable,
        gpu_monitor.__file__,
        str(usage),
        *(device.key for device in devices),
    ]
    environment = {**os.environ, gpu_monitor.JOBS_VARIABLE: str(sharing)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment) as watcher:
        try:
            yield
        finally:
            # Workers that were forked may hold its input open: a line ends it as well.
            try:
                with suppress(BrokenPipeError):
                    watcher.communicate(b"\n", timeout=gpu_monitor.TIMEOUT + 5)
            except subprocess.TimeoutExpired:
                logging.warning("nvidia-smi does not answer: how the GPUs were used stays unknown")
                watcher.kill()
