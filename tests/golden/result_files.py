"""Files of a study that was never run: tables and figures are made from them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from golden.results import rows, sweep_of_answers
from mergegrid.checkpoints.checkpoint import InMemory
from mergegrid.delta_reports.sizes import delta_sizes
from mergegrid.study.reporting.results import Results
from mergegrid.study.scoring.answers import answer_forms
from mergegrid.study.scoring.comparisons import compare
from mergegrid.study.scoring.findings import findings
from mergegrid.study.scoring.ranking import rank
from mergegrid.study.scoring.scores import score_frame


def results_of(folder: Path) -> Results:
    """Files of results in a folder, and cells of the paper."""
    scores = folder / "scores.parquet"
    score_frame(rows()).to_parquet(scores)
    parts = {"deltas": _deltas(), "similarity": _similarity()}
    compared, answers, labels = sweep_of_answers()
    parts["comparisons"] = compare(compared, answers, labels, resamples=100)
    parts["ranking"] = rank(compared, answers, labels)
    parts["answers"] = decoder_answers(folder)
    parts["findings"] = findings(compared, answers, labels)
    for name, frame in parts.items():
        frame.to_parquet(folder / f"{name}.parquet")
    sources = folder / "base~minilm.json"
    record = {"kind": "model", "source": "hub:a/b", "resolved": "3f1a", "sha256": None}
    sources.write_text(json.dumps({**record, "licence": "mit", "bytes": 7}))
    return Results(
        scores=[scores],
        sweeps=[scores],
        **{name: [folder / f"{name}.parquet"] for name in parts},
        experts=_trained(folder / "minilm", ("trec", "spam")),
        decoders=_trained(folder / "llama", ("math", "code")),
        sources=[sources],
        licences={"base~minilm": "apache-2.0"},
        published=_cells(),
    )


def decoder_answers(folder: Path) -> pd.DataFrame:
    """The form of answers behind the scores of decoders: two samples to each of three questions."""
    scores = score_frame(rows())
    compared = scores[scores["primary"] & (scores["engine"] != "")]
    made = []
    for place, row in enumerate(compared.to_dict("records")):
        text = ["</think>5", "5", "6"][place % 3]
        of_recipe = {name: row[name] for name in ("recipe_digest", "split")}
        for question in range(3):
            for sample in range(2):
                made.append(
                    {
                        **of_recipe,
                        "benchmark": row["task"],
                        "id": str(question),
                        "output": text,
                        "finish": "length" if (place + question + sample) % 4 == 0 else "stop",
                        "tokens": 20 + 7 * place + 11 * question * (sample + 1),
                        "extracted": text[-1],
                        "verdict": "right" if text[-1] == "5" and sample <= question else "wrong",
                    }
                )
    path = folder / "records.parquet"
    pd.DataFrame(made).to_parquet(path)
    return answer_forms(scores, [path])


GAINS = [{"family": "minilm", "method": "ties", "sparsifier": "dare", "value": 1.25}]
"""What the paper says of the table `sparsifier_effects`."""


def _cells() -> list[dict[str, Any]]:
    """Cells of the paper: one expert, and a merge with other settings."""
    same = {"family": "llama", "source": "table 1", "trust": "high", "rescale": None}
    same |= {"compared": "accuracy", "differs": ""}
    alone = {**same, "merged": False, "experts": "math", "models": "Math", "method": "average"}
    merged = {**same, "merged": True, "experts": "math+code", "models": "Math+Code"}
    numbers = {"rate": 0.9, "scale": None, "published": 0.5625, "held_out": 0}
    other = {"rate": 0.7, "scale": 0.5, "published": 0.75, "held_out": 0.25}
    return [
        {**alone, **numbers, "task": "gsm8k", "sparsifier": "dare"},
        {**merged, **other, "task": "mbpp", "method": "ties", "sparsifier": "dare"},
        {**merged, **numbers, "task": "gsm8k", "method": "average", "sparsifier": "none"},
    ]


def _trained(folder: Path, names: tuple[str, ...]) -> list[Path]:
    """Folders of experts with what they were trained with; the last was ready."""
    found = []
    for number, name in enumerate(names):
        place = folder / "experts" / name / "seed~0"
        place.mkdir(parents=True, exist_ok=True)
        curve = [
            {"epoch": float(epoch), "validation": value, "loss": 2 - value}
            for epoch, value in ((1, 0.5), (2, 0.75), (3, 0.75))
        ]
        training = {
            "target": {"task": name, "metric": "accuracy", "classes": [0, 1], "max_length": 16},
            "settings": {"learning_rate": 1e-4, "epochs": 3, "lora": {"rank": 8}},
            "curve": curve,
            "seed": 0,
        }
        if number:
            training |= {"settings": None, "curve": []}
        if number == 0 or folder.name == "minilm":
            (place / "training.json").write_text(json.dumps(training))
        found.append(place)
    return found


def _deltas() -> pd.DataFrame:
    """Two experts; a third of the parameters of the second are those of the base."""
    made = []
    for expert, scale in {"trec": 2**-16, "spam": 2**-10}.items():
        moved = (np.arange(3000) * 37 % 501 - 250) * scale
        if expert == "spam":
            moved[:1000] = 0
        found = delta_sizes(InMemory({"w": np.ones(3000)}), InMemory({"w": 1 + moved}))
        place = {"family": "minilm", "expert": expert, "training_seed": 0}
        made += [{**place, **each.row(), "histogram": list(each.histogram)} for each in found]
    return pd.DataFrame(made)


def _similarity() -> pd.DataFrame:
    """One expert, three layers; DARE at two rates with two masks."""
    points: list[tuple[str, float, int | None]] = [("none", 0.0, None), ("drop_only", 1.0, 0)]
    points += [("dare", rate, seed) for rate in (0.5, 0.9) for seed in (0, 1)]
    made = []
    for kind, rate, seed in points:
        place = {"family": "minilm", "expert": "trec", "training_seed": 0, "sparsifier": kind}
        place |= {"rate": rate, "settings": '{"sparsifier":{}}', "mask_seed": seed}
        for layer in range(3):
            loss = layer * (rate / 8 + (seed or 0) / 64)
            numbers = {"mean": 1 - loss, "q05": 0.875 - loss, "change": loss, "tokens": 40}
            numbers["examples"] = 8
            made.append({**place, "layer": layer, **numbers})
    return pd.DataFrame(made).astype({"mask_seed": "Int64"})
