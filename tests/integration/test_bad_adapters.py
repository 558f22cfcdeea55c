"""Adapters that cannot be merged are refused in one line, before anything is written."""

import json
import pickle
import shutil
from zipfile import ZipFile

import adapters
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

Q = "base_model.model.model.layers.0.self_attn.q_proj"
EMBEDDING = "base_model.model.model.embed_tokens"
MERGE_WITH_PEFT = "merge it into its base with PEFT (merge_and_unload)"
CASES = {}


def case(*says):
    """Register a way to spoil an adapter, and what the error must say."""

    def register(function):
        CASES[function.__name__.strip("_")] = function, says
        return function

    return register


def file(folder):
    return folder / "adapter" / "adapter_model.safetensors"


def configure(folder, **values):
    path = folder / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change(folder, tensors):
    """Add tensors to the file or replace them; None takes one away."""
    state = load_file(file(folder)) | tensors
    save_file({key: tensor for key, tensor in state.items() if tensor is not None}, file(folder))


def other_base(folder, **config):
    shutil.rmtree(folder / "base")
    adapters.llama(**config).save_pretrained(folder / "base")


for kind in ("LOHA", "LOKR", "IA3", "ADALORA", "VERA", "PREFIX_TUNING"):

    @case(f"is of type {kind}; only LORA is read", MERGE_WITH_PEFT)
    def of_another_kind(folder, kind=kind):
        configure(folder, peft_type=kind)

    CASES[f"of kind {kind}"] = CASES.pop("of_another_kind")

for init in ("pissa", "pissa_niter_16", "olora", "corda", "lora_ga", "loftq"):

    @case(f"init_lora_weights is {init!r}", "changed base", "path_initial_model")
    def initialized(folder, init=init):
        configure(folder, init_lora_weights=init)

    CASES[f"initialized by {init}"] = CASES.pop("initialized")

for key, value, reason in (
    ("layer_replication", [[0, 2], [0, 2]], "more layers than its base"),
    ("kasa_config", {"beta": 1e-4}, "KaSA changes the base"),
    ("alora_invocation_tokens", [5], "some tokens"),
    ("arrow_config", {"top_k": 2}, "routes"),
    ("use_bdlora", {"nblocks": 2}, "block-diagonal"),
    ("use_qalora", True, "pools"),
    ("monteclora_config", {"num_samples": 2}, "samples"),
):

    @case(f"{key} is set", reason, MERGE_WITH_PEFT)
    def with_a_setting(folder, key=key, value=value):
        configure(folder, **{key: value})

    CASES[f"with {key}"] = CASES.pop("with_a_setting")


@case("warp_factor = 9 is not known here", MERGE_WITH_PEFT)
def a_setting_of_the_future(folder):
    configure(folder, warp_factor=9)


@case("adapter_config.json is not valid JSON")
def config_that_is_no_json(folder):
    (folder / "adapter" / "adapter_config.json").write_text("{")


@case("r is 0, not a rank of at least 1")
def rank_zero(folder):
    configure(folder, r=0)


@case("lora_alpha is 'much', not a number")
def alpha_that_is_no_number(folder):
    configure(folder, lora_alpha="much")


@case("rank_pattern is not a mapping from patterns to numbers")
def a_pattern_that_is_no_pattern(folder):
    configure(folder, rank_pattern={"q_proj(": 2})


@case("neither adapter_model.safetensors nor adapter_model.bin", "download it again")
def no_tensors(folder):
    file(folder).unlink()


@case("is damaged or truncated", "download or rebuild")
def truncated(folder):
    file(folder).write_bytes(file(folder).read_bytes()[:-10])


