"""Parameters of the jobs that compare embeddings."""

from mergegrid.recipes.output import Output
from mergegrid.recipes.recipe import Recipe
from mergegrid.settings import Spec
from mergegrid.study.schema.decoder_jobs import merge_request
from mergegrid.study.schema.decoders import Decoders
from mergegrid.study.schema.study import Study


class SimilarityRequest(Spec):
    """One expert: the first recipe is the expert as it is, and all are compared with it."""

    recipes: list[Recipe]
    """What is compared."""
    examples: int
    """How many texts are read at most."""


class EncoderSimilarityRequest(SimilarityRequest):
    """An encoder, which reads examples of its task."""

    max_length: int
    """Tokens after which a text is cut."""


class DecoderSimilarityRequest(SimilarityRequest):
    """A decoder, which reads questions of its first benchmark."""

    chat: bool
    """Whether questions are put in the model's chat template rather than in the raw prompt."""
    output: Output
    """Dtype and vocabulary of the merged models."""
    homologous: bool
    """Whether experts must have the configuration of the base, or only its shapes."""


def encoder_request(study: Study, family: str, expert: str, seed: int) -> EncoderSimilarityRequest:
    """What is compared of one encoder."""
    assert study.similarity is not None, "a study without similarity compares nothing"
    return EncoderSimilarityRequest(
        recipes=study.similarity.recipes(study.rates, study.seeds.mask, family, expert, seed),
        examples=study.similarity.examples,
        max_length=study.families[family].max_length,
    )


def decoder_request(
    study: Decoders, family: str, expert: str, seed: int
) -> DecoderSimilarityRequest:
    """What is compared of one decoder."""
    assert study.similarity is not None, "a study without similarity compares nothing"
    recipes = study.similarity.recipes(study.rates, study.seeds.mask, family, expert, seed)
    merge = merge_request(study, recipes[0])
    return DecoderSimilarityRequest(
        recipes=recipes,
        examples=study.similarity.examples,
        chat=study.families[family].chat_of(expert),
        output=merge.output,
        homologous=merge.homologous,
    )
