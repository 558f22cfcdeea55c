"""One method over one ordered pair of encoders, by the paper's procedure.

A separate process, started by `pairs.py`. It loads the base and both experts. For every candidate
it copies the models, drops deltas, gathers statistics, merges the whole model at once, and scores
it on the target with the Trainer (batches of 16, padded to the longest text). Written from the
equations (arXiv 2311.03099; Fisher 2111.09832, RegMean 2212.09849, TIES 2306.01708), not from the
code, and not artificially slower. One difference favors this side: Fisher sums squared gradients
as they are computed, where the paper's code keeps a copy for every batch.

Reads one JSON object from standard input and prints one JSON line: seconds until the first
candidate, and seconds of each candidate.
"""

import copy
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)
from transformers import logging as transformers_logging

BATCH = 16
FLOOR = 1e-6
Weights = dict[str, Tensor]


class Encoded(torch.utils.data.Dataset[dict[str, Any]]):
    """Tokenized examples in the format of the Trainer."""

    def __init__(self, tokenizer: Any, examples: pd.DataFrame, max_length: int) -> None:
        names = ["text_a", "text_b"] if examples["text_b"].notna().all() else ["text_a"]
        texts = [examples[name].tolist() for name in names]
        self._encoded = tokenizer(*texts, truncation=True, max_length=max_length)
        self._labels = examples["label"].tolist()

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {
            **{name: value[row] for name, value in self._encoded.items()},
            "label": self._labels[row],
        }


class Pair:
    """The base and the experts of source and target, in memory."""

    def __init__(self, settings: dict[str, Any]) -> None:
        tokenizer = AutoTokenizer.from_pretrained(settings["base"])
        self.collate = DataCollatorWithPadding(tokenizer)
        self.experts = [load(settings["source"]), load(settings["target"])]
        self.data = []
        for path in (settings["source_examples"], settings["target_examples"]):
            examples = pd.read_parquet(path)
            self.data.append(
                {
                    split: Encoded(tokenizer, part, settings["max_length"])
                    for split, part in examples.groupby("split")
                }
            )
        base = AutoModelForSequenceClassification.from_pretrained(settings["base"])
        body = set(base.base_model.state_dict())
        prefix = f"{base.base_model_prefix}."
        self.base = {
            name: value.detach().clone()
            for name, value in base.named_parameters()
            if name.removeprefix(prefix) in body
        }
        self.regression = [model.config.num_labels == 1 for model in self.experts]

    def batches(self, expert: int, count: int) -> Iterator[dict[str, Tensor]]:
        """Yield batches of the first training examples of an expert."""
        data = self.data[expert]["train"]
        for start in range(0, min(count, len(data)), BATCH):
            yield self.collate([data[row] for row in range(start, min(start + BATCH, count))])

    def evaluate(self, weights: Weights) -> None:
        """Evaluate weights with the target's head on its test split, as in the paper's code."""
        model = copy.deepcopy(self.experts[1])
        model.load_state_dict(weights, strict=False)
        arguments = TrainingArguments(
            output_dir="/tmp/unused", per_device_eval_batch_size=BATCH, report_to=[], use_cpu=True,
            disable_tqdm=True,
        )  # fmt: skip
        trainer = Trainer(
            model=model,
            args=arguments,
            eval_dataset=self.data[1]["test"],
            data_collator=self.collate,
        )
        trainer.evaluate()


def load(folder: str) -> nn.Module:
    """Load an expert with its head."""
    model: nn.Module = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    return model


def dare(pair: Pair, rate: float) -> list[nn.Module]:
    """Return copies of the experts with deltas dropped and the rest rescaled, tensor by tensor."""
    dropped = []
    for model in pair.experts:
        model = copy.deepcopy(model)
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name, base in pair.base.items():
                delta = parameters[name] - base
                keep = torch.bernoulli(torch.full_like(delta, 1 - rate))
                parameters[name].copy_(base + delta * keep / (1 - rate))
        dropped.append(model)
    return dropped


def merged_parameters(pair: Pair, models: list[nn.Module]) -> list[Weights]:
    """Return the parameters of each model that are merged: all but the heads."""
    named = [dict(model.named_parameters()) for model in models]
    return [{name: parameters[name].detach() for name in pair.base} for parameters in named]


def average(pair: Pair, models: list[nn.Module], candidate: dict[str, Any]) -> Weights:
    """Return the mean of the experts."""
    first, second = merged_parameters(pair, models)
    return {name: (first[name] + second[name]) / 2 for name in pair.base}


def task_arithmetic(pair: Pair, models: list[nn.Module], candidate: dict[str, Any]) -> Weights:
    """Return the base plus a multiple of the summed deltas."""
    first, second = merged_parameters(pair, models)
    return {
        name: base + candidate["coefficient"] * (first[name] + second[name] - 2 * base)
        for name, base in pair.base.items()
    }


