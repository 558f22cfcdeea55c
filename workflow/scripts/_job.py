"""Setup of every job: its log, its GPUs, and threads before torch is imported.

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

# Environments that Snakemake creates with conda do not contain the project itself.
sys.path.append(str(Path(__file__).parents[2] / "src"))

from mergegrid.errors import ConfigError, DamagedError, MergegridError
from mergegrid.extras import explain
from mergegrid.fsync import sync_directory, sync_tree
from mergegrid.study.runtime import gpu_monitor
from mergegrid.study.runtime.gpu_devices import Device, driver_is_too_old, rehearsal
from mergegrid.study.runtime.gpu_lease import lease

# Read once, when CUDA starts: makes matrix products deterministic.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
# Threads that wait by spinning slow a shared machine down tenfold; libraries read this once.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Imports make objects that stay. Searching them for garbage after each 700 new ones is an eighth of
# the time that torch and transformers take, and another search at the end is half a second.
gc.set_threshold(10_000)
atexit.register(gc.freeze)
# Otherwise transformers asks the hub to convert every .bin checkpoint, in the background.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
# Bars of libraries belong on a terminal; in a file they would be lines without end.
if not sys.stderr.isatty():
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


# Part of torch's error where an operation on the GPU is not deterministic.
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
    "decoder_statistics": "lower finetune.max_length, or take a GPU with more",
    "decoder_similarity": "lower similarity.examples, or take a GPU with more",
}


def _less_memory(snakemake: Any) -> str:
    """Remedy for a job that runs out of the memory of its GPU."""
    # Each set of experts that passes through one engine has its own rule.
    name = "generate" if snakemake.rule.startswith("generate_") else snakemake.rule
    remedy = _LESS_MEMORY.get(name, "take a GPU with more")
    return f"lower jobs_per_gpu, or {remedy}" if _held(snakemake)[1] > 1 else remedy


@contextmanager
def job(snakemake: Any) -> Iterator[None]:
    """Log to the rule's log file; an error that users can fix is one line, not a traceback.

    Published folders among the inputs are first compared with their manifests. A damaged one is
    renamed to `<folder>.damaged`, so that the next run rebuilds it. Outputs are flushed to the disk
    before the job ends.
    """
    handler = logging.FileHandler(snakemake.log[0], mode="w")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    _end_with_snakemake()
    if rehearsal():
        # Sums of torch on the CPU depend on its threads: one thread, as in jobs without GPUs.
        os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    inputs = [Path(path) for path in snakemake.input]
    try:
        _check(inputs)
        with _gpus(snakemake):
            yield
        _flush([Path(path) for path in snakemake.output])
    except DamagedError as error:
        message = f"{error}{_put_aside(error.folder, inputs)}"
        logging.error("%s", message)
        sys.exit(f"{snakemake.rule}: {message}")
    except MergegridError as error:
        logging.error("%s", error)
        sys.exit(f"{snakemake.rule}: {error}")
    except Exception as error:
        logging.exception("unexpected error")
        if isinstance(error, ModuleNotFoundError) and (missing := explain(error)):
            sys.exit(f"{snakemake.rule}: {missing}")
        if type(error).__name__ == "OutOfMemoryError":
            (first, *_) = str(error).splitlines() or [""]
            sys.exit(f"{snakemake.rule}: out of GPU memory ({first}): {_less_memory(snakemake)}")
        if _UNREPEATABLE in str(error):
            sys.exit(
                f"{snakemake.rule}: {str(error).splitlines()[0]} With MERGEGRID_DETERMINISTIC=warn "
                "in the environment it is computed anyway, and the same seed gives other weights "
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


def _flush(outputs: Sequence[Path]) -> None:
    """Flush outputs to the disk, before Snakemake records that the job is done."""
    made = [path for path in outputs if path.exists()]
    for path in made:
        sync_tree(path)
    for folder in {path.parent for path in made}:
        sync_directory(folder)


def _put_aside(folder: Path, inputs: Sequence[Path]) -> str:
    """Rename a damaged input folder, which the next run then rebuilds; return a note on it."""
    if folder.resolve() not in [path.resolve() for path in inputs]:
        return ""
    aside = folder.with_name(f"{folder.name}.damaged")
    private = folder.with_name(f".{folder.name}.damaged-{os.getpid()}")
    try:
        # One of all jobs that read it succeeds; only that one may remove an earlier damaged folder.
        folder.replace(private)
        shutil.rmtree(aside, ignore_errors=True)
        private.replace(aside)
    except FileNotFoundError:
        pass  # Another job that reads it was faster.
    except OSError as error:
        left = private if private.exists() else folder
        return f"; it cannot be renamed ({error}), so remove {left} and run the same command"
    return f": it is now {aside}, and the same command rebuilds it"


def quiet_transformers() -> None:
    """Send messages of transformers to the log, without progress bars."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()  # Missing heads are expected.
    transformers_logging.disable_default_handler()
    transformers_logging.enable_propagation()
    transformers_logging.disable_progress_bar()


