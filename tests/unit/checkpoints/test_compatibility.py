import json

import numpy as np
import pytest
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig

from mergegrid.checkpoints.checkpoint import InMemory
from mergegrid.checkpoints.compatibility import check_configs, check_homologous
from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.checkpoints.tensor_names import canonical, with_tied_embeddings
from mergegrid.errors import CheckpointError

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 4096,
    "rope_theta": 10000.0,
    "rope_scaling": None,
}


@pytest.fixture
def compare(tmp_path):
    def compared(base, expert):
        for name, config in {"base": base, "expert": expert}.items():
            (tmp_path / name).mkdir()
            (tmp_path / name / "config.json").write_text(json.dumps(config))
        return check_configs(tmp_path / "base", tmp_path / "expert", "math")

    return compared


def model(**shapes):
    return InMemory({name: np.ones(shape) for name, shape in shapes.items()})


def test_an_expert_without_a_tensor_of_the_base_is_refused():
    with pytest.raises(CheckpointError, match=r"math lacks 1 of its base's tensors, first a;"):
        check_homologous(model(a=(2,), b=(2, 3)), model(b=(2, 3)), "math")


def test_an_expert_of_another_shape_is_refused():
    with pytest.raises(CheckpointError, match=r"\(2, 3\) in the base and \(3, 3\) in expert math"):
        check_homologous(model(b=(2, 3)), model(b=(3, 3)), "math")


@pytest.mark.parametrize(
    "expert",
    [
        LLAMA,
        LLAMA | {"architectures": ["Other"], "vocab_size": 3, "torch_dtype": "float16"},
        LLAMA | {"rope_theta": 10000, "head_dim": 16, "num_key_value_heads": 4},
        {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}, "model_type": "llama"},
        {key: value for key, value in LLAMA.items() if not key.startswith("rope")},
        {"text_config": LLAMA},
    ],
    ids=["equal", "other things", "more keys", "transformers 5", "before rope_theta", "nested"],
)
def test_one_architecture_written_in_several_ways_agrees(compare, expert):
    assert compare(LLAMA, expert) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mistral"}, r"model_type \(llama in the base, mistral in the expert\)"),
        ({"num_attention_heads": 8}, r"num_attention_heads \(4 in the base, 8 in the expert\)"),
        ({"rope_theta": 1e6}, r"rope_theta \(10000\.0 in the base, 1000000\.0 in the expert\)"),
        ({"rope_parameters": {"rope_theta": 5e5}}, r"rope_theta \(10000\.0 .* 500000\.0 in the"),
        (
            {"rope_scaling": {"type": "linear", "factor": 4.0}, "max_position_embeddings": 16384},
            r"rope_type \(default in the base, linear in the expert\)",
        ),
    ],
)
def test_another_architecture_is_refused(compare, change, message):
    with pytest.raises(CheckpointError, match=rf"architecture of expert math differs .*{message}"):
        compare(LLAMA, LLAMA | change)


def test_the_paper_s_pair_that_cannot_be_merged_is_refused_though_its_base_names_no_theta(compare):
    llama_2 = {key: value for key, value in LLAMA.items() if key != "rope_theta"}
    with pytest.raises(CheckpointError, match=r"rope_theta \(10000\.0 in the base"):
        compare(llama_2, LLAMA | {"rope_theta": 1e6})


def test_one_error_names_all_that_differs(compare):
    with pytest.raises(
        CheckpointError, match=r"hidden_size \(64 .* 32 .*\), rope_theta \("
    ) as error:
        compare(LLAMA, LLAMA | {"hidden_size": 32, "rope_theta": 1e6})
    assert "\n" not in str(error.value)


def test_factors_of_one_kind_of_scaling_are_compared(compare):
    old = {"rope_scaling": {"type": "linear", "factor": 2.0}}
    new = {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}}
    with pytest.raises(CheckpointError, match=r"config\.json: factor \(2\.0 in the base, 4\.0"):
        compare(LLAMA | old, LLAMA | new)


def test_types_of_layers_with_their_own_rotary_embeddings_are_compared(compare):
    def config(theta):
        return {"rope_parameters": {"full_attention": {"rope_theta": theta, "rope_type": "linear"}}}

    with pytest.raises(CheckpointError, match=r"full_attention \(\{'rope_theta': 1\.0"):
        compare(config(1.0), config(2.0))


