"""Scores of a study that was never run, and the answers behind some of them."""

import json
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mergegrid.study.scoring.scores import score_frame
from mergegrid.study.tasks.metrics import score

_TASKS = {"trec": "accuracy", "spam": "matthews"}
_ENGINE = "vllm bfloat16 H100"


def row(**values: Any) -> dict[str, Any]:
    """A row of scores: `trec` alone, on test, unless told otherwise."""
    settings = {"sparsifier": values.pop("settings", {}), "method": values.pop("of_method", {})}
    made = {
        **{"study": "sweep", "family": "minilm", "experts": "trec", "training_seed": 0},
        **{"sparsifier": "none", "rate": 0.0, "mask_seed": None, "method": "average"},
        **{"settings": json.dumps(settings, sort_keys=True), "task": "trec", "split": "test"},
        **{"metric": "accuracy", "primary": True, "stderr": 0.015625, "n": 500, "selected": True},
        **{"selection": "none", "aim": "none", "recipe": "slug", "engine": ""},
        **{"libraries": '{"python":["3.11.2"],"torch":["2.13.0"]}', "inputs_digest": "x"},
        **values,
    }
    point = ("family", "experts", "training_seed", "sparsifier", "rate", "mask_seed", "method")
    digest = "|".join(str(made[name]) for name in (*point, "settings"))
    return {"recipe_digest": digest, "head": made["experts"], **made}


def rows() -> list[dict[str, Any]]:
    """A sweep of two encoders, merges of both, an oracle, and decoders on two benchmarks."""
    found = []
    for place, (task, metric) in enumerate(_TASKS.items()):
        alone = {"experts": task, "task": task, "metric": metric}
        for seed in (0, 1):
            alone["training_seed"] = seed
            best = 0.875 - place / 16 + seed / 64
            found.append(row(**alone, value=best))
            base = {"sparsifier": "drop_only", "rate": 1.0, "mask_seed": 0}
            found.append(row(**alone, **base, value=0.25 + place / 8))
            for rate in (0.1, 0.5, 0.9):
                for mask in (0, 1):
                    dare = {"sparsifier": "dare", "rate": rate, "mask_seed": mask}
                    found.append(row(**alone, **dare, value=best - rate**2 / (8 + mask + seed)))
                for scope in ("global", "per_tensor"):
                    cut = {"sparsifier": "magnitude", "rate": rate, "settings": {"scope": scope}}
                    found.append(row(**alone, **cut, value=best - rate / (2 + len(scope))))
    return [*found, *_merges("minilm", _TASKS, ""), *_oracle(), *_decoders()]


def _merges(family: str, tasks: dict[str, str], engine: str) -> list[dict[str, Any]]:
    found = []
    for number, method in enumerate(("average", "task_arithmetic", "ties")):
        for coefficient in (0.5, 1.0):
            for kind, rate, mask in [("none", 0.0, None), ("dare", 0.5, 0), ("dare", 0.9, 1)]:
                for split in ("validation", "test"):
                    for place, (task, metric) in enumerate(tasks.items()):
                        value = 0.5 + number / 16 + coefficient / 8 + rate / 32 - place / 64
                        found.append(
                            row(
                                study="merges",
                                family=family,
                                experts="+".join(tasks),
                                head=task,
                                task=task,
                                metric=metric,
                                method=method,
                                of_method={"coefficient": coefficient},
                                sparsifier=kind,
                                rate=rate,
                                mask_seed=mask,
                                split=split,
                                value=value + (split == "test") / 128,
                                selected=coefficient == 1.0 and rate != 0.5,
                                selection="validation",
                                aim="mean",
                                engine=engine,
                            )
                        )
    return found


def _oracle() -> list[dict[str, Any]]:
    return [
        row(study="oracle", experts="trec+spam", head=task, task=task, metric=metric,
            method="multitask", value=0.8125 - place / 8)
        for place, (task, metric) in enumerate(_TASKS.items())
    ]  # fmt: skip


def _decoders() -> list[dict[str, Any]]:
    found = []
    tasks = {"math": "gsm8k", "code": "mbpp"}
    for place, (expert, task) in enumerate(tasks.items()):
        named = {"family": "llama", "experts": expert, "task": task, "engine": _ENGINE}
        for metric, value in [
            ("accuracy", 0.625),
            ("accuracy_paper_rule", 0.5),
            ("unparsed", 0.125),
        ]:
            part = {**named, "metric": metric, "primary": metric == "accuracy"}
            found.append(row(**part, value=value - place / 16))
            dare = {"sparsifier": "dare", "rate": 0.9, "mask_seed": 0}
            found.append(
                row(**part, **dare, value=value - place / 8, libraries='{"torch":["2.12"]}')
            )
    metrics = dict.fromkeys(tasks.values(), "accuracy")
    merged = _merges("llama", metrics, _ENGINE)
    owners = {task: expert for expert, task in tasks.items()}
    return found + [
        {**each, "experts": "math+code", "head": owners[each["task"]]} for each in merged
    ]


def sweep_of_answers() -> tuple[pd.DataFrame, Any, dict[str, NDArray[np.float64]]]:
    """A sweep and merges with the answers that their scores are of, and the labels."""
    index = np.arange(40)
    labels = {"trec": (index * 7 % 3 == 0) * 1.0}
    made, answers = [], {}
    sides = [("none", 0.0, None), *(("dare", rate, mask) for rate in (0.5, 0.9) for mask in (0, 1))]
    for study, experts, method in [
        ("sweep", "trec", "average"),
        ("merges", "trec+spam", "average"),
        ("merges", "trec+spam", "ties"),
    ]:
        for seed in (0, 1):
            for kind, rate, mask in sides:
                wrong = (index * 11 + 5 * seed + len(method)) % 23 < 3 + 3 * rate + (mask or 0)
                given = np.where(wrong, 1 - labels["trec"], labels["trec"])
                part = {"study": study, "experts": experts, "head": "trec", "method": method}
                part |= {"training_seed": seed, "sparsifier": kind, "rate": rate, "mask_seed": mask}
                value = score("accuracy", labels["trec"], given)
                each = row(**part, value=value, n=len(index))
                made.append(each)
                answers[each["recipe_digest"], "trec"] = given
    return score_frame(made), answers, labels
