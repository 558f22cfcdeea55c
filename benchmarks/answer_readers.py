"""Compare how mergegrid, lm-evaluation-harness and math-verify read answers to GSM8K and MATH.

    python benchmarks/answer_readers.py --data path/to/data --lm-eval-python path/to/python

First, answers whose correct reading is known: the table of the tests
(`tests/unit/study/grading/answers/answers.jsonl`), and the gold solutions of `gsm8k/test.jsonl` and
`math/test.jsonl` in `--data`. Then, answers whose correct reading has not been checked: the last
lines of the solutions of GSM8K and, with `--study RESULTS BENCHMARK TASK`, the answers of the
models of a finished study, such as `--study results problems gsm8k` of the quickstart. Prints a
Markdown table of each kind, and the answers on which readers differ.

lm-evaluation-harness uses the filters and tasks gsm8k (`strict-match` and `flexible-extract`) and
hendrycks_math. Its minerva_math requires a different version of ANTLR than math-verify.
"""

import argparse
import json
import logging
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

TABLE = (
    Path(__file__).parents[1] / "tests" / "unit" / "study" / "grading" / "answers" / "answers.jsonl"
)
Case = dict[str, Any]


def mergegrid(case: Case) -> str:
    """Return the verdict of mergegrid."""
    from mergegrid.study.grading.answers import latex, numbers

    grade = numbers.grade if case["task"] == "gsm8k" else latex.grade
    result = grade(case["gold"], case["text"])
    if result.extracted is None:
        return "unparsed"
    return "right" if result.correct else "wrong"


def math_verify(case: Case) -> str:
    """Return the verdict of math-verify with its defaults."""
    from math_verify import parse, verify

    gold, answer = parse(f"${case['gold']}$"), parse(case["text"])
    if not answer:
        return "unparsed"
    return "right" if verify(gold, answer) else "wrong"


def lm_eval(case: Case) -> dict[str, str]:
    """Return the verdicts of lm-evaluation-harness; runs in the environment of lm-eval."""
    if case["task"] == "math":
        from lm_eval.tasks.hendrycks_math.utils import process_results

        boxed = {"solution": rf"\boxed{{{case['gold']}}}"}
        right = process_results(boxed, [case["text"]])["exact_match"]
        return {"lm-eval hendrycks_math": "right" if right else "wrong"}
    import lm_eval
    import yaml
    from lm_eval.filters.extraction import RegexFilter

    task = Path(lm_eval.__file__).parent / "tasks" / "gsm8k" / "gsm8k.yaml"
    settings = yaml.safe_load(task.read_text(encoding="utf-8"))
    ignored = settings["metric_list"][0]["regexes_to_ignore"]
    verdicts = {}
    for entry in settings["filter_list"]:
        first = {key: value for key, value in entry["filter"][0].items() if key != "function"}
        filtered = RegexFilter(**first).apply([[case["text"]]], [{}])
        (extracted,) = next(iter(filtered))
        pair = [extracted, case["gold"]]
        for pattern in ignored:
            pair = [re.sub(pattern, "", text) for text in pair]
        right = pair[0].lower() == pair[1].lower()
        verdict = "unparsed" if extracted == "[invalid]" else "right" if right else "wrong"
        verdicts[f"lm-eval gsm8k, {entry['name']}"] = verdict
    return verdicts


