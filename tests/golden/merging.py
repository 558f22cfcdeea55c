"""Golden numbers of merging: every sparsifier before every method, and models on disk."""

from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from merge_jobs import merge_recipe
from numpy.typing import NDArray

from golden import inputs
from golden.recorded import Numbers
from mergegrid.checkpoints.checkpoint import Checkpoint, InMemory, TensorInfo
from mergegrid.checkpoints.digests import digest_tensors
from mergegrid.checkpoints.dtypes import DTYPES, Stored
from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.engine.engine import Engine
from mergegrid.engine.method import Method
from mergegrid.engine.sparsifier import Sparsifier
from mergegrid.methods import METHODS
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
from mergegrid.recipes.recipe import Recipe, settings_slug
from mergegrid.sparsifiers import SPARSIFIERS
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

LAYER = "layers.0.weight"
Shapes = dict[str, tuple[int, ...]]
SHAPES: Shapes = {"embed_tokens.weight": (90, 24), LAYER: (32, 24), "layers.0.bias": (24,)}
# Longer than what is summed at a time, and no multiple of it.
_LONG: Shapes = {**SHAPES, "embed_tokens.weight": (2800, 24)}
_RULES = (Rule(tensors="embeddings", rate=0.25), Rule(tensors="*.bias", rate=0))
_PRESETS: list[Sparsifier] = [
    NoSparsifier(),
    Dare(rate=0.5),
    Dare(rate=0.9, seed=7, rates={"code": 0.25}),
    Dare(rate=0.75, seed=1, rules=_RULES),
    DropOnly(rate=0.5),
    DropOnly(rate=1),
    MaskedFinetuned(rate=0.5, seed=2),
    MaskedFinetuned(rate=0.25, rescale=False),
    Magnitude(rate=0.5),
    Magnitude(rate=0.9, scope="global", rescale=True),
    Magnitude(rate=0.7, arithmetic="reference"),
    Magnitude(rate=0.7, scope="global", arithmetic="reference"),
    Della(rate=0.6),
    Della(rate=0.8, window=0.3, seed=3),
    Breadcrumbs(rate=0.5),
    Breadcrumbs(rate=0.8, largest=0.2, scope="global"),
    Dare(rate=0.8, seed=2, rescale=0.4),
    Cabs(n=2, m=8),
    Cabs(n=3, m=16, order=("math", "chat", "code")),
    Tall(),
]
_WEIGHTS = {"math": 3.0, "code": 1.0}
_METHODS: list[Method] = [
    Average(),
    Average(weights=_WEIGHTS),
    TaskArithmetic(),
    TaskArithmetic(coefficient=0.3, coefficients={"chat": -0.5}),
    Ties(),
    Ties(coefficient=0.7, trim=0.4, scope="per_tensor"),
    Ties(trim=0.6, arithmetic="reference"),
    Ties(trim=0.3, scope="per_tensor", arithmetic="reference"),
    Ties(trim=0.4, weights=_WEIGHTS),
    Ties(trim=0.4, weights=_WEIGHTS, normalize=False, arithmetic="mergekit"),
    Average(weights=_WEIGHTS, normalize=False),
    TaskArithmetic(coefficients=_WEIGHTS, normalize=True),
    TaskArithmetic.model_validate(
        {"coefficient": {"rules": [{"tensors": "*.weight", "value": 0.3}], "default": 0.7}}
    ),
    Slerp(),
    Slerp(weights=_WEIGHTS),
    ModelStock(),
    Sce(),
    Sce(select=0.4),
    Fisher(),
    Fisher(weights=_WEIGHTS, normalize=True, floor=1e-3),
    RegMean(),
    RegMean(offdiagonal=0.5, ridge=0.1),
    Consensus(),
    Consensus(coefficient=0.5, threshold=0.2, thresholds={"chat": 0.6}, agreement=1),
    MagMax(coefficient=0.7),
    Ram(),
    Ram(threshold=1e-5, boost=1.1),
    NuSlerp(weights=_WEIGHTS),
    Multislerp(),
    Multislerp(weights=_WEIGHTS, vectors="deltas"),
    Karcher(),
    IsoC(coefficient=0.8),
    TsvM(),
    Wudi(),
    Wudi(ridge=0.1),
    Pcb(keep=0.2),
    Emr(expert="code"),
    Emr(expert="math", arithmetic="reference"),
    IsoCts(common=0.5),
    Knots(trim=0.4),
    Knots(trim=0.4, scope="per_tensor"),
    TallMask(expert="chat"),
]
#: A sine and the solution of equations, whose last bits libraries decide.
_BY_TOLERANCE = (
    "slerp",
    "nuslerp",
    "multislerp",
    "karcher",
    "regmean",
    "iso_c",
    "tsv_m",
    "wudi",
    "pcb",
    "emr",
    "iso_cts",
    "knots",
)
_DTYPES = ("float32", "bfloat16", "float16")
_SEEDS = {"math": 1, "code": 2, "chat": 3}


