"""The catalogue's entry of the table of findings."""

from mergegrid.study.reporting.entries import Table, columns

FINDINGS = Table(
    "findings_text.finding_table",
    "Findings",
    "What the study found, with numbers: the best recipe of each set and over all sets against "
    "the runner-up (`best`) and against single experts (`experts`), each sparsifier against "
    "the same method without (`sparsifier`), and single experts against the drop rate "
    "(`drop_rate`). Differences are paired; intervals and t tests cover test examples and "
    "seeds.",
    columns(
        *("kind", "family", "experts", "method", "sparsifier", "rate", "settings", "against"),
        *(
            "tied",
            "sets",
            "tasks",
            "n",
            "score",
            "over_base",
            "over_experts",
            "retained",
            "difference",
            "low",
            "high",
            "p",
        ),
        *("p_corrected", "comparisons", "df", "se_examples", "se_masks", "se_training"),
        *("se_sets", "low_others", "high_others", "needed", "selection"),
        kind="`best`, `experts`, `sparsifier` or `drop_rate`",
        experts="merged experts, joined by `+`; empty for all sets or all experts",
        method="merging method; empty for an expert alone",
        rate="drop rate; several if they differ between training seeds, sets or tasks",
        settings="other parameters of the sparsifier at a drop rate, as JSON",
        against="the other side: a recipe, `single experts`, an expert or `none`",
        tied="all recipes that the best one cannot be told apart from",
        sets="number of sets of experts, or of experts alone",
        tasks="number of tasks",
        n="number of test examples of all tasks",
        score="mean score over the sets and tasks",
        over_base="share of the sets on which the merge is better than the base",
        over_experts="share of the sets on which it is better than the single experts on average",
        retained="share of the gain from base to single experts that the merge keeps; empty for a "
        "gain below 0.02",
        difference="score minus the score of the other side",
        low="lower end of the 95 % interval, corrected for the comparisons",
        high="upper end of the interval",
        p="two-sided p-value; of a best recipe, the largest against any other",
        p_corrected="p-value times the number of comparisons (Bonferroni)",
        comparisons="number of comparisons that interval and p-value are corrected for",
        df="degrees of freedom of the t distribution (Satterthwaite)",
        se_examples="standard error due to test examples",
        se_masks="standard error due to mask seeds; missing for one seed",
        se_training="standard error due to training seeds; missing for one seed",
        se_sets="standard error for other experts like these; missing without several sets",
        low_others="lower end of the interval for other experts like these",
        high_others="upper end of the interval for other experts like these",
        needed="test examples that would tell the sides apart with a power of 80 %, if they "
        "differ as measured or by one point; infinite if examples alone would not, missing if "
        "they are told apart",
        selection="split on which settings were selected; `none` if there was nothing to select",
    ),
    "findings",
)