def fetched_model(snakemake: Any, anew: bool = False) -> tuple[Path, dict[str, Any]]:
    """Path of a fetched model, and its origin for the manifest; for `anew` see `locate`."""
    from mergegrid.checkpoints.sources.fetch import Record, locate
    from mergegrid.checkpoints.sources.source import SourceConfig

    record = Record.from_json(Path(snakemake.input.source).read_text())
    source = SourceConfig.model_validate_json(snakemake.params.source)
    made_from = {"source": record.source, "resolved": record.resolved, "digest": record.digest}
    return locate(record, source, anew=anew), made_from


def device(snakemake: Any) -> str:
    """`cuda` when the job holds a GPU and is not a rehearsal, else `cpu`."""
    if not _held(snakemake)[0] or rehearsal():
        return "cpu"
    import torch

    if not torch.cuda.is_available():
        raise ConfigError(
            f"the job was given a GPU, but torch {torch.__version__} sees none; "
            "install a CUDA build of torch, or run without --resources gpu"
        )
    # NVML has answered, not CUDA, which would report an old driver at the first tensor.
    if too_old := driver_is_too_old(torch.version.cuda):
        raise ConfigError(f"the job was given a GPU, but {too_old}")
    return "cuda"


def _end_with_snakemake() -> None:
    """End with a killed Snakemake: an orphaned job would write beside the job of a rerun.

    Snakemake may be gone before the job starts, so the Snakefile passes on its process id.
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
    """Ids of all ancestors of this process; in a container, up to process 1."""
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
    """Hold the job's GPUs, and record their use in a file beside the log."""
    usage = Path(snakemake.log[0]).with_suffix(".gpu.tsv")
    usage.unlink(missing_ok=True)
    gpus, sharing = _held(snakemake)
    if not gpus:
        yield
        return
    needed = _split_over(snakemake.params.get("request"))
    if gpus < needed:
        raise ConfigError(
            f"generation.gpus is {needed}, but the job has gpu={gpus}, because a run cannot give "
            f"more GPUs than it has; run with --resources gpu={needed} or more, or set "
            f"generation.gpus to {gpus}"
        )
    # Looking for GPUs must not start CUDA: vLLM forks its workers later.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    with _watched(lease(gpus, sharing), usage, sharing):
        yield


def _held(snakemake: Any) -> tuple[int, int]:
    """Number of GPUs of a job, and number of jobs that may share one."""
    if snakemake.resources.get("gpu_share", 0):
        return 1, int(snakemake.config["jobs_per_gpu"])
    return snakemake.resources.get("gpu", 0), 1


def _split_over(request: str | None) -> int:
    """Number of GPUs over which a job splits its model."""
    parts = json.loads(request or "{}")
    return int((parts.get("generation") or parts.get("on_gpus") or {}).get("gpus", 1))


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
            # Forked workers may hold its input open, so a line ends it as well.
            try:
                with suppress(BrokenPipeError):
                    watcher.communicate(b"\n", timeout=gpu_monitor.TIMEOUT + 5)
            except subprocess.TimeoutExpired:
                logging.warning("nvidia-smi does not answer: the use of the GPUs is unknown")
                watcher.kill()
