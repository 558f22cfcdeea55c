"""What every job does first: write its log, and set up threads before torch is imported."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# The environment that Snakemake makes with conda does not hold the project itself.
sys.path.append(str(Path(__file__).parents[2] / "src"))

from mergegrid.errors import MergegridError

# Threads that wait by spinning slow a shared machine down tenfold; the libraries read this once.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Would otherwise ask the hub for a conversion of every .bin checkpoint, in the background.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")


@contextmanager
def job(snakemake: Any) -> Iterator[None]:
    """Log to the rule's log file; an error that users can mend is one line, not a traceback."""
    if gpus := snakemake.resources.get("gpu", 0):
        # No more than asked for: the Trainer would split batches among all that it sees.
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus))))
        # Asking whether there is a GPU must not start CUDA: vLLM's workers are forked later.
        os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    handler = logging.FileHandler(snakemake.log[0], mode="w")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    try:
        yield
    except MergegridError as error:
        logging.error("%s", error)
        sys.exit(f"{snakemake.rule}: {error}")
    except Exception:
        logging.exception("unexpected error")
        raise


def quiet_transformers() -> None:
    """Send what transformers says to the log; its bars only clutter it."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()  # A base has no head: no news in a log.
    transformers_logging.disable_default_handler()
    transformers_logging.enable_propagation()
    transformers_logging.disable_progress_bar()


def device(snakemake: Any) -> str:
    """`cuda` when the job holds a GPU, else `cpu`."""
    if not snakemake.resources.get("gpu", 0):
        return "cpu"
    import torch

    if not torch.cuda.is_available():
        sys.exit(
            f"{snakemake.rule} was given a GPU, but torch {torch.__version__} sees none; "
            "install a CUDA build of torch, or run without --resources gpu"
        )
    return "cuda"
