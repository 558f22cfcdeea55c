"""pass@k: the share of problems that k samples solve (Chen et al. 2021, section 2.1)."""

from collections.abc import Sequence

import numpy as np

from mergegrid.errors import DataError


def pass_at_k(passed: Sequence[bool], k: int) -> float:
    """Return the unbiased estimate of pass@k for one problem, 1 - C(n-c, k) / C(n, k).

    Args:
        passed: Whether each of n samples passed; c of them did.
        k: Number of samples that may be tried; one that passes is enough.

    Raises:
        DataError: k is not between 1 and n.
    """
    n, c = len(passed), sum(passed)
    if not 1 <= k <= n:
        raise DataError(
            f"pass@{k} cannot be estimated from {n} samples of a problem; "
            "k must be between 1 and the number of samples"
        )
    if n - c < k:
        return 1.0
    # The product form avoids large binomials.
    return float(1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))
