"""The catalogue's entry of the table of ranks."""

from mergegrid.study.reporting.entries import Table, columns

RANKING = Table(
    "ranking.ranking_table",
    "Merges",
    "Methods with each sparsifier, at their selected settings, ranked by the mean score over "
    "the tasks of all sets of experts, best first. Differences are those of the findings: "
    "paired, with intervals over test examples and seeds for the experts at hand. All pairs of "
    "rows are compared at once, and intervals of ranks follow from those that can be told "
    "apart; nothing is said about one of which a study has only one, such as a training seed. "
    "`significant` is what the findings say of the best recipe over all sets.",
    columns(
        *("family", "size", "method", "sparsifier", "sets", "candidates", "score", "percent"),
        *("rank", "rank_low", "rank_high", "mean_rank", "behind", "low", "high"),
        *("low_others", "high_others", "significant", "selection"),
        size="number of experts in a set; `all` for all sets",
        sets="number of sets of experts",
        candidates="settings that were compared for it, mean over sets and training seeds",
        score="mean over tasks, sets and seeds of the test score",
        percent="score in percent of the single experts' on the same tasks; a ratio of means",
        rank="place by score; 1 is the best",
        rank_low="best rank that it may have: 1 and the rows that are better for sure",
        rank_high="worst rank that it may have",
        mean_rank="mean over sets of its place on a set; a description without interval",
        behind="score of the best row minus this one's",
        low="lower end of its interval; all intervals hold with a probability of 95 %",
        high="upper end of its interval",
        low_others="lower end of the interval for other experts like these",
        high_others="upper end of the interval for other experts like these",
        significant="whether the best row can be told apart from this one",
    ),
    "ranking",
)
