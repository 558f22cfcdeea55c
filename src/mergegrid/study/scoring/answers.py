"""Form of the answers of decoders: length, cut answers, reasoning, and votes over several samples.

Everything is computed from the records of graded answers, one file after the other, so that the
texts of a large study are never in memory at a time.
"""

from collections import Counter
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd

from mergegrid.study.grading.answers.number_forms import exact
from mergegrid.study.grading.programs.estimate import pass_at_k
from mergegrid.study.grading.programs.passages import REASONING_ENDS

STAGE_VERSIONS = {"answers": 1}

#: What identifies a row: a recipe on one split of a benchmark.
KEYS = ["recipe_digest", "task", "split"]
MEASURES = ["tokens", "tokens_stderr", "cut", "thinks", "samples", "majority"]
_RECORDED = ["recipe_digest", "benchmark", "split", "id", "output", "finish", "tokens"]
_VOTES = ("right", "wrong", "unparsed")
"""Verdicts of graders of questions with one right answer, among which samples can vote."""
_PASSED = ("right", "passed")
_RIGHT = ("right", "")


def answer_forms(scores: pd.DataFrame, records: Iterable[Path]) -> pd.DataFrame:
    """Measure the answers behind the primary scores of decoders.

    Args:
        scores: scores of a study, with the columns of `scores.COLUMNS`.
        records: files of graded answers, written by `grading.benchmark.score_benchmark`.

    Returns:
        The primary scores of all files, each with columns:
            tokens, tokens_stderr: mean length of an answer, and its standard error over questions.
            cut: share of the answers that ended at the limit of tokens.
            thinks: share of the answers with the mark that ends reasoning, such as `</think>`
                (arXiv 2510.10977); an answer that was cut before it does not count.
            samples: number of answers to a question.
            majority: share of the questions whose most frequent result is right; missing for one
                sample and for programs. Right answers are one result, however they are written;
                others are one if they are the same number or the same text. Results with equally
                many votes share a question.
            pass@2, pass@4, ..., pass@samples: the unbiased estimate of Chen et al. 2021; columns
                exist as far as any benchmark has as many samples.
    """
    parts = [_of_file(path) for path in records]
    if not parts:
        parts = [pd.DataFrame(columns=[*KEYS, *MEASURES])]
    forms = pd.concat(parts, ignore_index=True)
    last = sorted((name for name in forms.columns if name.startswith("pass@")), key=_k_of)
    compared = scores[scores["primary"] & (scores["engine"] != "")]
    return compared.merge(forms[[*KEYS, *MEASURES, *last]], on=KEYS).reset_index(drop=True)


def _k_of(name: str) -> int:
    return int(name.removeprefix("pass@"))


def _of_file(path: Path) -> pd.DataFrame:
    records = pd.read_parquet(path, columns=[*_RECORDED, "extracted", "verdict"])
    records = records.rename(columns={"benchmark": "task"})
    records["cut"] = records["finish"].eq("length").astype(float)
    records["thinks"] = [float(bool(REASONING_ENDS.search(text))) for text in records["output"]]
    by_question = records.groupby([*KEYS, "id"], sort=False, as_index=False)
    questions = by_question.agg(
        tokens=("tokens", "mean"),
        cut=("cut", "mean"),
        thinks=("thinks", "mean"),
        samples=("tokens", "size"),
    )
    least = int(questions["samples"].min())
    if least > 1:
        passed = [group.isin(_PASSED).tolist() for _, group in by_question["verdict"]]
        for k in _powers(least):
            questions[f"pass@{k}"] = [pass_at_k(samples, k) for samples in passed]
    voting = least > 1 and set(records["verdict"]) <= set(_VOTES)
    questions["majority"] = [_vote(group) for _, group in by_question] if voting else np.nan
    by_model = questions.groupby(KEYS, sort=False)
    means = by_model.mean(numeric_only=True)
    means["tokens_stderr"] = by_model["tokens"].sem()
    means["samples"] = by_model["samples"].min()
    return means.reset_index()


def _powers(samples: int) -> list[int]:
    """Numbers of samples to estimate pass@k for: powers of two, and all: 12 gives 2, 4, 8, 12."""
    doubled = [2**power for power in range(1, samples.bit_length()) if 2**power < samples]
    return [*doubled, samples]


def _vote(answers: pd.DataFrame) -> float:
    """Share of the most frequent results that is right; answers without a result do not vote."""
    votes = Counter(
        _RIGHT if verdict == "right" else _result(text)
        for text, verdict in zip(answers["extracted"], answers["verdict"], strict=True)
        if verdict != "unparsed"
    )
    largest = [result for result, count in votes.items() if count == max(votes.values())]
    return sum(result == _RIGHT for result in largest) / max(len(largest), 1)


def _result(text: str) -> tuple[str, Fraction | str]:
    number = exact(text)
    return ("text", text) if number is None else ("number", number)
