"""Every table and figure in words: what it is made from, what it shows, what its columns mean.

Light enough for the workflow to read whenever it starts; the functions are in `catalogue`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mergegrid.study.schema.decoders import DecoderFinetune
from mergegrid.study.schema.families import Finetune

Kind = Literal["scores", "deltas", "similarity", "experts", "decoders", "sources", "comparisons"]
#: What several tables have.
MEANINGS = {
    "family": "base and experts, as named in the configuration",
    "experts": "experts that were merged, joined by `+`; one name is an expert alone",
    "expert": "name of the expert",
    "task": "task or benchmark that was scored",
    "metric": "metric of the task",
    "method": "merging method",
    "sparsifier": "what happened to the deltas before merging; `none` keeps them",
    "variant": "settings that tell lines of one sparsifier apart",
    "rate": "drop rate",
    "settings": "all other parameters of sparsifier and of method, as JSON",
    "training_seed": "seed with which the experts were fine-tuned",
    "mean": "mean over the runs: training seeds and mask seeds",
    "std": "standard deviation over the runs, n-1 below the line; missing for one run",
    "min": "smallest value over the runs",
    "max": "largest value over the runs",
    "runs": "how many recipes were scored",
    "stderr": "mean standard error over the examples of a run",
    "n": "examples or questions of a run",
    "split": "`validation` or `test`",
    "selection": "split on which candidates were compared; `test` replays the paper and flatters",
    "source": "expert merged with the target",
    "target": "expert whose task is scored",
    "engine": "what wrote the answers",
}
_SPREAD = ("mean", "std", "min", "max", "runs")


@dataclass(frozen=True)
class TableSpec:
    """One table."""

    title: str
    """What it is, in a line."""
    caption: str
    """What it shows, and how to read it."""
    topic: str
    """Heading in the report."""
    columns: Mapping[str, str]
    """Meaning of each column by name; `<rate>` stands for a column per rate."""
    needs: Kind = "scores"
    """Kind of results that it is made from."""


@dataclass(frozen=True)
class FigureSpec:
    """One figure of one family."""

    title: str
    """What it is, in a line."""
    caption: str
    """What it shows, and how to read it; `{family}` is filled in."""
    needs: Kind = "scores"
    """Kind of results that it is made from."""


def columns(*names: str, **own: str) -> dict[str, str]:
    """Columns in their order; those with a meaning of their own are named in both places."""
    return {name: own.get(name) or MEANINGS[name] for name in names}


def _settings(spec: type[Finetune] | type[DecoderFinetune]) -> dict[str, str]:
    fields = {name: each.description or "" for name, each in spec.model_fields.items()}
    return {name: " ".join(text.split()) for name, text in fields.items() if name != "lora"}


_DROP_RATES = "Experts alone"
_MERGES = "Merges"
_COMPARISONS = "Comparisons"
_MODELS = "Models and data"

TABLES: dict[str, TableSpec] = {
    "drop_rates": TableSpec(
        "Score of each expert alone against the drop rate",
        "Score of each expert against the drop rate: mean, standard deviation, smallest and "
        "largest value over training and mask seeds; `stderr` is the standard error over the test "
        "examples, `change` the difference to the expert as it is.",
        _DROP_RATES,
        columns(
            *("family", "task", "expert", "sparsifier", "variant", "rate", "metric", *_SPREAD),
            *("stderr", "change"),
            sparsifier="`none` is the expert as it is, `base` the base with the expert's head",
            change="mean difference to the expert as it is, run by run with one training seed",
        ),
    ),
    "drop_rates_wide": TableSpec(
        "The drop rates for people, one column per rate",
        "Score of each expert against the drop rate, mean ± standard deviation over seeds. `base` "
        "is the base alone, an encoder under the expert's head.",
        _DROP_RATES,
        {
            **columns("family", "task", "expert", "metric", "sparsifier"),
            "<rate>": "score at this drop rate, mean ± standard deviation",
        },
    ),
    "merges": TableSpec(
        "Test score of every chosen merge on every task of its experts",
        "Score of every chosen merge on the tasks of its experts, beside the single experts and "
        "the base. `retained` is the share of what fine-tuning gained over the base that the merge "
        "keeps.",
        _MERGES,
        columns(
            *("family", "experts", "method", "sparsifier", "rate", "settings", "task", "metric"),
            *(*_SPREAD, "expert", "base", "retained", "selection"),
            expert="score of the expert of the task alone, with the same training seeds; of a "
            "benchmark that several of the set have, of the first of these",
            base="score of the base with that expert's head",
            retained="share of the gain from base to expert that the merge keeps; empty for a "
            "gain below 0.02",
        ),
    ),
    "merges_wide": TableSpec(
        "Merges for people, one column per task",
        "Merges against the single experts and the base, one column per task and their mean over "
        "the tasks of the set.",
        _MERGES,
        {
            **columns("family", "experts", "method", "sparsifier", "selection"),
            "<task>": "score on this task, mean ± standard deviation",
            "mean": "mean over the tasks of the set, ± standard deviation",
        },
    ),
    "merge_candidates": TableSpec(
        "Every candidate with its mean on the selection split",
        "Every candidate that was compared, with its mean over tasks and mask seeds on the "
        "selection split; where a setting is chosen for each task, with its score on each.",
        _MERGES,
        columns(
            *("family", "experts", "chosen_for", "training_seed", "method", "sparsifier", "rate"),
            *("settings", "mean", "runs", "selected", "selection"),
            chosen_for="`mean` over the tasks, or the expert for whose task alone it was compared",
            mean="mean over the tasks and mask seeds",
            selected="whether it was chosen",
        ),
    ),
    "pairs": TableSpec(
        "Every ordered pair of experts: what the second keeps when merged with the first",
        "One row per ordered pair, method and sparsifier: the merge of source and target, scored "
        "on the target's task. `change` is what the sparsifier adds to the same method without "
        "one, with the same training seed.",
        _MERGES,
        columns(
            *("family", "source", "target", "task", "metric", "method", "sparsifier", "rate"),
            *("mean", "std", "runs", "expert", "base", "oracle", "change", "selection"),
            rate="chosen drop rates, several where training seeds or targets chose differently",
            expert="score of the target alone, with the same training seeds",
            base="score of the base with the target's head",
            oracle="score of one model trained on both tasks at once, where there is one",
            change="mean difference to the same method without a sparsifier, run by run",
        ),
    ),
    "sparsifier_effects": TableSpec(
        "What a sparsifier adds to each method, over all ordered pairs",
        "Mean change of the target's score over ordered pairs from putting the sparsifier in front "
        "of the method. `points` are differences times 100, `percent` is the change of the mean "
        "score in per cent of it. The paper does not say which of the two its average changes are "
        "(arXiv 2311.03099, section 4.3).",
        _MERGES,
        columns(
            *("family", "method", "sparsifier", "pairs", "points", "std_pairs", "std_seeds"),
            *("percent", "better", "equal", "worse", "published", "selection"),
            pairs="how many ordered pairs; of decoders, once for each benchmark of the target",
            points="mean change over the pairs, score times 100",
            std_pairs="standard deviation of the change over pairs, in points",
            std_seeds="standard deviation over training and mask seeds of the mean over pairs, in "
            "points; missing for one run",
            percent="change of the mean score over pairs, in per cent of it",
            better="pairs that the sparsifier makes better",
            equal="pairs that it leaves as they are",
            worse="pairs that it makes worse",
            published="average change in the paper, in %, for families that `published` names",
        ),
    ),
    "comparisons": TableSpec(
        "Every sparsifier against none, on the same test examples",
        "Paired comparisons: each sparsifier and rate against the expert as it is, and in front of "
        "a method against the method without one. Intervals and p-values are of a bootstrap over "
        "test examples and seeds.",
        _COMPARISONS,
        columns(
            *("study", "family", "experts", "head", "task", "metric", "method", "sparsifier"),
            *("rate", "settings", "against", "runs", "n", "difference", "low", "high", "p"),
            "p_holm",
            study="`sweep` (one expert alone) or `merges`",
            method="merging method; empty for an expert alone",
            head="expert whose task is scored",
            rate="drop rate; several where training seeds chose differently",
            against="the other side: the `expert` as it is, or the method with `none`",
            runs="recipes compared: training seeds times mask seeds",
            n="test examples",
            difference="how much better the side with the sparsifier is",
            low="lower end of the 95 % interval",
            high="upper end of the 95 % interval",
            p="two-sided p-value",
            p_holm="the same, corrected for all comparisons of the study and family (Holm)",
        ),
        "comparisons",
    ),
    "comparison_summary": TableSpec(
        "How often each sparsifier is better or worse than none",
        "Paired comparisons counted by sparsifier and rate, or by method and sparsifier. "
        "`p_sign` asks whether better and worse are equally likely, each comparison being one "
        "throw of a coin; equal ones do not count.",
        _COMPARISONS,
        columns(
            *("study", "family", "method", "sparsifier", "variant", "rate", "comparisons"),
            *("difference", "better", "worse", "surely_better", "surely_worse", "p_sign"),
            study="`sweep` (one expert alone) or `merges`",
            method="merging method; empty for an expert alone",
            rate="drop rate; in merges all chosen ones",
            comparisons="how many comparisons",
            difference="their mean difference",
            better="comparisons with a positive difference",
            worse="comparisons with a negative difference",
            surely_better="better ones whose corrected p-value is below 0.05",
            surely_worse="worse ones whose corrected p-value is below 0.05",
            p_sign="two-sided p-value of the sign test of better against worse",
        ),
        "comparisons",
    ),
    "published": TableSpec(
        "Numbers of the paper beside ours",
        "Every cell of the paper that this study measures again. Values are shares, as everywhere "
        "here: the paper's per cent divided by 100. `differs` says what is known to be done "
        "otherwise.",
        _MERGES,
        columns(
            *("family", "experts", "models", "method", "sparsifier", "rate", "task", "metric"),
            *("mean", "std", "runs", "n", "published", "difference", "source", "trust", "differs"),
            models="the paper's name for the experts",
            published="the paper's value, as a share",
            difference="ours minus the paper's",
            source="where the paper has it",
            trust="`high`: printed there; `figure`: read off a drawing, to about 0.001",
            differs="what differs from the paper, as far as its settings are published",
        ),
    ),
    "benchmarks": TableSpec(
        "Every metric of every decoder on every benchmark",
        "Every metric of every decoder on every benchmark, with the engine that wrote the answers. "
        "`accuracy_paper_rule` reads answers as the paper's code does, `unparsed` is the share of "
        "answers that could not be read; `stderr` is the standard error over the questions.",
        "Benchmarks",
        columns(
            *("family", "experts", "method", "sparsifier", "rate", "settings", "task", "metric"),
            *("split", "engine", *_SPREAD, "stderr", "n"),
        ),
    ),
    "delta_ranges": TableSpec(
        "Size of the deltas of each whole expert",
        "Size of the deltas of each expert. The paper reports values mostly below 0.002, and "
        "failure of DARE where they reach about 0.03.",
        _MODELS,
        columns(
            *("family", "expert", "training_seed", "mean", "q50", "q90", "q99", "q999", "max"),
            *("share_below_0.002", "share_zero", "lost_in_bfloat16", "lost_in_float16", "n"),
            **{
                "mean": "mean size of a delta, |fine-tuned - pre-trained parameter|",
                "q50": "half of the deltas are smaller",
                "q90": "90 % of the deltas are smaller",
                "q99": "99 % of the deltas are smaller",
                "q999": "99.9 % of the deltas are smaller",
                "max": "largest size of a delta",
                "share_below_0.002": "share of the deltas smaller than 0.002",
                "share_zero": "share of the parameters that fine-tuning left alone",
                "lost_in_bfloat16": "share of the deltas that vanish when base + delta is rounded "
                "to bfloat16",
                "lost_in_float16": "share of those that vanish in float16",
                "n": "number of parameters",
            },
        ),
        "deltas",
    ),
    "delta_deciles": TableSpec(
        "Deltas of each whole expert with their signs, in tenths",
        "Deltas of each expert with their signs: a tenth of them is below `d10`, half below `d50`, "
        "nine tenths below `d90`. The paper found -2.40 and 2.40 as extremes where DARE failed.",
        _MODELS,
        {
            **columns("family", "expert", "training_seed"),
            "lowest": "smallest delta, negative if any is",
            **{f"d{at}": f"{at} % of the deltas are below" for at in range(10, 100, 10)},
            "highest": "largest delta",
        },
        "deltas",
    ),
    "similarity": TableSpec(
        "How alike embeddings stay when deltas are dropped, a column per layer",
        "Cosine of the embeddings of each layer with those of the expert as it is, over the tokens "
        "of test examples. The base alone stands once, as `base`.",
        _DROP_RATES,
        {
            **columns("family", "expert", "sparsifier", "variant", "rate"),
            "value": "what the row shows of the tokens: their `mean` or 5 % quantile `q05`",
            "<layer>": "cosine at this layer; `layer_0` is what enters the first",
            "runs": MEANINGS["runs"],
            "tokens": "how many tokens were compared",
        },
        "similarity",
    ),
    "experts": TableSpec(
        "How each expert was trained, and its best epoch on validation",
        "How each expert was trained and what it reached on the validation split. Ready experts "
        "were not trained here and have neither settings nor epochs.",
        _MODELS,
        {
            **columns("family", "expert", "task", "training_seed", "metric"),
            **_settings(Finetune),
            "best_epoch": "epoch that was kept",
            "best_validation": "its value of the metric on the validation split",
        },
        "experts",
    ),
    "decoders": TableSpec(
        "How each decoder was trained, and its loss on held-out answers",
        "How each decoder was trained, and its loss on held-out answers after the last epoch; "
        "ready ones were not trained here.",
        _MODELS,
        {
            **columns("family", "expert", "training_seed"),
            **_settings(DecoderFinetune),
            "lora_rank": "rank of the adapters, where adapters were trained",
            "validation_loss": "mean loss on the held-out answers after the last epoch",
        },
        "decoders",
    ),
    "sources": TableSpec(
        "Models and data sets, exactly as fetched",
        "Models and data sets, exactly as fetched, with their terms of use.",
        _MODELS,
        columns(
            *("name", "kind", "source", "licence", "resolved", "bytes", "sha256"),
            name="what it is in the study",
            kind="`model` or `dataset`",
            source="where it is, as the configuration says",
            licence="terms of use, from the configuration or from the source itself",
            resolved="exactly what was fetched",
            bytes="size of its files",
            sha256="digest of its files",
        ),
        "sources",
    ),
}

FIGURES: dict[str, FigureSpec] = {
    "drop_rates": FigureSpec(
        "Score against drop rate, a panel per expert",
        "Score of each expert of {family} against the drop rate. Lines are means over seeds, bands "
        "reach from the smallest to the largest value; the dashed line is the base, an encoder "
        "under the expert's head.",
    ),
    "merges": FigureSpec(
        "Merges against single experts and base",
        "Merges of experts of {family}, with and without a sparsifier in front: mean over the "
        "tasks of the merged experts, chosen on the selection split and scored on the test split.",
    ),
    "pairs": FigureSpec(
        "What each expert keeps when merged with one other",
        "Ordered pairs of experts of {family}: score of the merge on the target's task. A panel "
        "per method, a row per target, a dot per source; lines through dots reach from the "
        "smallest to the largest value over seeds.",
    ),
    "deltas": FigureSpec(
        "Share of the deltas below a size",
        "Share of the deltas of each expert of {family} below a size. DARE is known to work where "
        "most are below 0.002 (arXiv 2311.03099, section 4.6).",
        "deltas",
    ),
    "delta_histograms": FigureSpec(
        "How many deltas have which size and sign",
        "Deltas of each expert of {family} with their signs: how many are of which size.",
        "deltas",
    ),
    "similarity": FigureSpec(
        "How alike embeddings stay, layer by layer",
        "Cosine of the embeddings of each layer with those of the expert as it is, for experts of "
        "{family}: a line per drop rate, mean over tokens and seeds; the dashed line is the base.",
        "similarity",
    ),
}
