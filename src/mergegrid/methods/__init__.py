"""Merging methods: one file each, with settings, equation, source, needs and arithmetic.

`METHODS` maps each `kind` to its class; other packages add to it through the entry points
`mergegrid.methods`.
"""

from typing import TYPE_CHECKING

from mergegrid.engine.method import Method
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
from mergegrid.plugins import any_of, with_plugins

METHODS: dict[str, type[Method]] = with_plugins(
    Method,  # type: ignore[type-abstract]
    [
        *(Average, TaskArithmetic, Ties, Slerp, ModelStock, Sce, Fisher, RegMean),
        *(Consensus, MagMax, Ram, IsoC, TsvM, Wudi, NuSlerp, Multislerp, Karcher),
        *(Pcb, Emr, IsoCts, Knots, TallMask),
    ],
    group="mergegrid.methods",
)
if TYPE_CHECKING:
    AnyMethod = Method
else:
    AnyMethod = any_of(Method, METHODS)
"""Type of a settings field that holds any method, told apart by `kind`."""
