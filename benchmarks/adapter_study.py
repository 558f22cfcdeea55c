"""Compare LoRA adapters with the same experts as whole models, in a study that answers questions.

    python benchmarks/adapter_study.py --work .bench/adapter_study

Run it at the root of the repository. Base, training data, benchmarks and the fully fine-tuned
expert `code` are the quickstart's. PEFT trains two adapters, `instruct` (rank-stabilized LoRA) and
`math` (DoRA), and merges each into the base (`merge_and_unload`), in float32 and in bfloat16. The
study has a family for each form, in which the experts have the same names, and merges the two
adapters, and in the first two families the adapters with `code`.

Writes configuration, models and results into the work folder, and two tables, which
`python docs/make_readme.py` puts into docs/adapters.md: `scores.md`, and `distances.md`,
which compares merged weights. Finished parts are kept. Exit code 1: masks of the forms differ.

Limits: 10 questions per ability, so one answer of one model is a step of 0.1.
"""

import argparse
import logging
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from peft import LoraConfig, PeftModel, get_peft_model
from tabulate import tabulate
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer

from mergegrid import Average, Dare, NoSparsifier, TaskArithmetic, Ties, merge, open_model
from mergegrid.engine.method import Method
from mergegrid.engine.sparsifier import Sparsifier
from mergegrid.study.finetuning.chat_data import EncodedExamples, ExampleEncoder, PaddingCollator

QUICKSTART = Path("config/config.yaml")
FAMILY = "smollm2"
ADAPTERS: dict[str, dict[str, Any]] = {
    "instruct": {"r": 16, "lora_alpha": 16, "use_rslora": True},
    "math": {"r": 16, "lora_alpha": 32, "use_dora": True},
}
"""Settings of PEFT by expert; all linear layers are adapted."""
FULL = "code"
LEARNING_RATE = 5e-4
BATCH_SIZE = 8
MAX_LENGTH = 256
TWINS = ("float32", "bfloat16")
FORMS = ("adapters", *TWINS)
"""Families of the study: adapters, and their twins merged in two dtypes."""
MASK_SEEDS = [0, 1]
RATE = 0.9
QUESTIONS = 10
"""Number of questions of each benchmark: the first of the quickstart's."""
METHODS = [
    {"kind": "task_arithmetic", "coefficient": 0.5},
    {"kind": "ties", "coefficient": 1.0, "trim": 0.8},
]
logger = logging.getLogger("benchmark")


def snakemake(config: Path, *targets: Path) -> None:
    """Build files of a study on one core."""
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--configfile", str(config)]
    subprocess.run([*command, "--quiet", "all", "--", *map(str, targets)], check=True)


def write_config(path: Path, decoders: dict[str, Any]) -> Path:
    """Write the configuration of a study whose results are beside it."""
    paths = {key: str(path.with_suffix("") / key) for key in ("results", "logs")}
    content = {"title": "Adapters and whole models", "paths": paths, "decoders": decoders}
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def train(base: Path, examples: pd.DataFrame, settings: dict[str, Any], folder: Path) -> None:
    """Train an adapter on the answers of instructions, in one pass, and save it."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", **settings)
    adapted = get_peft_model(model, config)
    encoder = ExampleEncoder(base, "{instruction}", chat=True)
    encoded = EncodedExamples(encoder, examples[examples["split"] == "train"], MAX_LENGTH)
    collate = PaddingCollator(encoder.pad_token_id)
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
    batches: Any = DataLoader(encoded, BATCH_SIZE, shuffle=True, collate_fn=collate)  # type: ignore[arg-type]
    for step, batch in enumerate(batches, start=1):
        loss = adapted(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        logger.info(
            "%s: step %d of %d, loss %.3f", folder.name, step, len(batches), float(loss.detach())
        )
    adapted.save_pretrained(folder)


def merge_whole(base: Path, adapter: Path, dtype: str, folder: Path) -> None:
    """Save the model that PEFT merges of a base and an adapter in a dtype."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype))
    PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)


