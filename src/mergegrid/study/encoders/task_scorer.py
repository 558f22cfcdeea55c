"""Score encoder weights under an expert's head: one model per task, with replaced encoder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer

from mergegrid.checkpoints.torch_tensors import load_into
from mergegrid.study.encoders.importing import load_classifier
from mergegrid.study.schema.tasks import Target
from mergegrid.study.scoring.scores import Measurement, Split
from mergegrid.study.tasks.encoding import Batch, batches, encode
from mergegrid.study.tasks.metrics import predictions_of, score, standard_error

STAGE_VERSIONS = {"evaluate_encoder": 1}

_MAX_TOKENS = {"cpu": 1024, "cuda": 32768}


class TaskScorer:
    """An expert's head and the examples of its task, for any weights of the encoder."""

    def __init__(self, expert: Path, target: Target, examples: pd.DataFrame, device: str) -> None:
        self._model = cast(torch.nn.Module, load_classifier(expert)).to(device).eval()
        self._target, self._examples, self._device = target, examples, device
        self._tokenizer = AutoTokenizer.from_pretrained(expert)
        self._splits: dict[Split, tuple[list[Batch], NDArray[Any]]] = {}

    def measure(self, checkpoint: Mapping[str, Any], split: Split) -> Measurement:
        """Score the head on top of the encoder weights of a checkpoint."""
        load_into(self._model, checkpoint)
        (batched, labels), metric = self._read(split), self._target.metric
        logits = np.empty((len(labels), max(len(self._target.classes), 1)), dtype=np.float32)
        with torch.inference_mode():
            for batch in batched:
                logits[batch.rows] = self._model(**batch.inputs).logits.float().cpu().numpy()
        predictions = predictions_of(logits, metric)
        return Measurement(
            value=score(metric, labels, predictions),
            stderr=standard_error(metric, labels, predictions),
            n=len(labels),
            # Candidates are compared by their values alone.
            predictions=tuple(predictions.tolist()) if split == "test" else None,
        )

    def _read(self, split: Split) -> tuple[list[Batch], NDArray[Any]]:
        """Batches and labels of a split, encoded on first use: most splits are never scored."""
        if split not in self._splits:
            part = self._examples[self._examples["split"] == split]
            encoded = encode(self._tokenizer, part, self._target.max_length)
            max_tokens = _MAX_TOKENS[torch.device(self._device).type]
            batched = list(batches(self._tokenizer, encoded, max_tokens, self._device))
            self._splits[split] = batched, part["label"].to_numpy()
        return self._splits[split]