@case("contains code", "do not load it")
def code_in_a_pickle(folder):
    class Hostile:
        def __reduce__(self):
            return eval, ("1",)

    file(folder).unlink()
    with ZipFile(folder / "adapter" / "adapter_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"w": Hostile()}))


@case("has rank 8 here, but 4 in the file", "do not belong together")
def another_rank(folder):
    configure(folder, r=8)


@case("has only one of its two matrices")
def half_of_a_pair(folder):
    change(folder, {f"{Q}.lora_B.weight": None})


@case("leave out model.layers.0.self_attn.q_proj", "PEFT would drop its tensors")
def a_module_that_the_config_does_not_target(folder):
    configure(folder, target_modules=["up_proj"])


@case("leave out model.layers.1.", "PEFT would drop its tensors")
def a_layer_that_the_config_does_not_transform(folder):
    configure(folder, layers_to_transform=[0])


@case("use_dora is false, and the file has its tensor of model.layers.0.self_attn.q_proj")
def magnitudes_without_dora(folder):
    change(folder, {f"{Q}.lora_magnitude_vector": torch.ones(adapters.WIDTH)})


@case("use_dora is true, and the file lacks its tensor of")
def dora_without_magnitudes(folder):
    configure(folder, use_dora=True)


@case("lora_bias is false, and the file has its tensor of model.layers.0.self_attn.q_proj")
def a_bias_without_lora_bias(folder):
    change(folder, {f"{Q}.lora_B.bias": torch.ones(adapters.WIDTH)})


@case("has a trained bias (lora_bias), and the base has no", "train without lora_bias")
def a_bias_for_a_base_without_one(folder):
    configure(folder, lora_bias=True)
    biases = {
        key.replace("lora_B.weight", "lora_B.bias"): torch.ones(tensor.shape[0])
        for key, tensor in load_file(file(folder)).items()
        if key.endswith("lora_B.weight")
    }
    change(folder, biases)


@case("lora_sparkle is none of the tensors that LoRA has")
def an_unknown_tensor(folder):
    change(folder, {f"{Q}.lora_sparkle": torch.ones(2)})


@case("norm.weight is not named by modules_to_save, so it would be ignored")
def a_tensor_that_the_config_does_not_save(folder):
    change(folder, {"base_model.model.model.norm.weight": torch.zeros(adapters.WIDTH)})


@case("a copy of model.embed_tokens.weight that differs from the base's", "not trained on this")
def a_copy_of_another_base(folder):
    change(folder, {f"{EMBEDDING}.weight": torch.ones(adapters.TOKENS, adapters.WIDTH)})


@case("which fits neither the 3 trainable_token_indices")
def rows_of_another_number(folder):
    configure(folder, trainable_token_indices=[1, 2, 3])
    rows = torch.ones(2, adapters.WIDTH)
    change(folder, {f"{EMBEDDING}.token_adapter.trainable_tokens_delta": rows})


@case("trainable_token_indices go up to 4000, and model.embed_tokens.weight of the base has 48")
def rows_beyond_the_base(folder):
    configure(folder, trainable_token_indices=[1, 4000])
    rows = torch.ones(2, adapters.WIDTH)
    change(folder, {f"{EMBEDDING}.token_adapter.trainable_tokens_delta": rows})


@case("changes model.embed_tokens.weight as a whole and in rows of trained tokens")
def rows_of_a_matrix_that_changes_as_a_whole(folder):
    configure(folder, trainable_token_indices=[1, 2], modules_to_save=["embed_tokens"])
    rows, whole = (torch.ones(count, adapters.WIDTH) for count in (2, adapters.TOKENS))
    change(
        folder,
        {
            f"{EMBEDDING}.token_adapter.trainable_tokens_delta": rows,
            f"{EMBEDDING}.weight": whole,
        },
    )


@case("is for a weight of shape (40, 32), and the base has (40, 64)", "specify the right one")
def a_base_of_another_width(folder):
    other_base(folder, hidden_size=64)


@case("changes model.layers.1.", "the base has no", "specify the right one")
def a_base_of_fewer_layers(folder):
    other_base(folder, num_hidden_layers=1)


@case("changes lm_head.weight, which is one matrix with model.embed_tokens.weight", "on one side")
def one_side_of_a_tied_matrix(folder):
    other_base(folder, tie_word_embeddings=True)
    configure(folder, target_modules=["q_proj", "up_proj", "lm_head"])
    a, b = torch.ones(4, adapters.WIDTH), torch.ones(adapters.TOKENS, 4)
    head = "base_model.model.lm_head"
    change(folder, {f"{head}.lora_A.weight": a, f"{head}.lora_B.weight": b})


@case("names the base org/Other-7B, and the base here is base", "base_is: org/Other-7B")
def another_name_of_the_base(folder):
    configure(folder, base_model_name_or_path="org/Other-7B")


@case("expert math holds nan")
def not_a_number(folder):
    change(folder, {f"{Q}.lora_A.weight": torch.full((4, adapters.WIDTH), torch.nan)})


@case("base is a LoRA adapter, not a whole model", "name the model it was trained on")
def an_adapter_alone_as_base(folder):
    shutil.rmtree(folder / "base")
    shutil.copytree(folder / "adapter", folder / "base")


@case("has the weights of an adapter but no adapter_config.json", "download it again")
def without_its_config(folder):
    (folder / "adapter" / "adapter_config.json").unlink()


@case("contains an adapter (adapter_config.json), not a whole model")
def an_adapter_as_base(folder):
    shutil.rmtree(folder / "base")
    shutil.copytree(folder / "adapter", folder / "base")
    adapters.llama().config.save_pretrained(folder / "base")


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    adapters.save_all(adapters.Variant({"target_modules": ["q_proj", "up_proj"]}), folder)
    return folder


def listing(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def merge_file(folder, **changes):
    path = folder / "merge.yaml"
    path.write_text(yaml.safe_dump({"base": "base", "experts": {"math": "adapter"}} | changes))
    return path


@pytest.mark.parametrize("name", CASES)
def test_what_cannot_be_merged_is_refused_in_one_line(sound, run, tmp_path, name):
    prepare, says = CASES[name]
    folder = tmp_path / "models"
    shutil.copytree(sound, folder)
    prepare(folder)
    recipe = merge_file(folder)
    before = listing(tmp_path)
    outcome = run("merge", recipe, folder / "out")
    assert outcome.code == 2, outcome.err
    errors = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    for part in says:
        assert part in errors[0]
    assert listing(tmp_path) == before


@pytest.mark.parametrize(
    ("named", "base_is"),
    [
        ("org/Other-7B", "org/Other-7B"),
        ("org/Other-7B", ["x/y", "someone/other-7b"]),
        ("/scratch/me/base", []),
        ("someone/Base-unsloth-bnb-4bit", []),
        ("someone/base-GPTQ-Int4", []),
        (None, []),
    ],
)
def test_a_base_by_another_name_is_accepted_where_it_is_the_same(
    sound, run, tmp_path, named, base_is
):
    shutil.copytree(sound, tmp_path / "models")
    configure(tmp_path / "models", base_model_name_or_path=named)
    recipe = merge_file(tmp_path / "models", base_is=base_is)
    outcome = run("merge", recipe, tmp_path / "out")
    assert outcome.code == 0, outcome.err
    quantized = "quantized copy" in outcome.err
    assert quantized == bool(named and named.startswith("someone/"))
    assert ("does not name its base" in outcome.err) == (named is None)


def test_inspect_describes_an_adapter(sound, run):
    outcome = run("inspect", sound / "adapter")
    assert outcome.code == 0
    assert "a LoRA adapter of rank 4 for a base that it does not name" in outcome.out
    assert "mergegrid deltas BASE" in outcome.out


def test_deltas_are_those_of_the_adapter(sound, run):
    outcome = run("deltas", sound / "base", sound / "adapter")
    assert outcome.code == 0, outcome.err
    (norm,) = (line for line in outcome.out.splitlines() if line.startswith("model.norm.weight"))
    assert norm.endswith("100.0 %")
    assert "is a LoRA adapter" in outcome.out


def test_the_tokenizer_beside_an_adapter_is_the_experts(sound, run, tmp_path):
    shutil.copytree(sound, tmp_path / "models")
    for model, text in (("base", "base's"), ("adapter", "expert's")):
        (tmp_path / "models" / model / "chat_template.jinja").write_text(text)
    recipe = merge_file(tmp_path / "models", output={"tokenizer": "math"})
    assert run("merge", recipe, tmp_path / "out").code == 0
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "expert's"
