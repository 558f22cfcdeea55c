"""Sparsifiers: one file each, with settings, equation, source and arithmetic.

`SPARSIFIERS` maps each `kind` to its class; other packages add to it through the entry points
`mergegrid.sparsifiers`.
"""

from typing import TYPE_CHECKING

from mergegrid.engine.sparsifier import Sparsifier
from mergegrid.plugins import any_of, with_plugins
from mergegrid.sparsifiers.breadcrumbs import Breadcrumbs
from mergegrid.sparsifiers.cabs import Cabs
from mergegrid.sparsifiers.dare import Dare
from mergegrid.sparsifiers.della import Della
from mergegrid.sparsifiers.drop_only import DropOnly
from mergegrid.sparsifiers.magnitude import Magnitude
from mergegrid.sparsifiers.masked_finetuned import MaskedFinetuned
from mergegrid.sparsifiers.none import NoSparsifier
from mergegrid.sparsifiers.tall import Tall

SPARSIFIERS: dict[str, type[Sparsifier]] = with_plugins(
    Sparsifier,  # type: ignore[type-abstract]
    [NoSparsifier, Dare, DropOnly, Magnitude, MaskedFinetuned, Della, Breadcrumbs, Cabs, Tall],
    group="mergegrid.sparsifiers",
)
if TYPE_CHECKING:
    AnySparsifier = Sparsifier
else:
    AnySparsifier = any_of(Sparsifier, SPARSIFIERS)
"""Type of a settings field that holds any sparsifier, told apart by `kind`."""
