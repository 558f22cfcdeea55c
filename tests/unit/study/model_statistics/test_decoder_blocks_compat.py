"""What `SplitDecoder` relies on, for decoders of several kinds, without and with gradients."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
    T5Config,
)

from mergegrid.study.model_statistics.decoder_blocks_compat import (
    SplitDecoder,
    UnsplittableError,
)

BODY = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
}
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
#: Rotary and learned positions, tied heads, biases, scaled embeddings, windows that some blocks
#: have, soft caps, and blocks that older classes call with positional arguments.
CONFIGS = [
    LlamaConfig(**BODY),
    LlamaConfig(**BODY, tie_word_embeddings=True, attention_bias=True),
    Qwen2Config(**BODY, use_sliding_window=True, sliding_window=4, max_window_layers=1),
    Qwen3Config(**BODY, head_dim=8),
    Gemma2Config(**BODY, head_dim=8, sliding_window=4),
    Gemma3TextConfig(**BODY, head_dim=8, sliding_window=4),
    GPT2Config(vocab_size=64, n_embd=32, n_layer=3, n_head=4, n_positions=64, **TOKENS),
    GPTNeoConfig(
        vocab_size=64,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        window_size=4,
        **TOKENS,
    ),
    GPTNeoXConfig(**{k: v for k, v in BODY.items() if k != "num_key_value_heads"}),
    PhiConfig(**BODY),
    FalconConfig(vocab_size=64, hidden_size=32, num_hidden_layers=3, num_attention_heads=4),
    OPTConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        ffn_dim=48,
        word_embed_proj_dim=32,
    ),
    BloomConfig(vocab_size=64, hidden_size=32, n_layer=3, n_head=4),
]
IDS = torch.tensor([[3, 5, 7, 1, 8, 9, 2, 20, 21, 5]])


@pytest.fixture(params=CONFIGS, ids=lambda config: config.model_type)
def pair(request):
    """A model, and its parts."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(request.param, dtype=torch.float32).eval()
    split = SplitDecoder(request.param)
    check(split, model)
    return model, split


def check(split, model):
    parameters = dict(model.named_parameters())
    split.check(named(parameters, split.outer_names), named(parameters, split.block_names[0]))


def named(parameters, names):
    return {name: parameters[name] for name in names}


def through_the_parts(split, parameters, positions):
    """Logits at some positions; between two parts nothing but hidden states is kept."""
    states = split.front(IDS, named(parameters, split.outer_names))
    between = named(parameters, split.between_names)
    for index, names in enumerate(split.block_names):
        states = split.block(index, states, named(parameters, names), between)
    return states, split.tail(states, positions, named(parameters, split.tail_names))


def test_parts_give_the_logits_of_the_model(pair):
    model, split = pair
    parameters = dict(model.named_parameters())
    positions = torch.tensor([True, False] * 4 + [True])
    with torch.no_grad():
        expected = model(input_ids=IDS).logits[0, :-1][positions]
        states, logits = through_the_parts(split, parameters, positions)
        inputs = split.head_inputs(states, positions, named(parameters, split.between_names))
    torch.testing.assert_close(logits, expected, rtol=1e-6, atol=1e-6)
    assert inputs.shape == (5, 32)


def test_gradients_through_the_parts_are_those_of_the_model(pair):
    model, split = pair
    parameters = dict(model.named_parameters())
    positions = torch.ones(9, dtype=torch.bool)
    _, logits = through_the_parts(split, parameters, positions)
    both = [
        torch.autograd.grad(logs.log_softmax(-1)[:, 3].sum(), list(parameters.values()))
        for logs in (logits, model(input_ids=IDS).logits[0, :-1])
    ]
    for name, one, two in zip(parameters, *both, strict=True):
        torch.testing.assert_close(
            one, two, rtol=1e-5, atol=1e-5 * float(two.abs().max()), msg=name
        )


def test_names_are_those_of_the_model(pair):
    model, split = pair
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
    assert split.shapes == shapes
    assert sorted(
        [*split.outer_names, *(n for block in split.block_names for n in block)]
    ) == sorted(shapes)
    assert split.is_tied == (
        model.get_output_embeddings().weight is model.get_input_embeddings().weight
    )


def test_a_model_without_a_causal_class_is_refused():
    with pytest.raises(UnsplittableError, match="T5"):
        SplitDecoder(T5Config())


def test_hidden_states_that_change_between_blocks_are_noticed():
    model = AutoModelForCausalLM.from_config(CONFIGS[0], dtype=torch.float32)
    split = SplitDecoder(CONFIGS[0])
    block = next(iter(split.block_modules(1).values()))
    block.register_forward_pre_hook(lambda _, arguments: (2 * arguments[0],))
    with pytest.raises(UnsplittableError, match="block 1 does not get what block 0 returns"):
        check(split, model)


def test_other_arguments_that_follow_from_hidden_states_are_noticed():
    model = AutoModelForCausalLM.from_config(CONFIGS[0], dtype=torch.float32)
    split = SplitDecoder(CONFIGS[0])
    block = next(iter(split.block_modules(1).values()))
    block.register_forward_pre_hook(
        lambda _, arguments, more: (arguments, more | {"memory": arguments[0].mean()}),
        with_kwargs=True,
    )
    with pytest.raises(UnsplittableError, match="block 1 gets more than the output"):
        check(split, model)
