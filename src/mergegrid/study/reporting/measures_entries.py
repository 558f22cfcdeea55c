"""The catalogue's entries of the measures that papers on merging report."""

from mergegrid.study.reporting.entries import Table, columns

_AGAINST_EXPERTS = Table(
    "measures.against_experts",
    "Merges",
    "Every selected merge against the single experts, the best of them, and the base, over the "
    "tasks of its set. `percent` is the mean over tasks of the score in percent of the expert's, "
    "on the same questions, with its sign; the table `ranking` has the ratio of the means instead.",
    columns(
        *("family", "experts", "method", "sparsifier", "rate", "tasks", "mean", "std", "runs"),
        *("percent", "percent_std", "gain", "retained", "over_best", "hypervolume", "selection"),
        rate="selected drop rates; several if they differ between training seeds or tasks",
        tasks="number of tasks or benchmarks of the set",
        mean="mean over the tasks and runs: training seeds and mask seeds",
        std="sample standard deviation over runs of the mean over tasks; missing for a single run",
        runs="number of runs",
        percent="100 / T times the sum over the T tasks of merge over expert (arXiv 2406.15479, "
        "equation 4); empty where an expert scores 0.02 or less",
        percent_std="sample standard deviation of `percent` over runs; missing for a single run",
        gain="mean over the tasks of the merge minus the base",
        retained="share of the mean gain from base to experts that the merge keeps; empty for a "
        "gain below 0.02",
        over_best="mean over the tasks of the merge minus that of the best single expert; empty "
        "unless every expert is scored on every task of the set",
        hypervolume="volume that the merge adds to that of the experts, in the space of scores "
        "divided by the best expert's of each task (after arXiv 2502.02421); 0 if an expert is at "
        "least as good everywhere, empty where `over_best` is or where a best score is 0.02 or "
        "less",
    ),
)
_SUCCESS_RATES = Table(
    "measures.success_rates",
    "Merges",
    "How often a merge is better than the base over the sets of experts, as for random subsets in "
    "arXiv 2511.21437, with the mean percent of the experts' scores. Sets that share experts are "
    "not independent, so the interval is too narrow for them.",
    columns(
        *("family", "size", "method", "sparsifier", "sets", "over_base", "low", "high"),
        *("over_best_expert", "percent", "percent_std", "gain_over_best", "selection"),
        size="number of experts in a set; `all` for all sets",
        sets="number of sets of experts",
        over_base="share of the sets whose merge is better than the base, by the mean over tasks "
        "and runs",
        low="lower end of the 95 % interval of that share (Wilson)",
        high="upper end of the interval",
        over_best_expert="share of the sets whose merge is better than the best single expert, "
        "among those where `over_best` is known",
        percent="mean over the sets of `percent` in the table `against_experts`",
        percent_std="sample standard deviation of `percent` over the sets",
        gain_over_best="mean over the sets of `over_best`",
    ),
)
MEASURES = {"against_experts": _AGAINST_EXPERTS, "success_rates": _SUCCESS_RATES}