def ties(pair: Pair, models: list[nn.Module], candidate: dict[str, Any]) -> Weights:
    """Trim the flattened model, elect signs, and average the deltas that agree."""
    flat_base = torch.cat([base.flatten() for base in pair.base.values()])
    deltas = []
    for weights in merged_parameters(pair, models):
        delta = torch.cat([weights[name].flatten() for name in pair.base]) - flat_base
        threshold = delta.abs().kthvalue(int(len(delta) * candidate["trim"])).values
        deltas.append(torch.where(delta.abs() >= threshold, delta, 0))
    stacked = torch.stack(deltas)
    signs = stacked.sum(dim=0).sign()
    signs[signs == 0] = signs.sum().sign()
    agree = torch.where(stacked.sign() == signs, stacked, 0)
    merged = agree.sum(dim=0) / (agree != 0).sum(dim=0).clamp(min=1)
    flat, weights, start = flat_base + candidate["coefficient"] * merged, {}, 0
    for name, base in pair.base.items():
        weights[name] = flat[start : start + base.numel()].view_as(base)
        start += base.numel()
    return weights


def fisher(pair: Pair, models: list[nn.Module], candidate: dict[str, Any]) -> Weights:
    """Return the mean of the experts weighted by squared gradients, which are gathered here."""
    information: list[Weights] = []
    for expert, model in enumerate(models):
        parameters = {name: dict(model.named_parameters())[name] for name in pair.base}
        sums = {name: torch.zeros_like(value) for name, value in parameters.items()}
        count = 0
        for batch in pair.batches(expert, candidate["examples"]):
            labels = batch.pop("labels")
            logits = model(**batch).logits
            if pair.regression[expert]:
                loss = nn.functional.mse_loss(logits.squeeze(-1), labels.float())
            else:
                log_p = logits.log_softmax(dim=-1)
                loss = (log_p.exp().sqrt().detach() * log_p).sum()
            gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            for name, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    sums[name] += gradient**2
            count += len(labels)
        information.append({name: total / count for name, total in sums.items()})
    weights = merged_parameters(pair, models)
    return {
        name: sum((f[name] + FLOOR) * w[name] for f, w in zip(information, weights, strict=True))
        / sum(f[name] + FLOOR for f in information)
        for name in pair.base
    }


def regmean(pair: Pair, models: list[nn.Module], candidate: dict[str, Any]) -> Weights:
    """Merge linear layers by least squares, with Gram matrices that are gathered here."""
    grams = [_grams(pair, expert, model, candidate) for expert, model in enumerate(models)]
    merged = average(pair, models, candidate)
    first, second = merged_parameters(pair, models)
    for name in grams[0].keys() & pair.base.keys():
        total = grams[0][name] + grams[1][name]
        summed = grams[0][name] @ first[name].T + grams[1][name] @ second[name].T
        merged[name] = (torch.linalg.inv(total) @ summed).T
    return merged


def _grams(pair: Pair, expert: int, model: nn.Module, candidate: dict[str, Any]) -> Weights:
    sums: Weights = {}
    counts: dict[str, int] = {}

    def hook(name: str) -> Callable[..., None]:
        def gather(_: nn.Module, inputs: tuple[Tensor, ...], __: Tensor) -> None:
            rows = inputs[0].detach().flatten(0, -2)
            sums[name] = sums.get(name, 0) + rows.T @ rows
            counts[name] = counts.get(name, 0) + len(rows)

        return gather

    handles = [
        module.register_forward_hook(hook(f"{name}.weight"))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    with torch.no_grad():
        for batch in pair.batches(expert, candidate["examples"]):
            batch.pop("labels")
            model(**batch)
    for handle in handles:
        handle.remove()
    grams = {}
    for name, total in sums.items():
        gram = total / counts[name]
        diagonal = torch.diag(gram.diagonal())
        grams[name] = candidate["offdiagonal"] * gram + (1 - candidate["offdiagonal"]) * diagonal
    return grams


METHODS = {method.__name__: method for method in (average, task_arithmetic, ties, fisher, regmean)}


def main() -> None:
    """Score the candidates of standard input."""
    transformers_logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    settings = json.load(sys.stdin)
    started = time.perf_counter()
    torch.manual_seed(0)
    pair = Pair(settings)
    seconds = []
    for candidate in settings["candidates"]:
        start = time.perf_counter()
        models = dare(pair, candidate["rate"]) if candidate.get("rate") else pair.experts
        pair.evaluate(METHODS[settings["method"]](pair, models, candidate))
        seconds.append(time.perf_counter() - start)
    loaded = time.perf_counter() - started - sum(seconds)
    sys.stdout.write(json.dumps({"loaded": loaded, "seconds": seconds}) + "\n")


if __name__ == "__main__":
    main()