class _Kept:
    """A sink that keeps what is written."""

    def __init__(self, shapes: Shapes, dtype: str) -> None:
        self.infos = {name: TensorInfo(shape, DTYPES[dtype]) for name, shape in shapes.items()}
        self._flat = {
            name: np.empty(info.count, info.dtype.numpy) for name, info in self.infos.items()
        }

    def write(self, name: str, start: int, stored: Stored) -> None:
        self._flat[name][start : start + stored.size] = stored

    def digest(self) -> str:
        return sha256(b"".join(each.tobytes() for each in self._flat.values())).hexdigest()[:12]

    def numbers(self) -> list[float]:
        """Of each tensor, the first element and a sum with weights."""
        found: list[float] = []
        for values in self._flat.values():
            wide = values.astype(np.float64)
            found += [float(wide[0]), float(wide @ (np.arange(wide.size) % 101 / 101))]
        return found


def merge(folder: Path) -> Any:
    """Every sparsifier before every method on arrays, and models on disk."""
    found = {}
    for method in _METHODS:
        names = list(_SEEDS)[:2] if method.expert_count[1] == 2 else list(_SEEDS)
        found[f"{settings_slug(method)} of {len(names)}"] = _merged(method, names)
    found["one expert"] = _merged(Average(), ["math"])
    found["long tensors"] = _merged(TaskArithmetic(coefficient=0.3), ["code", "math"], _LONG)
    assert {each.kind for each in _METHODS} == set(METHODS), "a method is missing"
    assert {each.kind for each in _PRESETS} == set(SPARSIFIERS), "a sparsifier is missing"
    return {"arrays": found, "folders": _folders(folder)}


def _merged(method: Method, names: list[str], shapes: Shapes = SHAPES) -> dict[str, Any]:
    """Merges of the experts behind every sparsifier."""
    experts = {name: InMemory(_tensors(_SEEDS[name], shapes)) for name in names}
    engine = Engine(InMemory(_tensors(0, shapes)), experts, _statistics(method.kind, names))
    recipes = {
        settings_slug(each): Recipe(
            family="toy", experts=tuple(names), sparsifier=each, method=method
        )
        for each in _PRESETS
        if set(getattr(each, "rates", {})) <= set(names)
        and set(getattr(each, "order", ())) in (set(), set(names))
    }
    sinks = {slug: [_Kept(shapes, dtype) for dtype in _DTYPES] for slug in recipes}
    engine.stream(
        [(engine.bind(recipes[slug]), sink) for slug, kept in sinks.items() for sink in kept]
    )
    if method.kind in _BY_TOLERANCE:
        return {slug: kept[0].numbers() for slug, kept in sinks.items()}
    return {slug: " ".join(each.digest() for each in kept) for slug, kept in sinks.items()}


def _tensors(seed: int, shapes: Shapes) -> dict[str, NDArray[np.float32]]:
    """The base, or an expert: deltas of many sizes, some of them equal and a third of them 0."""
    found = {}
    for name, shape in shapes.items():
        found[name] = inputs.drawn(name, 0, shape, 2**-8)
        if seed:
            move = inputs.drawn(name, seed, shape, 2**-14)
            some = inputs.drawn(name, seed + 10, shape, 1) > -20
            found[name] = found[name] + np.where(some, move, 0) * np.abs(move) * 2**9
    return found


def _statistics(kind: str, names: list[str]) -> dict[str, Checkpoint]:
    if kind == "fisher":
        return {
            name: InMemory(
                {
                    key: inputs.drawn(key, 20 + _SEEDS[name], shape, 2**-8) ** 2
                    for key, shape in SHAPES.items()
                }
            )
            for name in names
        }
    if kind == "regmean":
        grams = {}
        for name in names:
            rows = inputs.drawn(LAYER, 30 + _SEEDS[name], (80, SHAPES[LAYER][1]), 2**-5)
            grams[name] = InMemory({LAYER: rows.T.astype(np.float64) @ rows / 80})
        return grams
    return {}


def _folders(folder: Path) -> dict[str, Any]:
    """Merges on disk: dtypes of the output, and experts with more rows of embeddings."""
    base = inputs.llama(folder / "base")
    experts = {"math": inputs.llama(folder / "math", 1), "code": inputs.llama(folder / "code", 2)}
    longer = {"math": experts["math"], "code": inputs.llama(folder / "longer", 2, vocab_size=66)}
    recipe = Recipe(
        family="toy",
        experts=("math", "code"),
        sparsifier=Dare(rate=0.5, seed=1),
        method=Ties(coefficient=0.5, trim=0.3),
    )
    found = {}
    for name, parts, output in [
        ("as the base", experts, Output()),
        ("bfloat16", experts, Output(dtype="bfloat16")),
        ("float16", experts, Output(dtype="float16", shard_size="20kB")),
        ("rows of the base", longer, Output(vocabulary="base_rows")),
        ("padded", longer, Output(vocabulary="pad")),
    ]:
        merge_recipe(recipe, base, parts, output, False, folder / name, threads=1)
        found[name] = digest_tensors(open_checkpoint(folder / name))
    return found


NUMBERS = {"merge": Numbers(merge, 1e-5)}
