"""The tables and figures of a study: function, caption and columns of each."""

from mergegrid.delta_reports.paper_range import SHARE_SMALL, SMALL
from mergegrid.study.reporting.answers_entry import ANSWER_TABLES, PARETO
from mergegrid.study.reporting.entries import COMMON, SPREAD, Figure, Table, columns
from mergegrid.study.reporting.findings_entry import FINDINGS
from mergegrid.study.reporting.measures_entries import MEASURES
from mergegrid.study.reporting.ranking_entry import RANKING
from mergegrid.study.schema.finetuning import DecoderFinetune, Finetune

STAGE_VERSIONS = {"tables": 2}


def _settings(model: type[Finetune] | type[DecoderFinetune]) -> dict[str, str]:
    texts = model.descriptions().items()
    hidden = {"lora", *model.omitted_when_default}
    return {name: " ".join(text.split()) for name, text in texts if name not in hidden}


_EXPERTS_ALONE = "Experts alone"
_MERGES = "Merges"
_COMPARISONS = "Comparisons"
_MODELS = "Models and data"

TABLES: dict[str, Table] = {
    "drop_rates": Table(
        "tables.drop_rates",
        _EXPERTS_ALONE,
        "Score of each expert against the drop rate: mean, standard deviation, minimum and "
        "maximum over training and mask seeds. `stderr` is the standard error over test examples; "
        "`change` is the difference to the unchanged expert.",
        columns(
            *("family", "task", "expert", "sparsifier", "variant", "rate", "metric", *SPREAD),
            *("stderr", "change"),
            sparsifier="`none` is the unchanged expert, `base` the base with the expert's head",
            change="mean difference to the unchanged expert with the same training seed",
        ),
    ),
    "drop_rates_wide": Table(
        "tables.drop_rates_wide",
        _EXPERTS_ALONE,
        "Score of each expert against the drop rate, mean ± standard deviation over seeds, with a "
        "column per rate. `base` is the base alone; an encoder's base has the expert's head.",
        {
            **columns("family", "task", "expert", "metric", "sparsifier"),
            "<rate>": "score at this drop rate, mean ± standard deviation",
        },
    ),
    "merges": Table(
        "tables.merges",
        _MERGES,
        "Test score of every selected merge on the tasks of its experts, with the scores of the "
        "single experts and the base. `retained` is the share of the gain from fine-tuning that "
        "the merge keeps.",
        columns(
            *("family", "experts", "method", "sparsifier", "rate", "settings", "task", "metric"),
            *(*SPREAD, "expert", "base", "retained", "selection"),
            expert="score of the task's expert alone, with the same training seeds; for a "
            "benchmark shared by several experts of the set, the score of the first",
            base="score of the base with that expert's head",
            retained="share of the gain from base to expert that the merge keeps; empty for a "
            "gain below 0.02",
        ),
    ),
    "merges_wide": Table(
        "tables.merges_wide",
        _MERGES,
        "Merges against the single experts and the base, with a column per task and the mean over "
        "the tasks of the set.",
        {
            **columns("family", "experts", "method", "sparsifier", "selection"),
            "<task>": "score on this task, mean ± standard deviation",
            "mean": "mean over the tasks of the set, ± standard deviation",
        },
    ),
    **MEASURES,
    "merge_candidates": Table(
        "tables.merge_candidates",
        _MERGES,
        "Every candidate that was compared, with its mean over tasks and mask seeds on the "
        "selection split; or its score on each task, if candidates are selected per task.",
        columns(
            *("family", "experts", "chosen_for", "training_seed", "method", "sparsifier", "rate"),
            *("settings", "mean", "runs", "selected", "selection"),
            chosen_for="`mean` over the tasks, or the expert for whose task one is selected",
            mean="mean over the tasks and mask seeds",
            selected="whether the candidate was selected",
        ),
    ),
    "selection": Table(
        "selection.selection",
        _MERGES,
        "Score of the selected candidates on the validation split, where they were selected, and "
        "on the test split. `optimism` is the difference in points, score times 100: the best of "
        "several candidates looks better where it was selected than elsewhere. The test split may "
        "also be harder or easier than the validation split. `evaluated` below 1 says that "
        "candidates raced: it is the share of the evaluations of a full grid.",
        columns(
            *("family", "method", "sparsifier", "searches", "candidates", "validation", "test"),
            *("optimism", "std", "evaluated"),
            method="merging method; `all` for all searches of the family",
            sparsifier="how deltas were sparsified before merging; `all` as for the method",
            searches="number of selections among several candidates: one for each set of experts "
            "and training seed, or one for each task of a set",
            candidates="mean number of candidates; mask seeds of one are not counted",
            validation="mean score of the selected candidates on the validation split",
            test="mean score of the selected candidates on the test split",
            optimism="mean of validation minus test, in points",
            std="standard deviation of that difference over searches, in points",
            evaluated="evaluated examples, as a share of those of a full grid",
        ),
    ),
    "pairs": Table(
        "pairs.pairs",
        _MERGES,
        "One row per ordered pair of experts, method and sparsifier: the merge of source and "
        "target, scored on the target's task. `change` is the difference to the same method "
        "without a sparsifier and with the same training seed.",
        columns(
            *("family", "source", "target", "task", "metric", "method", "sparsifier", "rate"),
            *("mean", "std", "runs", "expert", "base", "oracle", "change", "selection"),
            rate="selected drop rates; several if they differ between training seeds or targets",
            expert="score of the target alone, with the same training seeds",
            base="score of the base with the target's head",
            oracle="score of one model trained on both tasks at once, if there is one",
            change="mean difference to the same method without a sparsifier, run by run",
        ),
    ),
    "sparsifier_effects": Table(
        "pairs.sparsifier_effects",
        _MERGES,
        "Mean change of the target's score over ordered pairs when a sparsifier is added to a "
        "method. `points` are differences times 100; `percent` is the relative change of the mean "
        "score. The paper does not say which of the two its average changes are "
        "(arXiv 2311.03099, section 4.3).",
        columns(
            *("family", "method", "sparsifier", "pairs", "points", "std_pairs", "std_seeds"),
            *("percent", "better", "equal", "worse", "published", "selection"),
            pairs="number of ordered pairs; for decoders, one for each benchmark of the target",
            points="mean change over the pairs, score times 100",
            std_pairs="standard deviation of the change over pairs, in points",
            std_seeds="standard deviation over training and mask seeds of the mean over pairs, in "
            "points; missing for a single run",
            percent="relative change of the mean score over pairs, in percent",
            better="number of pairs with a better score",
            equal="number of pairs with an equal score",
            worse="number of pairs with a worse score",
            published="average change in the paper, in %, for families mapped in `published`",
        ),
        cites=True,
    ),
    "ranking": RANKING,
    "comparisons": Table(
        "comparisons.comparison_table",
        _COMPARISONS,
        "Paired comparisons on the same test examples: each sparsifier and rate against the "
        "unchanged expert, and each method with a sparsifier against the method without. Intervals "
        "and p-values are from a bootstrap over test examples and seeds.",
        columns(
            *("study", "family", "experts", "head", "task", "metric", "method", "sparsifier"),
            *("rate", "settings", "against", "runs", "n", "difference", "low", "high", "p"),
            "p_holm",
            study="`sweep` (one expert alone) or `merges`",
            method="merging method; empty for an expert alone",
            head="expert whose task is scored",
            rate="drop rate; several if training seeds selected different ones",
            against="the other side: the unchanged `expert`, or the method with `none`",
            runs="number of compared recipes: training seeds times mask seeds",
            n="number of test examples",
            difference="score with the sparsifier minus score without",
            low="lower end of the 95 % interval",
            high="upper end of the 95 % interval",
            p="two-sided p-value",
            p_holm="p-value corrected for all comparisons of the study and family (Holm)",
        ),
        "comparisons",
    ),
    "comparison_summary": Table(
        "comparisons.comparison_summary",
        _COMPARISONS,
        "Number of paired comparisons that each sparsifier wins and loses against none, by rate or "
        "by method. `p_sign` tests whether both are equally likely, treating each comparison as a "
        "coin flip and ignoring ties.",
        columns(
            *("study", "family", "method", "sparsifier", "variant", "rate", "comparisons"),
            *("difference", "better", "worse", "surely_better", "surely_worse", "p_sign"),
            study="`sweep` (one expert alone) or `merges`",
            method="merging method; empty for an expert alone",
            rate="drop rate; for merges, all selected ones",
            comparisons="number of comparisons",
            difference="mean difference of the comparisons",
            better="comparisons with a positive difference",
            worse="comparisons with a negative difference",
            surely_better="better ones with a corrected p-value below 0.05",
            surely_worse="worse ones with a corrected p-value below 0.05",
            p_sign="two-sided p-value of the sign test of better against worse",
        ),
        "comparisons",
    ),
    "findings": FINDINGS,
    "published": Table(
        "published.published",
        _MERGES,
        "Published numbers beside those of this study, for everything that the study measures "
        "again. Values are fractions, published percentages divided by 100, but for numbers of "
        "tokens. `differs` lists the "
        "known differences in the experiment.",
        columns(
            *("family", "experts", "models", "method", "sparsifier", "rate", "task", "metric"),
            *("mean", "std", "runs", "n", "published", "difference", "source", "trust", "differs"),
            models="the source's name for the experts",
            published="the published value, as a fraction or in tokens",
            difference="value of this study minus the published one",
            source="where it was published",
            trust="`high`: printed there; `log`: from a result file of the authors; `card`: from a "
            "page of the hub; `figure`: read off a figure, to about 0.001",
            differs="differences from the published experiment, as far as its settings are known",
        ),
        cites=True,
    ),
    **ANSWER_TABLES,
    "delta_ranges": Table(
        "tables.delta_ranges",
        _MODELS,
        f"Size of the deltas of each expert. The paper reports values mostly below {SMALL}, and "
        "that DARE fails where they reach about 0.03.",
        {
            **columns("family", "expert", "training_seed"),
            "mean": "mean size of a delta, |fine-tuned - pre-trained parameter|",
            "q50": "50 % of the deltas are smaller",
            "q90": "90 % of the deltas are smaller",
            "q99": "99 % of the deltas are smaller",
            "q999": "99.9 % of the deltas are smaller",
            "max": "largest size of a delta",
            SHARE_SMALL: f"share of the deltas smaller than {SMALL}",
            "share_zero": "share of the parameters that fine-tuning did not change",
            "lost_in_bfloat16": "share of the deltas that vanish when base + delta is rounded to "
            "bfloat16",
            "lost_in_float16": "share of the deltas that vanish when rounded to float16",
            "n": "number of parameters",
        },
        "deltas",
    ),
    "delta_deciles": Table(
        "tables.delta_deciles",
        _MODELS,
        "Deciles of the signed deltas of each expert: 10 % are below `d10`, half below `d50`, 90 % "
        "below `d90`. The paper found extremes of -2.40 and 2.40 where DARE failed.",
        {
            **columns("family", "expert", "training_seed"),
            "lowest": "smallest signed delta",
            **{
                f"d{percent}": f"{percent} % of the deltas are below"
                for percent in range(10, 100, 10)
            },
            "highest": "largest signed delta",
        },
        "deltas",
    ),
    "similarity": Table(
        "tables.similarity",
        _EXPERTS_ALONE,
        "Cosine of each layer's embeddings with those of the unchanged expert, over the tokens of "
        "test examples. `base` is the base alone.",
        {
            **columns("family", "expert", "sparsifier", "variant", "rate"),
            "value": "statistic over tokens: `mean`, or the 5 % quantile `q05`",
            "<layer>": "cosine at this layer; `layer_0` is the input of the first",
            "runs": COMMON["runs"],
            "tokens": "number of compared tokens",
        },
        "similarity",
    ),
    "output_change": Table(
        "tables.output_change",
        _EXPERTS_ALONE,
        "How much sparsifying an expert changes what its last layer gives for each token: mean "
        "absolute difference of a number, over mask seeds. `base` is the base alone. "
        "Of several variants, the one with the least change can be chosen without labels (DAREx-q, "
        "arXiv 2410.09344, section 4.1).",
        columns(
            *("family", "expert", "training_seed", "sparsifier", "rate", "variant", *SPREAD),
            "least",
            mean="mean over the mask seeds",
            least="whether no other variant of this sparsifier, at this rate, changes less; empty "
            "if there is no other",
        ),
        "similarity",
    ),
    "experts": Table(
        "tables.expert_table",
        _MODELS,
        "Training of each expert and its score on the validation split. Ready-made experts, which "
        "were not trained here, have neither settings nor epochs. `towards_base` is the last "
        "column if an expert was trained with it.",
        {
            **columns("family", "expert", "task", "training_seed", "metric"),
            **_settings(Finetune),
            "best_epoch": "epoch that was kept",
            "best_validation": "metric of that epoch on the validation split",
        },
        "experts",
    ),
    "decoders": Table(
        "tables.decoder_table",
        _MODELS,
        "Training of each decoder and its loss on held-out answers after the last epoch. "
        "Ready-made decoders were not trained here. `towards_base` is the last column if a decoder "
        "was trained with it.",
        {
            **columns("family", "expert", "training_seed"),
            **_settings(DecoderFinetune),
            "lora_rank": "rank of the adapters, if adapters were trained",
            "validation_loss": "mean loss on the held-out answers after the last epoch",
        },
        "decoders",
    ),
    "sources": Table(
        "tables.source_table",
        _MODELS,
        "Models and data sets exactly as fetched, with their terms of use.",
        columns(
            *("name", "kind", "source", "licence", "resolved", "bytes", "sha256"),
            name="its role in the study",
            kind="`model` or `dataset`",
            source="location in the configuration",
            licence="terms of use, from the configuration or from the source itself",
            resolved="exact version that was fetched",
            bytes="size of its files",
            sha256="digest of its files",
        ),
        "sources",
    ),
}

