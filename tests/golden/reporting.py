"""Golden numbers of what comes after scores: choices, comparisons, tables, figures and costs."""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from golden import inputs
from golden.recorded import ARITHMETIC, TORCH, Numbers
from golden.result_files import GAINS, decoder_answers, results_of
from golden.results import rows, sweep_of_answers
from mergegrid.methods.average import Average
from mergegrid.methods.task_arithmetic import TaskArithmetic
from mergegrid.sparsifiers.dare import Dare
from mergegrid.sparsifiers.none import NoSparsifier
from mergegrid.study.encoders.evaluator import EncoderEvaluator, EvaluatedExpert
from mergegrid.study.encoders.merges import merges
from mergegrid.study.encoders.parts import Part, order_of
from mergegrid.study.encoders.racing import race
from mergegrid.study.encoders.samplers import sampler_of
from mergegrid.study.encoders.store import ScoreStore
from mergegrid.study.reporting.catalogue import FIGURES, TABLES
from mergegrid.study.reporting.costs import cost_table, costs_figure, job_costs
from mergegrid.study.reporting.files import write_table
from mergegrid.study.reporting.libraries import table_notes
from mergegrid.study.reporting.stage_names import STAGES
from mergegrid.study.schema.encoder_jobs import MergesRequest
from mergegrid.study.schema.racing import Racing
from mergegrid.study.schema.sampling import Sampled
from mergegrid.study.scoring.answers import MEASURES
from mergegrid.study.scoring.choice import choose
from mergegrid.study.scoring.comparisons import compare
from mergegrid.study.scoring.findings import findings as compute_findings
from mergegrid.study.scoring.ranking import rank
from mergegrid.study.scoring.scores import score_frame

_HEAD = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"


def select(folder: Path) -> Any:
    """The choice among decoders, and the search of encoders by the mean and for each task."""
    chosen = choose(score_frame([row for row in rows() if row["study"] == "merges"]))
    base = inputs.encoder(folder)
    targets = [inputs.PRAISE, inputs.KIND]
    experts = {
        target.task: EvaluatedExpert(
            inputs.classifier(folder, base, target, seed),
            target,
            inputs.of_task(target, inputs.examples(validation=16)),
        )
        for seed, target in enumerate(targets, 1)
    }
    found: dict[str, Any] = {
        "decoders": chosen[["method", "sparsifier", "rate", "mask_seed", "split", "selected"]]
    }
    for aim in ("mean", "each"):
        request = MergesRequest(
            family="tiny",
            experts=list(experts),
            training_seed=0,
            targets=targets,
            methods=[[Average()], [TaskArithmetic(coefficient=each) for each in (0.5, 1.0, 3.0)]],
            sparsifiers=[
                [NoSparsifier()],
                [Dare(rate=rate, seed=seed) for rate in (0.3, 0.9) for seed in (0, 1)],
            ],
            selection="validation",
            aim=aim,
        )
        evaluator = EncoderEvaluator(base, experts, ScoreStore(folder / f"{aim}.jsonl"))
        scores, predictions = merges(request, evaluator)
        columns = ["recipe", "head", "split", "value", "stderr", "n", "selected"]
        found[aim] = {"scores": scores[columns], "predictions": predictions["predictions"].tolist()}
    return found


def race_of_candidates(folder: Path) -> Any:
    """The order of examples, the parts of races, and what races evaluate and choose."""
    examples = inputs.examples(validation=16)
    found: dict[str, Any] = {"order": [order_of(examples, seed).tolist() for seed in (0, 1)]}
    for racing in (Racing(examples=1), Racing(start=0.2, keep=0.3, examples=40, seed=5)):
        evaluated: list[Any] = []

        def evaluate(one: int, parts: Mapping[str, Part | None], to: Any = evaluated) -> Any:
            to.append(
                [one, {head: list(part.ends) if part else [] for head, part in parts.items()}]
            )
            return [
                {head: (one * 7 + place * len(head)) % 13 / 13 for head in parts}
                for place in (1, 2)
            ]

        for selections in ([("a", "bb")], [("a",), ("bb",)]):
            best = race(12, selections, racing, {"a": 400, "bb": 150}, evaluate, "golden")
            name = f"{racing.start:g} {len(selections)}"
            chosen = {"+".join(heads): one for heads, one in best.items()}
            found[name] = {"best": chosen, "evaluated": list(evaluated)}
            evaluated.clear()
    return found


def sample(folder: Path) -> Any:
    """Points of the samplers that every installation has."""
    ranges = {"coefficient": {"low": 0.1, "high": 10, "log": True}, "trim": {"low": 0.5, "high": 1}}
    found = {}
    for sampler in ("random", "sobol"):
        drawing = sampler_of(
            Sampled.model_validate(
                {"sampler": sampler, "seed": 3, "method": {"kind": "ties", **ranges}}
            )
        )
        found[sampler] = [list(point.values()) for point in drawing.ask(5) + drawing.ask(3)]
    return found


