"""Token sequences of instructions and of raw texts."""

import pandas as pd
import pytest
from small_models import llama, save

from mergegrid.errors import DataError
from mergegrid.study.finetuning.chat_data import EncodedExamples, ExampleEncoder
from mergegrid.study.model_statistics.calibration import (
    TokenSequence,
    first,
    of_instructions,
    of_texts,
)

THE, GOOD, FILM, IS, END = 3, 5, 7, 9, 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(llama(), tmp_path_factory.mktemp("model"))


def test_answers_of_instructions_count(folder):
    examples = pd.DataFrame({"instruction": ["the film"], "output": ["good"]})
    encoder = ExampleEncoder(folder, "{instruction} is", chat=False)
    (sequence,) = of_instructions(EncodedExamples(encoder, examples, 8))
    assert sequence.ids == [THE, FILM, IS, GOOD, END]
    assert sequence.counted == [False, False, False, True, True]
    # The last token of the question predicts the first of the answer.
    assert sequence.positions.tolist() == [False, False, True, True]


def test_all_tokens_of_texts_count_up_to_a_length(folder):
    sequences = of_texts(folder, ["the good film is", "the", "the film"], 3)
    assert sequences == [
        TokenSequence([THE, GOOD, FILM], [True] * 3),
        TokenSequence([THE, FILM], [True] * 2),
    ]
    assert sequences[0].positions.tolist() == [True, True]


def test_sequences_without_a_counted_token_are_not_examples():
    silent, text = TokenSequence([1, 2], [True, False]), TokenSequence([1, 2], [True, True])
    assert first([silent, text, silent, text, text], 2, "model m") == [text, text]
    with pytest.raises(DataError, match="statistics of model m need 2 examples, but there are 1"):
        first([silent, text], 2, "model m")
