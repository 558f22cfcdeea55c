"""Score encoder weights under an expert's head: one model per task, with replaced encoder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer

from mergegrid.checkpoints.torch_tensors import load_into
from mergegrid.engine.values import TensorRule
from mergegrid.errors import ConfigError
from mergegrid.study.encoders.importing import load_classifier
from mergegrid.study.schema.splits import Split
from mergegrid.study.schema.tasks import Target
from mergegrid.study.scoring.scores import Measurement
from mergegrid.study.tasks.encoding import Batch, batches, encode
from mergegrid.study.tasks.metrics import predictions_of, score, standard_error

STAGE_VERSIONS = {"evaluate_encoder": 1}

_MAX_TOKENS = {"cpu": 1024, "cuda": 32768}

Rows = tuple[int, ...]
"""Positions of some examples in their split."""


class TaskScorer:
    """An expert's head and the examples of its task, for any weights of the encoder.

    Tensors that `target.unmerged` covers are the expert's, whatever weights are scored.

    Raises:
        ConfigError: a pattern of `target.unmerged` covers no tensor.
    """

    def __init__(self, expert: Path, target: Target, examples: pd.DataFrame, device: str) -> None:
        self._model = cast(torch.nn.Module, load_classifier(expert)).to(device).eval()
        self._target, self._examples, self._device = target, examples, device
        self._unmerged = _unmerged_tensors(self._model, target.unmerged, expert)
        self._tokenizer = AutoTokenizer.from_pretrained(expert)
        self._batches: dict[tuple[Split, Rows | None], list[Batch]] = {}

    def measure(self, checkpoint: Mapping[str, Any], split: Split) -> Measurement:
        """Score the head on top of the encoder weights of a checkpoint."""
        return self.measurement(self.predict(checkpoint, split), split)

    def predict(
        self, checkpoint: Mapping[str, Any], split: Split, rows: Rows | None = None
    ) -> NDArray[Any]:
        """Predict the classes or numbers of the examples of a split, or of some of them, in order.

        The last bits of a number depend on the examples that are predicted together.
        """
        load_into(self._model, checkpoint)
        load_into(self._model, self._unmerged)
        batched = self._read(split, rows)
        count = sum(len(batch.rows) for batch in batched)
        logits = np.empty((count, max(len(self._target.classes), 1)), dtype=np.float32)
        with torch.inference_mode():
            for batch in batched:
                logits[batch.rows] = self._model(**batch.inputs).logits.float().cpu().numpy()
        return predictions_of(logits, self._target.metric)

    def measurement(self, predictions: NDArray[Any], split: Split) -> Measurement:
        """Score the predictions for a split."""
        labels = self._examples.loc[self._examples["split"] == split, "label"].to_numpy()
        return measurement_of(self._target, labels, predictions, split)

    def _read(self, split: Split, rows: Rows | None) -> list[Batch]:
        """Batches of examples, encoded on first use: most splits are never scored."""
        if (split, rows) not in self._batches:
            part = self._examples[self._examples["split"] == split]
            part = part if rows is None else part.iloc[list(rows)]
            encoded = encode(self._tokenizer, part, self._target.max_length)
            max_tokens = _MAX_TOKENS[torch.device(self._device).type]
            batched = list(batches(self._tokenizer, encoded, max_tokens, self._device))
            self._batches[split, rows] = batched
        return self._batches[split, rows]


def _unmerged_tensors(
    model: torch.nn.Module, unmerged: Sequence[str], expert: Path
) -> dict[str, torch.Tensor]:
    state = model.state_dict()
    tensors: dict[str, torch.Tensor] = {}
    for rule in [TensorRule(tensors=text) for text in unmerged]:
        covered = [name for name in state if rule.applies(name)]
        if not covered:
            raise ConfigError(
                f"unmerged: {rule.tensors!r} covers none of the {len(state)} tensors of {expert}, "
                f"such as {next(iter(state))}; `mergegrid inspect` lists the names of a model"
            )
        tensors |= {name: state[name].clone() for name in covered}
    return tensors


def measurement_of(
    target: Target, labels: NDArray[Any], predictions: NDArray[Any], split: Split
) -> Measurement:
    """Score predictions for examples of a split."""
    return Measurement(
        value=score(target.metric, labels, predictions),
        stderr=standard_error(target.metric, labels, predictions),
        n=len(labels),
        # Of validation, predictions have a store of their own.
        predictions=tuple(predictions.tolist()) if split == "test" else None,
    )