def comparisons(folder: Path) -> Any:
    """Intervals and p-values of a bootstrap over examples and seeds, corrected by Holm."""
    scores, answers, labels = sweep_of_answers()
    return compare(scores, answers, labels, resamples=500)


def ranking(folder: Path) -> Any:
    """Ranks and scores of merges, with intervals of ranks and of how far they are behind."""
    scores, answers, labels = sweep_of_answers()
    return rank(scores, answers, labels)


def answers(folder: Path) -> Any:
    """Length of answers, reasoning, and votes over samples."""
    return decoder_answers(folder)[["recipe_digest", "task", "split", *MEASURES, "pass@2"]]


def findings(folder: Path) -> Any:
    """Best recipes, sparsifiers and drop rates, with their variances by level."""
    scores, answers, labels = sweep_of_answers()
    return compute_findings(scores, answers, labels)


def tables(folder: Path) -> Any:
    """Every table as it is written for programs, and the notes beside it."""
    results, found = results_of(folder), {}
    of_gains = replace(results, published=GAINS)
    for name in TABLES:
        asked = of_gains if name == "sparsifier_effects" else results
        paths = [folder / f"{name}.{kind}" for kind in ("csv", "md", "html", "tex")]
        write_table(TABLES[name].make(asked), *paths)
        with paths[0].open(newline="", encoding="utf-8") as file:
            found[name] = [[_cell(text) for text in row] for row in csv.reader(file)]
    return {**found, "notes": table_notes(results.scores)}


def figures(folder: Path) -> Any:
    """What every figure shows: the data of its lines, bars, points and bands, and its words."""
    results = results_of(folder)
    of = {"pareto": "llama"}
    return {name: _shown(FIGURES[name].draw(of.get(name, "minilm"), results)) for name in FIGURES}


def costs(folder: Path) -> Any:
    """Measured jobs of every rule, with and without GPUs, and their table and figure."""
    for number, rule in enumerate(STAGES):
        for job in range(1 + number % 3):
            path = folder / "benchmarks" / rule / f"{job}.tsv"
            path.parent.mkdir(parents=True, exist_ok=True)
            seconds, memory = 90 * (number + job + 1), "NA" if number == 3 else 100 * number + job
            path.write_text(f"{_HEAD}{seconds}\t0\t{memory}\t0\t0\t0\t0\t0\t0\t{seconds / 2}\n")
            if number % 4 == 0:
                used = folder / rule / f"{job}.gpu.tsv"
                used.parent.mkdir(parents=True, exist_ok=True)
                line = f"{1 + job}\t9\t{1000 * number}\t{50 + number}.5"
                used.write_text(f"gpus\tsamples\tmemory_mb\tload\n{line}\n")
    table = cost_table(job_costs(folder), dict.fromkeys(list(STAGES)[::2], 4000))
    return {"table": table, "figure": _shown(costs_figure(table))}


def _shown(figure: Figure) -> dict[str, Any]:
    """The data that a figure draws, panel by panel."""
    words = [
        text.get_text() for text in (figure._suptitle, figure._supylabel, figure._supxlabel) if text
    ]
    return {"words": words, "panels": [_panel(axis) for axis in figure.axes]}


def _panel(axis: Axes) -> dict[str, Any]:
    return {
        "words": [*_words(axis)],
        "limits": [*map(float, axis.get_xlim()), *map(float, axis.get_ylim())],
        "lines": [np.asarray(line.get_xydata()).tolist() for line in axis.lines],
        "shapes": [
            each.get_path().transformed(each.get_patch_transform()).vertices.tolist()
            for each in axis.patches
        ],
        "points": [np.asarray(each.get_offsets()).tolist() for each in axis.collections],
        "bands": [
            [path.vertices.tolist() for path in each.get_paths()[:4]] for each in axis.collections
        ],
    }


def _words(axis: Axes) -> Iterator[str]:
    yield from (axis.get_title(), axis.get_xlabel(), axis.get_ylabel())
    for text in axis.findobj(Text):
        if text.get_text().strip():
            yield text.get_text()


def _cell(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


NUMBERS = {
    "select": Numbers(select, TORCH),
    "race": Numbers(race_of_candidates),
    "sample": Numbers(sample),
    "comparisons": Numbers(comparisons, ARITHMETIC),
    "ranking": Numbers(ranking, ARITHMETIC),
    "answers": Numbers(answers, ARITHMETIC),
    "findings": Numbers(findings, ARITHMETIC),
    "tables": Numbers(tables, ARITHMETIC),
    "figures": Numbers(figures, 1e-6),
    "costs": Numbers(costs, ARITHMETIC),
}
