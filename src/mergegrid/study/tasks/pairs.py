"""Sentence pairs from rated sentences: is the first one rated higher than the second?"""

import numpy as np
import pandas as pd

from mergegrid.study.schema.tasks import RankPairs


def rank_pairs(
    spec: RankPairs, sentences: pd.DataFrame, shuffle: np.random.RandomState
) -> pd.DataFrame:
    """Pair sentences at random; a pair counts when its ratings are at least `min_gap` apart.

    Args:
        spec: which pairs count.
        sentences: `text_a` and the rating in `label`.
        shuffle: draws the pairs.

    Returns:
        `text_a`, `text_b` and `label`: 1 where the first sentence is rated higher, else 0.
    """
    if spec.max_words is not None:
        words = sentences["text_a"].map(lambda text: len(text.split()))
        sentences = sentences[words <= spec.max_words]
    rounds = []
    for _ in range(spec.per_sentence):
        order = shuffle.permutation(len(sentences))
        half = len(order) // 2
        rounds.append(np.stack([order[:half], order[half : 2 * half]]))
    first, second = np.concatenate(rounds, axis=1)
    texts, ratings = sentences["text_a"].to_numpy(), sentences["label"].to_numpy()
    pairs = pd.DataFrame(
        {
            "text_a": texts[first],
            "text_b": texts[second],
            "label": (ratings[first] > ratings[second]).astype("int64"),
        }
    )
    apart = np.abs(ratings[first] - ratings[second]) >= spec.min_gap
    unordered = pd.DataFrame(np.sort(np.stack([first, second], axis=1)))
    keep = pd.Series(apart) & ~unordered.duplicated()
    return pairs.loc[keep].reset_index(drop=True)
