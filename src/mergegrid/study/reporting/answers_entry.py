"""The catalogue's entries of the form of answers, and of what was forgotten."""

from mergegrid.study.reporting.entries import SPREAD, Figure, Table, columns

_BENCHMARKS = Table(
    "tables.benchmarks",
    "Benchmarks",
    "Every metric of every decoder on every benchmark, with the engine that generated the "
    "answers. `accuracy_paper_rule` extracts answers as the paper's code does; `unparsed` is "
    "the share of answers without a readable result; `stderr` is the standard error over "
    "questions.",
    columns(
        *("family", "experts", "method", "sparsifier", "rate", "settings", "task", "metric"),
        *("split", "engine", *SPREAD, "stderr", "n"),
    ),
)
_ANSWERS = Table(
    "answers.answer_table",
    "Benchmarks",
    "Form of the answers of every decoder to every benchmark: their length in tokens, the "
    "share that was cut at the limit of tokens, and the share that reasons before it answers. "
    "Where a benchmark takes several samples, `majority` lets them vote, and `pass@k` is the "
    "share of questions that at least one of k samples answers.",
    {
        **columns(
            *("family", "experts", "method", "sparsifier", "rate", "settings", "task"),
            *("metric", "split", "mean", "std", "runs", "tokens", "tokens_std"),
            *("tokens_stderr", "length_change", "cut", "thinks", "samples", "majority", "n"),
            sparsifier="how deltas were sparsified before merging; `none` keeps them, `base` "
            "is the base alone",
            mean="score: mean of the metric over the runs, training seeds and mask seeds",
            std="sample standard deviation of the score over runs; missing for a single run",
            tokens="mean number of generated tokens of an answer, with the end token",
            tokens_std="sample standard deviation of `tokens` over runs; missing for a single run",
            tokens_stderr="standard error of `tokens` over the questions of a run",
            length_change="`tokens` relative to the unchanged expert of the benchmark on the "
            "same questions, minus 1; -0.3 is 30 % shorter",
            cut="share of the answers that ended at the limit of tokens",
            thinks="share of the answers with the mark that ends reasoning, such as "
            "`</think>`; marks that the tokenizer counts as special tokens are not seen",
            samples="number of answers to a question",
            majority="share of the questions whose most frequent result is right, for several "
            "samples with one right answer",
        ),
        "<pass@k>": "share of questions that one of k samples answers, estimated without bias "
        "(arXiv 2107.03374); a column per k",
    },
    "answers",
)
_FORGETTING = Table(
    "measures.forgetting",
    "Benchmarks",
    "Scores on tasks that are no expert's own (`harness`), beside the base: what fine-tuning and "
    "merging forgot. Every candidate is listed, not only the selected ones.",
    columns(
        *("family", "experts", "method", "sparsifier", "rate", "settings", "task", "metric"),
        *("split", "mean", "std", "runs", "stderr", "n", "base", "change"),
        sparsifier="how deltas were sparsified before merging; `none` keeps them, `base` is the "
        "base alone",
        base="score of the base on the same task; empty without a sweep, which scores it",
        change="mean minus base; a negative change of a score is forgetting",
    ),
)
ANSWER_TABLES = {"benchmarks": _BENCHMARKS, "answers": _ANSWERS, "forgetting": _FORGETTING}
PARETO = Figure(
    "pareto_figure.pareto_figure",
    "Score of each model of {family} against the mean length of its answers, a panel per "
    "benchmark: all settings, not only selected ones, on the test split. Lines connect "
    "settings that differ in one coefficient or weight. Rings and steps mark the Pareto front: "
    "no other model scores as well with shorter answers.",
    "answers",
)
