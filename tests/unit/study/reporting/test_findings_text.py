"""Findings in words: what each sentence says, and with what evidence."""

import re

import pandas as pd
import pytest

from mergegrid.study.reporting.advice import cost_sentences, duration
from mergegrid.study.reporting.catalogue import TABLES
from mergegrid.study.reporting.findings_text import sections, write_findings
from mergegrid.study.reporting.sentences import bound, evidence, p_text, points
from mergegrid.study.reporting.summary import summary
from mergegrid.study.schema.study import Paths, Study
from mergegrid.study.scoring.findings import COLUMNS
from mergegrid.study.scoring.scores import score_frame

JOBS = pd.DataFrame(
    {
        "rule": ["expert", "merges", "merge", "merge"],
        "job": ["m/a/seed~0", "m/a+b/seed~0", "m/a+b/0/none/average", "m/a+b/0/none/ties"],
        "seconds": [3600.0, 1800.0, 10.0, 30.0],
        "cpu_seconds": [7200.0, 1800.0, 10.0, 30.0],
        "memory_mb": 500.0,
        "gpus": [1.0, None, None, None],
        "gpu_memory_mb": None,
        "gpu_load": None,
    }
)  # fmt: skip


MEASURES = {"over_base": None, "over_experts": None, "retained": None}


def finding(kind, **values):
    row = {
        **{"kind": kind, "family": "m", "experts": "", "method": "ties", "sparsifier": "dare"},
        **{"rate": "0.9", "settings": '{"sparsifier":{}}', "against": "none", "tied": ""},
        **{
            "sets": 3,
            "tasks": 2,
            "n": 300,
            "score": 0.7,
            **MEASURES,
            "difference": 0.004,
            "low": -0.005,
        },
        **{"high": 0.013, "p": 0.3, "p_corrected": 0.6, "comparisons": 2, "df": 80.0},
        **{"se_examples": 0.004, "se_masks": 0.002, "se_training": None, "se_sets": None},
        **{"low_others": None, "high_others": None, "needed": 900.0, "selection": "none"},
        **values,
    }
    assert set(row) == set(COLUMNS)
    return row


def scored(**values):
    return {
        **dict.fromkeys(("stderr", "value"), 0.5),
        **{"study": "merges", "family": "m", "experts": "a+b", "training_seed": 0},
        **{"sparsifier": "none", "rate": 0.0, "mask_seed": None, "method": "ties"},
        **{
            "settings": '{"method": {}, "sparsifier": {}}',
            "head": "a",
            "task": "a",
            "split": "test",
            "metric": "accuracy",
        },
        **{"primary": True, "n": 300, "selected": True, "selection": "validation", "aim": "mean"},
        **{"recipe": "x", "recipe_digest": "x", "engine": "", "libraries": "{}"},
        **{"inputs_digest": "x"},
        **values,
    }


SWEEP = scored(study="sweep", experts="a", method="average")
SCORES = [scored(), scored(experts="a+c"), SWEEP]


def text(rows, scores=SCORES, costs=JOBS):
    types = {name: kind for name, (kind, _) in COLUMNS.items()}
    findings = pd.DataFrame(rows, columns=list(types)).astype(types)
    made = sections(findings, score_frame(scores), costs, "a study")
    return {part.title: " ".join(part.sentences) for part in made}


BEST = finding("best", experts="a+b", against="ties", tied="ties", sets=1, score=0.7512)


def test_a_recipe_that_is_told_apart_is_called_the_best():
    parts = text([{**BEST, "p_corrected": 0.012, "tied": "", "difference": 0.034, "low": 0.01}])
    assert (
        "On a + b, **TIES with DARE at 0.9** is the best recipe: 75.1 points on average over 2 "
        "tasks, 3.4 above TIES (95 % interval 1.0 to 1.3; paired t test, p = 0.01, corrected for "
        "2 comparisons; table `findings`)."
    ) in parts["Which recipe is best?"]


def test_recipes_that_cannot_be_told_apart_are_named():
    parts = text([{**BEST, "tied": "ties; average with dare; slerp"}])
    sentence = parts["Which recipe is best?"]
    assert "leads with 75.1 points" in sentence
    assert (
        sentence.endswith("cannot be told apart from TIES, average with DARE and SLERP.")
        or "cannot be told apart from TIES, average with DARE and SLERP. " in sentence
    )


def test_of_many_recipes_that_cannot_be_told_apart_the_first_are_named():
    names = ["ties", "average", "slerp", "average with dare", "dare", "fisher", "sce", "iso_c"]
    parts = text([{**BEST, "tied": "; ".join(names)}])
    named = "apart from TIES, average, SLERP, average with DARE, DARE and 3 others."
    assert named in parts["Which recipe is best?"]
    parts = text([{**BEST, "tied": "; ".join(names[:6])}])
    named = "apart from TIES, average, SLERP, average with DARE, DARE and Fisher."
    assert named in parts["Which recipe is best?"]