def make_experts(work: Path, base: Path, instructions: Path) -> None:
    """Make the adapters and their twins, as `<form>/<expert>` below the work folder."""
    for name, settings in ADAPTERS.items():
        adapter = work / "adapters" / name
        # Files of weights are written before configs of adapters, and after those of models.
        if not (adapter / "adapter_config.json").is_file():
            train(base, pd.read_parquet(instructions / f"{name}.parquet"), settings, adapter)
        for dtype in TWINS:
            if not (work / dtype / name / "tokenizer.json").is_file():
                merge_whole(base, adapter, dtype, work / dtype / name)


def family(config: dict[str, Any], work: Path, origin: Path, form: str) -> dict[str, Any]:
    """Return the family of a form; the twins in bfloat16 are merged with each other only."""
    experts = {name: work / form / name for name in ADAPTERS}
    if form != "bfloat16":
        experts[FULL] = origin / "experts" / FULL / "seed~0"
    return {
        "base": {"source": f"path:{origin / 'base'}"},
        "chat": config["chat"],
        "experts": {
            name: {
                "source": {"source": f"path:{folder}"},
                "benchmarks": config["experts"][name]["benchmarks"],
                "trained_by": "sft" if name == FULL else "lora",
            }
            for name, folder in experts.items()
        },
    }


def study(decoders: dict[str, Any], work: Path, origin: Path) -> dict[str, Any]:
    """Return the grid of the study, with a family for each form."""
    config = decoders["families"][FAMILY]
    for benchmark in decoders["benchmarks"].values():
        benchmark["generated"]["count"] = QUESTIONS
    return {
        "benchmarks": decoders["benchmarks"],
        "families": {form: family(config, work, origin, form) for form in FORMS},
        "generation": decoders["generation"],
        "rates": [RATE],
        "seeds": {"training": [0], "mask": MASK_SEEDS},
        "sweep": {"sparsifiers": []},
        "merges": {
            "sets": [list(ADAPTERS), [*ADAPTERS, FULL]],
            "methods": METHODS,
            "sparsifiers": [{"kind": "none"}, {"kind": "dare"}],
        },
    }


def read_answers(results: Path, form: str) -> pd.DataFrame:
    """Read all answers of a family: a row per model, benchmark and question."""
    folder = results / form / "answers"
    frames = []
    for path in sorted(folder.rglob("*.parquet")):
        experts, _, sparsifier, method = path.relative_to(folder).with_suffix("").parts
        frame = pd.read_parquet(path)[["benchmark", "id", "output"]]
        kinds = [part.partition("~")[0] for part in (sparsifier, method)]
        frame[["experts", "sparsifier", "method"]] = [experts, *kinds]
        frames.append(frame.assign(model=str(path.relative_to(folder))))
    return pd.concat(frames)


def scores_table(results: Path) -> str:
    """Return the scores of every form side by side, with the shares of equal answers.

    A row is the mean over the benchmarks of the experts, and over seeds of the masks.
    """
    keys = ["experts", "sparsifier", "method"]
    scores = pd.read_parquet(results / "scores.parquet")
    scores = scores[scores["primary"] & (scores["split"] == "test")]
    table = scores.groupby([*keys, "family"])["value"].mean().unstack()[list(FORMS)]
    answers = {form: read_answers(results, form) for form in FORMS}
    for form in TWINS:
        ids = ["model", "benchmark", "id"]
        both = answers["adapters"].merge(answers[form][[*ids, "output"]], on=ids)
        both["same"] = both["output_x"] == both["output_y"]
        counts = both.groupby(keys)["same"].agg(["sum", "count"])
        cells = counts["sum"].astype(str) + " of " + counts["count"].astype(str)
        table[f"equal answers, {form}"] = cells
    table = table.reset_index().fillna("")
    # One expert alone needs no method; without deltas it is the base.
    alone = ~table["experts"].str.contains("+", regex=False)
    table.loc[alone, "method"] = ""
    table["sparsifier"] = table["sparsifier"].replace({"drop_only": "base"})
    order = table["experts"].str.count(r"\+")
    table = table.iloc[np.lexsort((table["sparsifier"], table["method"], table["experts"], order))]
    return tabulate(table, headers="keys", tablefmt="pipe", floatfmt=".3f", showindex=False)


