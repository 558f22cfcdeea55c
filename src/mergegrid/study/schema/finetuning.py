"""Settings of fine-tuning, of encoders and of decoders."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from mergegrid.settings import Settings


class Finetune(Settings):
    """Fine-tuning settings of an encoder; the defaults are the paper's (arXiv 2311.03099, appendix
    A)."""

    omitted_when_default: ClassVar[frozenset[str]] = frozenset({"towards_base"})

    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """Peak learning rate of AdamW."""
    epochs: Annotated[int, Field(ge=1)] = 10
    """Passes over the training examples; the weights of the best epoch on validation are kept."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Examples per step."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.06
    """Fraction of the steps in which the learning rate rises; afterwards it falls linearly."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Weight decay of all parameters except biases and layer norms."""
    towards_base: Annotated[float, Field(ge=0)] = 0.0
    """Strength λ of AdamR's decay towards the base (arXiv 2410.09344), for smaller deltas, of which
    more can be dropped; 0: none. `weight_decay`, towards 0, comes in addition."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Norm to which larger gradients are clipped."""


class Lora(Settings):
    """Low-rank adapters, merged into the weights when training ends (arXiv 2106.09685)."""

    rank: Annotated[int, Field(ge=1)] = 16
    """Rank of each adapter."""
    alpha: Annotated[float, Field(gt=0)] = 32
    """Adapters are scaled by alpha over rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout before each adapter."""
    targets: Annotated[list[str], Field(min_length=1)] | Literal["all-linear"] = "all-linear"
    """Names of the layers with an adapter."""


class DecoderFinetune(Settings):
    """Fine-tuning settings of a decoder, which is trained on answers, not on questions."""

    omitted_when_default: ClassVar[frozenset[str]] = frozenset({"towards_base"})

    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 2e-5
    """Peak learning rate of AdamW."""
    epochs: Annotated[int, Field(ge=1)] = 3
    """Passes over the training examples; the weights after the last epoch are kept."""
    batch_size: Annotated[int, Field(ge=1)] = 8
    """Examples per step."""
    accumulation: Annotated[int, Field(ge=1)] = 1
    """Number of parts in which the examples of a step pass through the model."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.03
    """Fraction of the steps in which the learning rate rises; afterwards it falls along a
    cosine."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Weight decay of all parameters except biases and norms."""
    towards_base: Annotated[float, Field(ge=0)] = 0.0
    """Strength λ of AdamR's decay towards the base (arXiv 2410.09344), for smaller deltas, of which
    more can be dropped; 0: none. `weight_decay`, towards 0, comes in addition."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Norm to which larger gradients are clipped."""
    max_length: Annotated[int, Field(ge=8)] = 1024
    """Tokens after which a question with its answer is truncated."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of matrix products; weights and optimizer states are float32."""
    gradient_checkpointing: bool = False
    """Whether to recompute activations instead of keeping them."""
    lora: Lora | None = None
    """Trains adapters and merges them; unset trains all parameters."""