def test_a_merge_stands_beside_base_and_single_experts():
    row = {**BEST, "experts": "", "sets": 6, "over_base": 5 / 6, "over_experts": 0.0}
    assert (
        "Its score is above the base's on 5 of 6 sets and above the single experts' on 0; it keeps "
        "62 % of the gain from the base to the single experts (test scores; table `findings`)."
    ) in text([{**row, "retained": 0.617}])["Which recipe is best?"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"difference": -0.2, "low": -0.25, "high": -0.15, "p_corrected": 1e-9},
         "is 20.0 points below the single experts, each on its task"),
        ({"difference": 0.2, "low": 0.15, "high": 0.25, "p_corrected": 1e-9, "against": "expert b"},
         "is 20.0 points above the best single expert, b"),
        ({}, "cannot be told apart from the single experts, each on its task: +0.40 points"),
    ],
)  # fmt: skip
def test_merges_beside_single_experts(values, expected):
    row = finding("experts", **{"experts": "a+b", "against": "single experts", **values})
    assert expected in text([row])["Which recipe is best?"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"difference": -0.03, "low": -0.05, "high": -0.01, "p_corrected": 0.002},
         "DARE at 0.9 before TIES **lowers** the score by 3.0 points over 3 sets of experts"),
        ({"difference": 0.03, "low": 0.01, "high": 0.05, "p_corrected": 0.002},
         "**raises** the score by 3.0 points"),
        ({"low": -0.0021, "high": 0.0083},
         "has no effect on the score beyond ±0.83 points over 3 sets of experts"),
        ({}, "changes the score by +0.40 points, which may be chance, over 3 sets"),
    ],
)  # fmt: skip
def test_sparsifiers_help_or_not_or_it_cannot_be_told(values, expected):
    assert expected in text([finding("sparsifier", **values)])["Do sparsifiers help?"]


def test_drop_rates_have_a_limit_of_what_is_lost_and_the_first_rate_that_costs():
    rates = {
        "0.5": {"difference": 0.0, "low": -0.002, "high": 0.002, "p_corrected": 1.0},
        "0.9": {"difference": -0.002, "low": -0.006, "high": 0.002, "p_corrected": 0.4},
        "0.95": {"difference": -0.01, "low": -0.03, "high": 0.01, "p_corrected": 0.4},
        "0.99": {"difference": -0.2, "low": -0.3, "high": -0.1, "p_corrected": 1e-6},
    }
    rows = [finding("drop_rate", rate=rate, method="", **values) for rate, values in rates.items()]
    sentence = text(rows[::-1])["How many deltas can be dropped?"]
    assert sentence.startswith("DARE: up to a rate of 0.9 the experts lose no more than 0.6 points")
    assert "at 0.99 they are 20.0 points **lower**" in sentence
    assert "at 0.95 it is open whether they lose: -1.0 points (95 % interval" in sentence
    alone = text([finding("drop_rate", method="", **rates["0.99"])])
    assert alone["How many deltas can be dropped?"].startswith("DARE: at 0.9 the experts are 20.0")


def test_variants_of_a_sparsifier_are_named():
    rows = [
        finding("drop_rate", settings=f'{{"sparsifier":{{"scope":"{scope}"}}}}')
        for scope in ("global", "per_tensor")
    ]
    sentence = text(rows)["How many deltas can be dropped?"]
    assert "DARE (scope=global): " in sentence
    assert "DARE (scope=per_tensor): " in sentence


def test_every_difference_has_interval_test_and_table():
    rows = [BEST, finding("experts", against="single experts"), finding("sparsifier")]
    rows.append(finding("drop_rate", p_corrected=0.01, low=-0.05, high=-0.03, difference=-0.04))
    parts = text([*rows, finding("sparsifier", experts="a+b", sets=1)])
    assert "which may be chance, on a + b" in parts["Do sparsifiers help?"]
    for title in ("Which recipe is best?", "Do sparsifiers help?"):
        for sentence in re.split(r"(?<=\))\. ", parts[title]):
            assert "95 % interval" in sentence
            assert "paired t test, p" in sentence
            assert "table `findings`" in sentence
    for part in parts.values():
        for table in re.findall(r"table `(\w+)`", part):
            assert table in TABLES


def test_a_wide_interval_for_other_experts_is_not_printed():
    row = finding("drop_rate", low_others=-0.2, high_others=0.3)
    assert "-20.0 to 30.0 for other experts like these" in evidence(pd.Series(row))
    wide = finding("drop_rate", low_others=-0.8, high_others=0.9)
    assert "; too few experts to say anything about others; paired" in evidence(pd.Series(wide))


def test_selection_on_test_is_said_first():
    assert text([BEST])["m"] == ""
    warning = text([{**BEST, "selection": "test"}])["m"]
    assert "selected on the test split" in warning
    assert "optimistically biased" in warning