Weights = Mapping[str, np.ndarray]


def norm(model: Weights, other: Weights) -> float:
    """Return the Frobenius norm of the difference of two models."""
    squares = (np.square(model[name] - other[name], dtype=np.float64).sum() for name in other)
    return float(sum(squares)) ** 0.5


def distances_table(work: Path, base: Path) -> str:
    """Return how far merges of twins are from merges of adapters.

    A number is |merge of twins - merge of adapters| / |merge of adapters - base|, over all weights.
    """
    start, both = open_model(base), tuple(ADAPTERS)
    dare, ties = Dare(rate=RATE, seed=MASK_SEEDS[0]), Ties(coefficient=1.0, trim=0.8)
    cases: list[tuple[tuple[str, ...], Sparsifier, Method]] = [
        *(((name,), NoSparsifier(), Average()) for name in both),
        *(
            (both, sparsifier, method)
            for method in (TaskArithmetic(coefficient=0.5), ties)
            for sparsifier in (NoSparsifier(), dare)
        ),
    ]
    rows = []
    for names, sparsifier, method in cases:
        models = {
            form: merge(base, {name: work / form / name for name in names}, sparsifier, method)
            for form in FORMS
        }
        length = norm(models["adapters"], start)
        cells = [norm(models[form], models["adapters"]) / length for form in TWINS]
        shown = method.kind if len(names) > 1 else ""
        rows.append(["+".join(names), sparsifier.kind, shown, *cells])
        logger.info("%s", rows[-1])
    heads = ["experts", "sparsifier", "method", *TWINS]
    return tabulate(rows, heads, tablefmt="pipe", floatfmt=".2g")


def mask_differences(work: Path, base: Path) -> int:
    """Count elements that DARE keeps in an adapter and drops in a twin, or the reverse.

    An element whose delta is zero in one of the forms is left out: kept or not, it is the base's.
    """
    start, count = open_model(base), 0
    for name in ADAPTERS:
        experts = {form: {name: work / form / name} for form in FORMS}
        whole = {form: merge(base, expert) for form, expert in experts.items()}
        for seed in MASK_SEEDS:
            dare = Dare(rate=RATE, seed=seed)
            dropped = {form: merge(base, one, dare) for form, one in experts.items()}
            for form in TWINS:
                for key, weights in start.items():
                    kept = (dropped["adapters"][key] != weights) != (dropped[form][key] != weights)
                    both = (whole["adapters"][key] != weights) & (whole[form][key] != weights)
                    count += int((kept & both).sum())
    return count


def main() -> int:
    """Run the command line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    logging.getLogger("mergegrid").setLevel(logging.WARNING)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for models and results")
    work = parser.parse_args().work
    work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    decoders = yaml.safe_load(QUICKSTART.read_text(encoding="utf-8"))["decoders"]
    origin = work / "origin" / "results" / FAMILY
    instructions = origin / "instructions"
    snakemake(
        write_config(work / "origin.yaml", decoders),
        origin / "base",
        origin / "experts" / FULL / "seed~0",
        *(instructions / f"{name}.parquet" for name in ADAPTERS),
    )
    make_experts(work, origin / "base", instructions)
    config = write_config(work / "study.yaml", study(decoders, work, origin))
    results = config.with_suffix("") / "results"
    snakemake(config, results / "scores.parquet")
    scores = scores_table(results)
    (work / "scores.md").write_text(scores + "\n", encoding="utf-8")
    distances = distances_table(work, origin / "base")
    (work / "distances.md").write_text(distances + "\n", encoding="utf-8")
    differ = mask_differences(work, origin / "base")
    logger.info("\n%s\n\n%s\n", scores, distances)
    logger.info("Elements that a mask keeps in one form only: %d", differ)
    logger.info("Written: scores.md and distances.md in %s", work)
    return int(differ > 0)


if __name__ == "__main__":
    sys.exit(main())