def test_a_longer_limit_and_another_epsilon_are_noted_and_merged(compare):
    changed = LLAMA | {"max_position_embeddings": 2048, "rms_norm_eps": 1e-6}
    assert compare(LLAMA, changed) == [
        "expert math: rms_norm_eps (1e-05 in the base, 1e-06 in the expert); "
        "the merge uses the base's value",
        "expert math: max_position_embeddings (4096 in the base, 2048 in the expert); "
        "the merge uses the base's value",
    ]


def test_an_expert_with_output_embeddings_of_its_own_is_refused_where_the_base_ties_them(compare):
    with pytest.raises(CheckpointError, match=r"tie_word_embeddings \(True in the base, False in"):
        compare({"tie_word_embeddings": True}, {"tie_word_embeddings": False})


def test_a_folder_without_config_is_noted(tmp_path):
    (note,) = check_configs(tmp_path, tmp_path, "math")
    assert "has no config.json: the config of expert math is not checked" in note


def test_configs_as_transformers_writes_them_agree_with_older_ones(tmp_path):
    config = LlamaConfig(hidden_size=64, num_attention_heads=4)
    config.save_pretrained(tmp_path / "new")
    (tmp_path / "old").mkdir()
    older = LLAMA | {"rms_norm_eps": 1e-6, "max_position_embeddings": 2048}
    (tmp_path / "old" / "config.json").write_text(json.dumps(older))
    assert check_configs(tmp_path / "old", tmp_path / "new", "math") == []
    LlamaConfig(
        hidden_size=64,
        num_attention_heads=4,
        rope_parameters={"rope_theta": 1e6, "rope_type": "default"},
    ).save_pretrained(tmp_path / "other")
    with pytest.raises(CheckpointError, match="rope_theta"):
        check_configs(tmp_path / "old", tmp_path / "other", "math")


@pytest.fixture(scope="module")
def gpt_2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt2")
    config = GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def test_tied_output_embeddings_are_the_input_embeddings(gpt_2):
    saved = open_checkpoint(gpt_2)
    assert "lm_head.weight" not in saved
    tied = with_tied_embeddings(
        saved, gpt_2, ["lm_head.weight", "transformer.wte.weight", "absent"]
    )
    assert set(tied) == {*saved, "lm_head.weight"}
    np.testing.assert_array_equal(tied["lm_head.weight"], saved["transformer.wte.weight"])
    np.testing.assert_array_equal(tied["transformer.wpe.weight"], saved["transformer.wpe.weight"])


def test_the_input_embeddings_are_the_output_embeddings_where_only_those_were_saved(gpt_2):
    tied = with_tied_embeddings(
        InMemory({"lm_head.weight": np.eye(3)}), gpt_2, ["model.embed_tokens.weight"]
    )
    np.testing.assert_array_equal(tied["model.embed_tokens.weight"], np.eye(3))


def test_what_the_config_does_not_tie_stays_missing(tmp_path):
    checkpoint = model(**{"model.embed_tokens.weight": (4, 2)})
    assert with_tied_embeddings(checkpoint, tmp_path, ["lm_head.weight"]) is checkpoint
    (tmp_path / "config.json").write_text('{"tie_word_embeddings": false}')
    assert with_tied_embeddings(checkpoint, tmp_path, ["lm_head.weight"]) is checkpoint


def test_what_is_no_embedding_is_never_tied(gpt_2):
    saved = open_checkpoint(gpt_2)
    assert with_tied_embeddings(saved, gpt_2, ["h.0.mlp.weight", "lm_head.bias"]) is saved


@pytest.mark.parametrize("says", [True, False])
def test_a_tied_matrix_that_was_saved_under_both_names_is_merged_once(says):
    matrix = np.arange(6, dtype=np.float32).reshape(3, 2)
    saved = InMemory(
        {"model.embed_tokens.weight": matrix, "lm_head.weight": matrix, "model.norm.weight": [1.0]}
    )
    names = list(canonical(saved, {"tie_word_embeddings": says}, "base"))
    assert ("lm_head.weight" in names) == (not says)
    assert {"model.embed_tokens.weight", "model.norm.weight"} <= set(names)
