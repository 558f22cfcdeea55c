"""mergegrid: drop, rescale and merge language models, alone or over whole grids.

    >>> from mergegrid import Dare, TaskArithmetic, merge
    >>> merge(
    ...     "models/llama",
    ...     {"math": "models/llama-math", "code": "models/llama-code"},
    ...     sparsifier=Dare(rate=0.9, seed=1),
    ...     method=TaskArithmetic(coefficient=0.5),
    ...     out="merged",
    ... )
    PosixPath('merged')

Names are imported on first use, so that `import mergegrid` takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mergegrid.api import deltas, inspect, load_into, merge, open_model, run_job
    from mergegrid.engine.method import Method
    from mergegrid.engine.sparsifier import Sparsifier
    from mergegrid.engine.values import ByTensor, Gradient, ValueRule
    from mergegrid.errors import CheckpointError, ConfigError, DamagedError, MergegridError
    from mergegrid.extraction.run import extract
    from mergegrid.merging import MergeJob
    from mergegrid.methods.average import Average
    from mergegrid.methods.consensus import Consensus
    from mergegrid.methods.emr import Emr
    from mergegrid.methods.fisher import Fisher
    from mergegrid.methods.iso_c import IsoC
    from mergegrid.methods.iso_cts import IsoCts
    from mergegrid.methods.karcher import Karcher
    from mergegrid.methods.knots import Knots
    from mergegrid.methods.magmax import MagMax
    from mergegrid.methods.model_stock import ModelStock
    from mergegrid.methods.multislerp import Multislerp
    from mergegrid.methods.nuslerp import NuSlerp
    from mergegrid.methods.pcb import Pcb
    from mergegrid.methods.ram import Ram
    from mergegrid.methods.regmean import RegMean
    from mergegrid.methods.sce import Sce
    from mergegrid.methods.slerp import Slerp
    from mergegrid.methods.tall_mask import TallMask
    from mergegrid.methods.task_arithmetic import TaskArithmetic
    from mergegrid.methods.ties import Ties
    from mergegrid.methods.tsv_m import TsvM
    from mergegrid.methods.wudi import Wudi
    from mergegrid.recipes.output import Output
    from mergegrid.recipes.recipe import Recipe
    from mergegrid.sparsifiers.breadcrumbs import Breadcrumbs
    from mergegrid.sparsifiers.cabs import Cabs
    from mergegrid.sparsifiers.dare import Dare
    from mergegrid.sparsifiers.della import Della
    from mergegrid.sparsifiers.drop_only import DropOnly
    from mergegrid.sparsifiers.magnitude import Magnitude
    from mergegrid.sparsifiers.masked_finetuned import MaskedFinetuned
    from mergegrid.sparsifiers.none import NoSparsifier
    from mergegrid.sparsifiers.rates import Rule
    from mergegrid.sparsifiers.tall import Tall

_MODULES = {
    "api": ("deltas", "inspect", "load_into", "merge", "open_model", "run_job"),
    "engine.method": ("Method",),
    "engine.sparsifier": ("Sparsifier",),
    "engine.values": ("ByTensor", "Gradient", "ValueRule"),
    "extraction.run": ("extract",),
    "errors": ("CheckpointError", "ConfigError", "DamagedError", "MergegridError"),
    "merging": ("MergeJob",),
    "methods.average": ("Average",),
    "methods.consensus": ("Consensus",),
    "methods.emr": ("Emr",),
    "methods.fisher": ("Fisher",),
    "methods.iso_c": ("IsoC",),
    "methods.iso_cts": ("IsoCts",),
    "methods.karcher": ("Karcher",),
    "methods.knots": ("Knots",),
    "methods.magmax": ("MagMax",),
    "methods.model_stock": ("ModelStock",),
    "methods.multislerp": ("Multislerp",),
    "methods.nuslerp": ("NuSlerp",),
    "methods.pcb": ("Pcb",),
    "methods.ram": ("Ram",),
    "methods.regmean": ("RegMean",),
    "methods.sce": ("Sce",),
    "methods.slerp": ("Slerp",),
    "methods.tall_mask": ("TallMask",),
    "methods.task_arithmetic": ("TaskArithmetic",),
    "methods.ties": ("Ties",),
    "methods.tsv_m": ("TsvM",),
    "methods.wudi": ("Wudi",),
    "recipes.output": ("Output",),
    "recipes.recipe": ("Recipe",),
    "sparsifiers.breadcrumbs": ("Breadcrumbs",),
    "sparsifiers.cabs": ("Cabs",),
    "sparsifiers.dare": ("Dare",),
    "sparsifiers.della": ("Della",),
    "sparsifiers.drop_only": ("DropOnly",),
    "sparsifiers.magnitude": ("Magnitude",),
    "sparsifiers.masked_finetuned": ("MaskedFinetuned",),
    "sparsifiers.none": ("NoSparsifier",),
    "sparsifiers.rates": ("Rule",),
    "sparsifiers.tall": ("Tall",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [  # noqa: RUF022 - in the order of a reader
    "merge",
    "deltas",
    "extract",
    "inspect",
    "open_model",
    "load_into",
    "run_job",
    "MergeJob",
    "Output",
    "Recipe",
    "Rule",
    "Gradient",
    "ByTensor",
    "ValueRule",
    "Sparsifier",
    "NoSparsifier",
    "Dare",
    "DropOnly",
    "Magnitude",
    "MaskedFinetuned",
    "Della",
    "Breadcrumbs",
    "Cabs",
    "Tall",
    "Method",
    "Average",
    "TaskArithmetic",
    "Ties",
    "Consensus",
    "MagMax",
    "Ram",
    "Pcb",
    "Emr",
    "TallMask",
    "Sce",
    "IsoC",
    "IsoCts",
    "TsvM",
    "Wudi",
    "Knots",
    "Slerp",
    "NuSlerp",
    "Multislerp",
    "Karcher",
    "ModelStock",
    "Fisher",
    "RegMean",
    "MergegridError",
    "CheckpointError",
    "ConfigError",
    "DamagedError",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        metadata = import_module("importlib.metadata")
        try:
            return metadata.version("mergegrid")
        except metadata.PackageNotFoundError:  # Run from a folder of sources.
            return "unknown"
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"mergegrid.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