def gold_solutions(data: Path) -> list[Case]:
    """Return the solutions of the data sets, all of which give the gold answer."""
    cases = []
    for line in (data / "gsm8k" / "test.jsonl").read_text(encoding="utf-8").splitlines():
        answer = json.loads(line)["answer"]
        gold = answer.rpartition("####")[2].strip()
        cases.append({"task": "gsm8k", "kind": "gold solutions", "gold": gold, "text": answer})
    for line in (data / "math" / "test.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        case = {"kind": "gold solutions", "gold": record["answer"], "text": record["solution"]}
        cases.append({"task": "math", **case})
    return [case | {"expected": "right"} for case in cases]


def last_lines(data: Path) -> list[Case]:
    """Return the last lines of the solutions of GSM8K, after the phrase that the paper expects."""
    cases = []
    for name in ("train", "test"):
        path = data / "gsm8k" / f"{name}.jsonl"
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            solution, _, gold = json.loads(line)["answer"].rpartition("####")
            last = re.sub(r"<<.*?>>", "", solution).strip().rpartition("\n")[2]
            case = {"gold": gold.strip(), "text": f"The answer is: {last}"}
            cases.append({"task": "gsm8k", "kind": "last lines", **case})
    return cases


def of_study(results: Path, benchmark: str, task: str) -> list[Case]:
    """Return all distinct answers of all models of a study to one of its benchmarks."""
    import pandas as pd

    from mergegrid.study.grading.answers.segments import boxed

    questions = pd.read_parquet(results / "benchmarks" / f"{benchmark}.parquet")
    golds = {}
    for question in questions.itertuples():
        reference = json.loads(question.reference)
        gold = reference.get("answer") or boxed(reference["solution"])
        golds[question.id] = gold.rpartition("####")[2].strip()
    answers = set()
    for path in sorted(results.glob("*/answers/**/*.parquet")):
        frame = pd.read_parquet(path)
        rows = frame[(frame["benchmark"] == benchmark) & frame["id"].isin(golds)]
        answers |= {(golds[row.id], row.output) for row in rows.itertuples()}
    kind = f"models of the study, {benchmark}"
    return [
        {"task": task, "kind": kind, "gold": gold, "text": text} for gold, text in sorted(answers)
    ]


def fair(verdict: str, expected: str) -> str:
    """Compare a verdict with the truth: `right`, `unparsed` or `misread`.

    If no reading is certain, or the answer is wrong, every verdict but "right" is right.
    """
    if expected == "right":
        return verdict if verdict != "wrong" else "misread"
    return "misread" if verdict == "right" else "right"


def print_table(cases: list[Case], verdicts: list[dict[str, str]]) -> None:
    """Print counts by task, kind of answers and reader."""
    counts: dict[tuple[str, str, str], Counter[str]] = {}
    for case, by_reader in zip(cases, verdicts, strict=True):
        source = "gold solutions" if case["kind"] == "gold solutions" else "table of answers"
        for reader, verdict in by_reader.items():
            count = counts.setdefault((case["task"], source, reader), Counter())
            count[fair(verdict, case["expected"])] += 1
    print("| task | answers | reader | right | unparsed | wrong |")  # noqa: T201
    print("| --- | --- | --- | ---: | ---: | ---: |")  # noqa: T201
    for (task, source, reader), count in sorted(counts.items()):
        numbers = " | ".join(str(count[key]) for key in ("right", "unparsed", "misread"))
        print(f"| {task} | {source} | {reader} | {numbers} |")  # noqa: T201


def print_agreement(cases: list[Case], verdicts: list[dict[str, str]]) -> None:
    """Print verdicts on answers whose correct reading is unknown, compared with mergegrid's."""
    counts: dict[tuple[str, str, str], Counter[str]] = {}
    for case, by_reader in zip(cases, verdicts, strict=True):
        for reader, verdict in by_reader.items():
            count = counts.setdefault((case["task"], case["kind"], reader), Counter())
            count.update([verdict, *(["differs"] if verdict != by_reader["mergegrid"] else [])])
    print("| task | answers | reader | equal to the gold | unparsed | other | not as mergegrid |")  # noqa: T201
    print("| --- | --- | --- | ---: | ---: | ---: | ---: |")  # noqa: T201
    for (task, kind, reader), count in sorted(counts.items()):
        numbers = " | ".join(str(count[key]) for key in ("right", "unparsed", "wrong", "differs"))
        print(f"| {task} | {kind} | {reader} | {numbers} |")  # noqa: T201


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with gsm8k/ and math/")
    parser.add_argument(
        "--study",
        nargs=3,
        action="append",
        default=[],
        metavar=("RESULTS", "BENCHMARK", "TASK"),
        help="results of a finished study, one of its benchmarks, and gsm8k or math",
    )
    parser.add_argument("--lm-eval-python", default=sys.executable, help="Python with lm_eval")
    parser.add_argument("--as-lm-eval", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.as_lm_eval:
        print(json.dumps([lm_eval(json.loads(line)) for line in sys.stdin]))  # noqa: T201
        return
    logging.disable(logging.WARNING)
    cases = [json.loads(line) for line in TABLE.read_text(encoding="utf-8").splitlines()]
    cases += gold_solutions(options.data) if options.data else []
    cases += last_lines(options.data) if options.data else []
    for results, benchmark, task in options.study:
        cases += of_study(Path(results), benchmark, task)
    ran = subprocess.run(
        [options.lm_eval_python, __file__, "--as-lm-eval"],
        input="\n".join(map(json.dumps, cases)),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    verdicts = json.loads(ran.stdout.splitlines()[-1])
    for case, by_reader in zip(cases, verdicts, strict=True):
        by_reader |= {"math-verify": math_verify(case), "mergegrid": mergegrid(case)}
    for print_some, known in ((print_table, True), (print_agreement, False)):
        some = [index for index, case in enumerate(cases) if ("expected" in case) == known]
        print_some([cases[index] for index in some], [verdicts[index] for index in some])
        print()  # noqa: T201
    print("Disagreements:")  # noqa: T201
    for case, by_reader in zip(cases, verdicts, strict=True):
        truth = case.get("expected")
        if len({fair(verdict, truth or "right") for verdict in by_reader.values()}) > 1:
            print(json.dumps({**case, "text": case["text"][-200:], "verdicts": by_reader}))  # noqa: T201


if __name__ == "__main__":
    main()
