"""Sentence pairs from rated sentences: is the first one rated higher than the second?"""

import numpy as np
import pandas as pd

from mergegrid.study.schema.tasks import RankPairs


def rank_pairs(
    settings: RankPairs, sentences: pd.DataFrame, shuffle: np.random.RandomState
) -> pd.DataFrame:
    """Pair sentences at random; keep pairs whose ratings are at least `min_gap` apart.

    Args:
        settings: limits on sentences and pairs.
        sentences: `text_a` and the rating in `label`.
        shuffle: draws the pairs.

    Returns:
        `text_a`, `text_b` and `label`: 1 where the first sentence is rated higher, else 0.
    """
    if settings.max_words is not None:
        words = sentences["text_a"].map(lambda text: len(text.split()))
        sentences = sentences[words <= settings.max_words]
    rounds = []
    for _ in range(settings.per_sentence):
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
    far_apart = np.abs(ratings[first] - ratings[second]) >= settings.min_gap
    unordered = pd.DataFrame(np.sort(np.stack([first, second], axis=1)))
    keep = pd.Series(far_apart) & ~unordered.duplicated()
    return pairs.loc[keep].reset_index(drop=True)