FIGURES: dict[str, Figure] = {
    "drop_rates": Figure(
        "figures.drop_rate_figure",
        "Score of each expert of {family} against the drop rate, a panel per expert. Lines are "
        "means over seeds; bands span the smallest to the largest value. The dashed line is the "
        "base; an encoder's base has the expert's head.",
        "sweeps",
    ),
    "merges": Figure(
        "figures.merges_figure",
        "Merges of experts of {family}, with and without a sparsifier: mean over the tasks of the "
        "merged experts, selected on the selection split and scored on the test split.",
    ),
    "pairs": Figure(
        "pairs_figure.pairs_figure",
        "Ordered pairs of experts of {family}: score of the merge on the target's task. A panel "
        "per method, a row per target, a dot per source; lines through dots span the smallest to "
        "the largest value over seeds.",
    ),
    "ranking": Figure(
        "ranking.ranking_figure",
        "Methods of {family} with each sparsifier: rank by the mean score over sets of experts, "
        "and points behind the best, with intervals that all hold with a probability of 95 %. "
        "Filled dots cannot be told apart from the best.",
        "ranking",
    ),
    "pareto": PARETO,
    "deltas": Figure(
        "delta_figures.deltas_figure",
        "Share of the deltas of each expert of {family} below a size. DARE is known to work where "
        f"most are below {SMALL} (arXiv 2311.03099, section 4.6).",
        "deltas",
    ),
    "delta_histograms": Figure(
        "delta_figures.delta_histograms_figure",
        "Histogram of the signed deltas of each expert of {family}.",
        "deltas",
    ),
    "similarity": Figure(
        "similarity_figures.similarity_figure",
        "Cosine of each layer's embeddings with those of the unchanged expert, for experts of "
        "{family}: a line per drop rate, mean over tokens and seeds. The dashed line is the base.",
        "similarity",
    ),
}
