"""Phases of a run: the rules of the workflow, grouped and named for people who watch them."""

from collections.abc import Mapping
from pathlib import PurePosixPath

PREPARE = "fetch and prepare"
TRAIN = "fine-tune or import"
MEASURE = "measure models"
SWEEP = "sweep drop rates"
MERGE = "merge experts"
ANSWER = "generate answers"
SCORE = "score answers"
REPORT = "tables and figures"
OTHER = "other jobs"
PHASES = (PREPARE, TRAIN, MEASURE, SWEEP, MERGE, ANSWER, SCORE, REPORT, OTHER)
"""Phases in the order in which data flows; each is one bar."""

#: Rule -> its phase and the title of a job, filled with the job's wildcards.
_RULES = {
    "fetch": (PREPARE, "fetch {name}"),
    "prepare": (PREPARE, "examples of {task}"),
    "import_base": (PREPARE, "base of {family}"),
    "import_decoder": (PREPARE, "base of {family}"),
    "instructions": (PREPARE, "instructions for {expert} of {family}"),
    "calibration": (PREPARE, "texts for statistics of {expert}, {family}"),
    "questions": (PREPARE, "questions of {benchmark}"),
    "sandbox": (PREPARE, "sandbox"),
    "expert": (TRAIN, "expert {expert} of {family}, seed {seed}"),
    "decoder": (TRAIN, "expert {expert} of {family}, seed {seed}"),
    "oracle": (TRAIN, "oracle {set} of {family}, seed {seed}"),
    "deltas": (MEASURE, "deltas of {expert}, {family}, seed {seed}"),
    "statistics": (MEASURE, "statistics of {expert}, {family}, seed {seed}"),
    "decoder_statistics": (MEASURE, "statistics of {expert}, {family}, seed {seed}"),
    "similarity": (MEASURE, "similarity of {expert}, {family}, seed {seed}"),
    "decoder_similarity": (MEASURE, "similarity of {expert}, {family}, seed {seed}"),
    "sweep": (SWEEP, "sweep of {expert}, {family}, seed {seed}"),
    "merges": (MERGE, "merges of {set}, {family}, seed {seed}"),
    "merge": (MERGE, "merge of {variant}, {family}"),
    "export": (MERGE, "export {set} of {family}, seed {seed}"),
    "generate": (ANSWER, "answers of {variant}, {family}"),
    "score": (SCORE, "{benchmark}: {set} of {family}, seed {seed}"),
    "choose": (SCORE, "selection: {set} of {family}, seed {seed}"),
    "harness": (SCORE, "lm-evaluation-harness: {variant}, {family}"),
    "oracle_scores": (SCORE, "oracle {set} of {family}, seed {seed}"),
    "scores": (REPORT, "all scores"),
    "answers": (REPORT, "lengths of answers"),
    "comparisons": (REPORT, "comparisons"),
    "ranking": (REPORT, "ranking"),
    "findings": (REPORT, "findings"),
    "findings_text": (REPORT, "findings in words"),
    "table": (REPORT, "table {table}"),
    "figure": (REPORT, "figure {figure} of {family}"),
    "costs": (REPORT, "costs"),
    "all": (REPORT, "all results"),
}
#: Rules of one set of experts each are named so, followed by family, set and seed.
_ENGINE = "generate_"


def base_rule(rule: str) -> str:
    """The rule, or `generate` for one of the rules of single sets."""
    return "generate" if rule.startswith(_ENGINE) else rule


def phase_of(rule: str) -> str:
    """The phase of a rule; rules of other workflows are `OTHER`."""
    phase, _ = _RULES.get(base_rule(rule), (OTHER, ""))
    return phase


def job_title(rule: str, wildcards: Mapping[str, str], log: str = "") -> str:
    """Title of a job, such as `expert trec of minilm, seed 0`.

    Args:
        rule: name of its rule.
        wildcards: values of its wildcards.
        log: its log file, whose path names what a rule without wildcards is about.
    """
    if rule.startswith(_ENGINE) and not wildcards and log:
        *_, family, experts, seed = PurePosixPath(log).with_suffix("").parts
        return f"answers of {experts}, {family}, {seed.replace('~', ' ')}"
    _, title = _RULES.get(rule, (OTHER, ""))
    values = {name: value.replace("~", " ") for name, value in wildcards.items()}
    try:
        return title.format(**values) if title else " ".join([rule, *values.values()])
    except KeyError:
        return " ".join([rule, *values.values()])