@pytest.mark.parametrize(
    ("rows", "scores", "expected"),
    [
        ([], [SWEEP], "Which recipe is best: no experts were merged."),
        ([], [scored()], "every set of experts was merged by one recipe only"),
        ([], [scored()], "the single experts were not scored"),
        ([], [scored()], "no sweep scored the single experts"),
        ([], [scored()], "one set was merged, a + b"),
        ([], [scored()], "there is one training seed"),
        ([], [scored(sparsifier="dare", rate=0.9, mask_seed=0)], "there is one mask seed"),
        ([], [scored(sparsifier="dare", rate=0.9)], "Whether DARE helps: no method was also run"),
        ([finding("experts", against="single experts")], SCORES, "the best single expert over all"),
    ],
)
def test_what_cannot_be_said_is_said_with_the_reason(rows, scores, expected):
    assert expected in text(rows, scores)["What cannot be said"]


def test_experts_that_are_hardly_better_than_the_base_are_named():
    def alone(expert, value, base, **more):
        sweep = {"study": "sweep", "experts": expert, "head": expert, "task": expert, **more}
        gone = {"sparsifier": "drop_only", "rate": 1.0}
        return [scored(**sweep, value=value), scored(**sweep, value=base, **gone)]

    learned = alone("a", 0.8, 0.5)
    # c learned its second task.
    other = [*alone("c", 0.5, 0.5), *alone("c", 0.9, 0.5, task="other")]
    assert "nothing to lose" not in str(text([], [*SCORES, *learned, *other]))
    one = text([], [scored(), *learned, *alone("b", 0.51, 0.5)])["What cannot be said"]
    assert "costs b: alone, b is not 2 points better than the base, so on its task there is" in one
    two = text([], [scored(), *alone("a", 0.3, 0.4), *alone("b", 0.5, 0.5)])["What cannot be said"]
    assert "costs a and b: alone, a and b are not 2 points" in two


def test_what_is_measured_is_not_among_what_cannot_be_said():
    several = [
        {**row, "training_seed": seed, "mask_seed": seed, "sparsifier": "dare", "rate": 0.9}
        for row in SCORES
        for seed in (0, 1)
    ]
    rows = [BEST, finding("experts", against="expert a"), finding("sparsifier")]
    said = text(rows, several)["What cannot be said"]
    assert said.startswith("What would hold for other experts:")


def test_open_comparisons_have_a_number_of_examples():
    advice = text([BEST])["What to do next"]
    assert (
        "To tell TIES with DARE at 0.9 and TIES apart on a + b, about 900 test examples instead of "
        "300 are enough, if they differ by 1.0 points"
    ) in advice
    assert "80 % is due to test examples: more test examples would narrow" in advice
    never = text([{**BEST, "needed": float("inf"), "se_masks": 0.05}])["What to do next"]
    assert "more test examples are not enough" in never
    assert "more mask seeds (`seeds.mask`)" in never


def test_differences_known_to_be_small_need_nothing():
    row = finding("sparsifier", low=-0.004, high=0.006)
    assert "What to do next" not in text([row])


def test_costs_are_those_of_the_jobs():
    cost = " ".join(cost_sentences(JOBS, score_frame([scored()])))
    assert "All jobs together took 90.7 minutes" in cost
    assert "60 minutes of GPU time" in cost
    assert "fine-tune experts 66 %" in cost
    assert "took 30 minutes on average" in cost or "took 1800 s" in cost
    assert "from 10 s (average) to 30 s (ties)" in cost
    assert "No job" in cost_sentences(JOBS.iloc[:0], score_frame([]))[0]


def test_numbers_are_rounded_so_that_they_stay_true():
    assert [points(value) for value in (0.1234, 0.00456, -0.0996)] == ["12.3", "0.46", "-10.0"]
    assert points(0.02, sign=True) == "+2.0"
    # Limits are rounded up.
    assert [bound(value) for value in (0.00831, 0.0101, 0.02)] == ["0.84", "1.1", "2"]
    assert [p_text(p) for p in (1e-7, 0.0042, 0.31)] == ["p < 0.001", "p = 0.004", "p = 0.31"]
    assert [duration(seconds) for seconds in (0.5, 90, 600, 9000)] == [
        "0.5 s", "90 s", "10 minutes", "2.5 hours"
    ]  # fmt: skip


def test_sentences_are_written_as_markdown_and_as_a_page_and_printed(tmp_path, monkeypatch):
    types = {name: kind for name, (kind, _) in COLUMNS.items()}
    findings = pd.DataFrame([BEST], columns=list(types)).astype(types)
    made = sections(findings, score_frame(SCORES), JOBS, "R&D")
    folder = tmp_path / "results"
    write_findings(made, folder / "findings.md", folder / "findings_text.html")
    markdown = (folder / "findings.md").read_text()
    assert markdown.startswith("# Findings: R&D\n")
    assert "\n\n## m\n\n### Which recipe is best?\n\n- On a + b, **TIES" in markdown
    page = (folder / "findings_text.html").read_text()
    assert "<h1>Findings: R&amp;D</h1>" in page
    assert "<strong>TIES with DARE at 0.9</strong>" in page
    assert "table <code>findings</code>" in page
    monkeypatch.chdir(tmp_path)
    score_frame(SCORES).to_parquet(folder / "scores.parquet")
    study = Study.model_construct(paths=Paths())
    assert summary(study).startswith(markdown)
