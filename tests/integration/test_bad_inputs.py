"""What cannot be merged is refused in one line that says what, where and what to do."""

import json
import pickle
import shutil
import struct
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import family, recipe

NORM = "model.norm.weight"
UP = "model.layers.0.mlp.up_proj.weight"
CASES = {}


def case(*says):
    """Register a way to spoil a family, and what the error must say."""

    def register(function):
        CASES[function.__name__.strip("_")] = function, says
        return function

    return register


def weights(folder, name="math"):
    return folder / name / "model.safetensors"


def change(folder, tensors, name="math"):
    """Give some tensors of a model other values; None takes one away."""
    path = weights(folder, name)
    state = load_file(path) | tensors
    save_file({key: each for key, each in state.items() if each is not None}, path)


def change_config(folder, name="math", **values):
    path = folder / name / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def write_raw(folder, header, data=b"", length=None):
    """A safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if length is None else length
    weights(folder).write_bytes(struct.pack("<Q", size) + text + data)


def entry(start, stop, shape, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def write_bin(folder, content, **options):
    weights(folder).unlink()
    torch.save(content, folder / "math" / "pytorch_model.bin", **options)


def text(folder, content):
    path = folder / "merge.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# Weights that are damaged.


@case("math/model.safetensors is damaged or truncated", "download or rebuild")
def truncated(folder):
    content = weights(folder).read_bytes()
    weights(folder).write_bytes(content[:-100])


@case("math/model.safetensors is damaged or truncated", "claims 9999999 of")
def header_longer_than_the_file(folder):
    write_raw(folder, {}, length=9_999_999)


@case("math/model.safetensors is damaged or truncated", "its header is invalid")
def header_that_is_no_json(folder):
    write_raw(folder, b"{broken")


@case("math/model.safetensors is damaged or truncated", "its header is invalid")
def header_that_is_a_list(folder):
    write_raw(folder, [1, 2])


@case("math/model.safetensors is damaged or truncated", "its header is invalid")
def header_that_is_nested_without_end(folder):
    write_raw(folder, b"[" * 200_000)


@case("math/model.safetensors is damaged or truncated", "its header is invalid")
def header_with_an_infinite_offset(folder):
    write_raw(folder, b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, Infinity]}}')


@case("math/model.safetensors is damaged or truncated", "its header is invalid")
def negative_shape(folder):
    write_raw(folder, {"a": entry(0, 4, [-1, -1])}, b"0000")


@case("math/model.safetensors is damaged or truncated", "b starts at byte 4 of the data, not at 8")
def overlapping_tensors(folder):
    write_raw(folder, {"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, bytes(12))


@case("math/model.safetensors is damaged or truncated", "b starts at byte 12 of the data, not at 8")
def a_gap_between_tensors(folder):
    write_raw(folder, {"a": entry(0, 8, [2]), "b": entry(12, 20, [2])}, bytes(20))


@case("math/model.safetensors is damaged or truncated", "a of shape (3,) has 8 bytes")
def offsets_that_do_not_fit_the_shape(folder):
    write_raw(folder, {"a": entry(0, 8, [3])}, bytes(8))


@case("math/model.safetensors is damaged or truncated", "describes", "download or rebuild")
def bytes_behind_the_last_tensor(folder):
    with weights(folder).open("ab") as file:
        file.write(bytes(16))


@case("math/model.safetensors is damaged or truncated")
def an_empty_file(folder):
    weights(folder).write_bytes(b"")


@case("math has no model.safetensors, no pytorch_model.bin", "specify a model folder")
def no_weights(folder):
    weights(folder).unlink()


def shard(folder, weight_map):
    path = folder / "math" / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@case("math/model-00002-of-00002.safetensors is missing", "download the model again")
def a_missing_shard(folder):
    names = dict.fromkeys(load_file(weights(folder)), "model.safetensors")
    shard(folder, names | {NORM: "model-00002-of-00002.safetensors"})


@case("secret.safetensors points out of its folder", "put the file there")
def an_index_that_leads_out_of_the_folder(folder):
    shutil.copy(weights(folder), folder / "secret.safetensors")
    shard(folder, {NORM: "../secret.safetensors"})


@case("math/model.safetensors.index.json has no weight_map", "download the model again")
def an_index_without_a_map(folder):
    shard(folder, [])


@case("math/model.safetensors lacks ghost.weight, which model.safetensors.index.json assigns to it")
def an_index_of_tensors_that_are_not_there(folder):
    names = dict.fromkeys(load_file(weights(folder)), "model.safetensors")
    shard(folder, names | {"ghost.weight": "model.safetensors"})


@case("math/model.safetensors is missing", "download the model again")
def a_link_to_nothing(folder):
    weights(folder).rename(folder / "elsewhere.safetensors")
    weights(folder).symlink_to(folder / "gone.safetensors")
    shard(folder, {NORM: "model.safetensors"})


@case("math has two sets of weights, model.safetensors and", "first other.safetensors", "remove")
def two_sets_of_weights(folder):
    shutil.copy(weights(folder), folder / "math" / "other.safetensors")
    shard(folder, {NORM: "other.safetensors"})


@case("math/pytorch_model.bin contains code: it calls 'posix.system'", "do not load it")
def a_pickle_with_code(folder):
    class Evil:
        def __reduce__(self):
            import os

            return os.system, (f"touch {folder / 'pwned'}",)

    write_bin(folder, {NORM: torch.ones(64)})
    path = folder / "math" / "pytorch_model.bin"
    with ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with ZipFile(path, "w") as archive:
        for name, content in records.items():
            content = pickle.dumps({NORM: Evil()}) if name.endswith("data.pkl") else content
            archive.writestr(name, content)


@case("math/pytorch_model.bin is not a zip file", "load it with torch and save it as safetensors")
def a_bin_of_an_old_torch(folder):
    write_bin(folder, {NORM: torch.ones(64)}, _use_new_zipfile_serialization=False)


@case("math/pytorch_model.bin is damaged or truncated", "download it again")
def a_truncated_bin(folder):
    write_bin(folder, load_file(weights(folder)))
    path = folder / "math" / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:-200])


# Models that cannot be merged.


@case(f"{UP} has shape (96, 64) in the base and (64, 96) in expert math", "specify the base")
def another_shape(folder):
    change(folder, {UP: torch.zeros(64, 96)})


@case("expert math lacks 1 of its base's tensors", NORM, "specify the right one")
def a_missing_tensor(folder):
    change(folder, {NORM: None})


@case(f"{UP} in ", "math/model.safetensors is stored as I8", "convert the model")
def an_int8_tensor(folder):
    change(folder, {UP: torch.zeros(96, 64, dtype=torch.int8)})


@case("expert math holds nan in model.norm.weight (element 7)", "download or train it again")
def a_nan(folder):
    return spoil(folder, float("nan"))


@case("expert math holds inf in model.norm.weight (element 7)", "download or train it again")
def an_infinity(folder):
    return spoil(folder, float("inf"))


@case("expert math holds nan in model.norm.weight (element 7)", "download or train it again")
def a_nan_that_the_mask_drops(folder):
    spoil(folder, float("nan"))
    return recipe(folder, sparsifier={"kind": "dare", "rate": 1.0})


@case("expert math holds nan in model.norm.weight (element 7)", "download or train it again")
def a_nan_that_is_trimmed(folder):
    spoil(folder, float("nan"))
    return recipe(folder, sparsifier={"kind": "none"}, method={"kind": "ties"})


def spoil(folder, value):
    norm = torch.ones(64, dtype=torch.bfloat16)
    norm[7] = value
    change(folder, {NORM: norm})
    return recipe(folder, sparsifier={"kind": "none"})


@case("the merged", "float16 cannot hold", "lower the coefficient")
def results_beyond_the_dtype(folder):
    method = {"kind": "task_arithmetic", "coefficient": 1e9}
    return recipe(folder, method=method, output={"dtype": "float16"})


@case(
    "expert math", "model_type (llama in the base, mistral in the expert)", "specify the right one"
)
def another_architecture(folder):
    change_config(folder, model_type="mistral")


@case("rope_theta (10000.0 in the base, 1000000.0 in the expert)", "specify the right one")
def another_rotary_base(folder):
    rope = {"rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"}}
    change_config(folder, **rope)


@case("has 62 rows in expert math and 64 in the base", "set the vocabulary policy to pad")
def fewer_rows(folder):
    state = load_file(weights(folder))
    names = [name for name in state if state[name].shape[0] == 64 and "64" not in name]
    rows = {name: state[name][:62] for name in names if "embed" in name or "lm_head" in name}
    change(folder, rows)


@case("base has no config.json", "download it again")
def a_base_without_config(folder):
    (folder / "base" / "config.json").unlink()


@case("math/config.json is not valid JSON", "download the model again")
def a_config_that_is_cut(folder):
    path = folder / "math" / "config.json"
    path.write_text(path.read_text()[:50])


@case("the base: there is no folder", "nowhere", "correct the path")
def a_missing_base(folder):
    return recipe(folder, base="nowhere")


@case("expert math: there is no folder", "nowhere", "correct the path")
def a_missing_expert(folder):
    return recipe(folder, experts={"math": "nowhere"})


# Recipes.


@case("none.yaml does not exist", "correct the path")
def a_missing_recipe(folder):
    return folder / "none.yaml"


@case("math is a folder; name a YAML file")
def a_folder_as_recipe(folder):
    return folder / "math"


@case("merge.yaml: sparsifier = 'dare'", "write {kind: dare}, with its settings")
def a_sparsifier_without_settings(folder):
    return recipe(folder, sparsifier="dare")


@case("merge.yaml: experts = ['math', 'code']", "write {name: value}")
def experts_without_names(folder):
    return recipe(folder, experts=["math", "code"])


@case("merge.yaml: sparsifier.rate = 90", "for 90 %, write 0.9")
def a_rate_in_percent(folder):
    return recipe(folder, sparsifier={"kind": "dare", "rate": 90})


@case("merge.yaml: method.trim: 80: Input", "for 80 %, write 0.8")
def a_gradient_in_percent(folder):
    return recipe(folder, method={"kind": "ties", "trim": {"gradient": [0.5, 80]}})


@case("merge.yaml: spasifier is not a known key; did you mean 'sparsifier'?")
def an_unknown_key(folder):
    return recipe(folder, spasifier={"kind": "dare", "rate": 0.9})


@case("merge.yaml: sparsifier.raet is not a known key; did you mean 'rate'?")
def an_unknown_key_of_a_sparsifier(folder):
    return recipe(folder, sparsifier={"kind": "dare", "raet": 0.9})


@case("merge.yaml: base is missing; add it")
def no_base(folder):
    return text(folder, "experts: {math: math}\n")


@case("merge.yaml: experts = {}", "at least 1 item")
def no_experts(folder):
    return recipe(folder, experts={})


@case("merge.yaml: duplicate key 'math' in lines 3 and 4")
def an_expert_written_twice(folder):
    return text(folder, "base: base\nexperts:\n  math: math\n  math: code\n")


@case("merge.yaml is not valid YAML", "line 1", "fix it there")
def no_yaml(folder):
    return text(folder, "base: [unclosed\n")


@case("merge.yaml is not valid YAML", "fix it there")
def bytes_that_are_no_text(folder):
    return text(folder, b"base: \xff\xfe\n")


@case("merge.yaml is not valid YAML", "fix it there")
def yaml_that_makes_objects(folder):
    return text(folder, "base: !!python/object/apply:os.system [ls]\n")


@case("merge.yaml: the key in line 1 is not a string")
def a_key_that_is_a_list(folder):
    return text(folder, "{[a]: b}\n")


@case("merge.yaml contains a str", "write `key: value` lines")
def a_recipe_that_is_a_sentence(folder):
    return text(folder, "merge them all\n")


@case("merge.yaml: experts", "invalid expert name '../x'; use letters, digits")
def an_expert_name_with_a_slash(folder):
    return recipe(folder, experts={"../x": "math"})


@case("merge.yaml: sparsifier.rate = 1.2", "less than or equal to 1")
def a_rate_above_one(folder):
    return recipe(folder, sparsifier={"kind": "dare", "rate": 1.2})


@case("merge.yaml: sparsifier.rate: missing; add it")
def no_rate(folder):
    return recipe(folder, sparsifier={"kind": "dare"})


@case("merge.yaml: sparsifier", "'dar'", "'dare'")
def an_unknown_sparsifier(folder):
    return recipe(folder, sparsifier={"kind": "dar", "rate": 0.5})


@case("merge.yaml: method", "'avrage'", "'average'")
def an_unknown_method(folder):
    return recipe(folder, method={"kind": "avrage"})


@case("merge.yaml: method.coefficient = nan", "finite number")
def a_coefficient_that_is_no_number(folder):
    return recipe(folder, method={"kind": "task_arithmetic", "coefficient": float("nan")})


@case("merge.yaml: method.weights.math = -1", "greater than or equal to 0")
def a_negative_weight(folder):
    return recipe(folder, method={"kind": "average", "weights": {"math": -1}})


@case("average.weights of code, math sum to 0; give at least one")
def weights_of_nothing(folder):
    return recipe(folder, method={"kind": "average", "weights": {"math": 0, "code": 0}})


@case("average.weights refers to maths, which is not an expert", "choose among code, math")
def a_weight_of_a_stranger(folder):
    return recipe(folder, method={"kind": "average", "weights": {"maths": 1}})


@case("dare.rates refers to maths, which is not an expert", "choose among code, math")
def a_rate_of_a_stranger(folder):
    return recipe(folder, sparsifier={"kind": "dare", "rate": 0.5, "rates": {"maths": 0.1}})


@case("output.tokenizer = 'maths'", "choose base, auto or one of code, math")
def the_tokenizer_of_a_stranger(folder):
    return recipe(folder, output={"tokenizer": "maths"})


@case("statistics refers to maths, which is not an expert", "choose among code, math")
def statistics_of_a_stranger(folder):
    return recipe(folder, statistics={"maths": "fisher.safetensors"})


@case("a known group of tensors; use one of embeddings, norms", "a pattern over names such as")
def a_rule_about_nothing(folder):
    rules = [{"tensors": "mlp", "rate": 0}]
    return recipe(folder, sparsifier={"kind": "dare", "rate": 0.5, "rules": rules})


def coefficient(folder, value):
    return recipe(folder, method={"kind": "task_arithmetic", "coefficient": value})


@case("merge.yaml: method.coefficient.gradient = []", "at least 1 item")
def a_gradient_of_nothing(folder):
    return coefficient(folder, {"gradient": []})


@case("merge.yaml: method.coefficient.default is missing")
def values_by_tensor_without_a_default(folder):
    return coefficient(folder, {"rules": [{"tensors": "norms", "value": 1}]})


@case("merge.yaml: method.trim: 1.5: Input should be less than or equal to 1")
def a_gradient_that_trims_more_than_all(folder):
    return recipe(folder, method={"kind": "ties", "trim": {"gradient": [0, 1.5]}})


@case("task_arithmetic.coefficient: '*.attn.*' covers none of the", "lists the names of a model")
def a_pattern_about_no_tensor(folder):
    return coefficient(folder, {"rules": [{"tensors": "*.attn.*", "value": 1}], "default": 0})


@case("average.weights of code, math sum to 0 for model.layers.1.", "change one of them")
def weights_that_vanish_in_a_layer(folder):
    weights = {name: {"gradient": [1, 0]} for name in ("math", "code")}
    return recipe(folder, method={"kind": "average", "weights": weights})


@case("largest = 0.2 exceeds the rate 0.1 of expert code in model.layers.1.")
def outliers_beyond_the_rate_of_a_layer(folder):
    rate = {"gradient": [0.9, 0.1]}
    return recipe(folder, sparsifier={"kind": "breadcrumbs", "rate": rate, "largest": 0.2})


@case("slerp.t is for one expert; between code and math, give `weights` instead")
def a_position_between_two_experts(folder):
    return recipe(folder, method={"kind": "slerp", "t": 0.25})


@case("output.layers.0 has layers of base and math; give those of all models", "or of one")
def layers_of_some_models(folder):
    return recipe(folder, output={"layers": [{"base": [0, 1], "math": [0, 1]}]})


@case("output.layers.1.math = [1, 3] exceeds the 2 layers of the model", "end at 2")
def layers_that_do_not_exist(folder):
    return recipe(folder, output={"layers": [{"base": [0, 2]}, {"math": [1, 3]}]})


@case("merge.yaml: output.layers.0.base = [1, 1] is empty", "[0, 2] is layers 0 and 1")
def layers_of_nothing(folder):
    return recipe(folder, output={"layers": [{"base": [1, 1]}]})


@case("merge.yaml: output.shard_size = '5 apples'", "use e.g. 5GB")
def a_size_that_is_none(folder):
    return recipe(folder, output={"shard_size": "5 apples"})


@case("--max-memory: invalid size 'lots'", "use e.g. 5GB")
def a_memory_that_is_no_size(folder):
    return [recipe(folder), folder / "out", "--max-memory", "lots"]


@case("merge.yaml: output.dtype = 'int8'", "'bfloat16'")
def an_unknown_dtype(folder):
    return recipe(folder, output={"dtype": "int8"})


@case("slerp merges 1 to 2 experts, but the recipe has 3", "change the experts")
def slerp_of_three(folder):
    experts = {"math": "math", "code": "code", "more": "code"}
    return recipe(folder, experts=experts, method={"kind": "slerp"})


# Vocabularies, tokenizers and templates.


def change_json(folder, change, file="tokenizer.json", name="math"):
    """Change the content of a JSON file of a model."""
    path = folder / name / file
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def add_token(folder, token, number, name="math"):
    entry = {"id": number, "content": token, "special": True}
    change_json(folder, lambda content: content["added_tokens"].append(entry), name=name)


def rename_token(folder, old, new, name="math"):
    """Rename a token, which is an added one in all models."""

    def rename(content):
        vocabulary = content["model"]["vocab"]
        number = vocabulary.pop(old)
        content["added_tokens"].append({"id": number, "content": new, "special": True})

    change_json(folder, rename, name=name)


def union(folder, **output):
    return recipe(folder, output={"vocabulary": "union", **output})


@case("math/tokenizer.json is not valid JSON", "download the model again")
def a_tokenizer_that_is_cut(folder):
    path = folder / "math" / "tokenizer.json"
    path.write_text(path.read_text()[:500])


@case("math/tokenizer.json is not a tokenizer file", "KeyError: 'model'", "download the model")
def a_tokenizer_without_a_vocabulary(folder):
    change_json(folder, lambda content: content.pop("model"))


@case("math/tokenizer.json is not a tokenizer file", "'two' is not a token id")
def an_id_that_is_a_word(folder):
    change_json(folder, lambda content: content["model"]["vocab"].update({"a": "two"}))


@case("math/tokenizer_config.json has a chat_template that is neither a text nor a list")
def a_template_that_is_a_number(folder):
    change_json(folder, lambda content: content.update(chat_template=[7]), "tokenizer_config.json")


@case("math/tokenizer.model is not a sentencepiece model", "download the model again")
def a_sentencepiece_model_that_is_cut(folder):
    (folder / "math" / "tokenizer.json").unlink()
    (folder / "math" / "tokenizer.model").write_bytes(b"\x0a\x50\x0a\x02ab")


@case("expert math has another vocabulary than the base: 2 tokens differ, first 'the' (id 3 in")
def another_vocabulary(folder):
    def swap(content):
        vocabulary = content["model"]["vocab"]
        vocabulary["the"], vocabulary["a"] = vocabulary["a"], vocabulary["the"]

    change_json(folder, swap)


@case("60 in the base, 60 in expert code, 61 in expert math", "vocabulary: union")
def a_token_with_two_ids(folder):
    for name, tokens in (("base", "<new> <old>"), ("code", "<new> <old>"), ("math", "<old> <new>")):
        for old, new in zip(("w60", "w61"), tokens.split(), strict=True):
            rename_token(folder, old, new, name)


@case("token <reserved> (id 60) of the base was renamed <one> by expert code and <two> by expert")
def a_slot_with_two_names(folder):
    for name, new in (("base", "<reserved>"), ("code", "<one>"), ("math", "<two>")):
        rename_token(folder, "w60", new, name)


@case("expert math renamed token <reserved> (id 60) <one>", "set output.tokenizer: math")
def a_renamed_slot_and_the_tokenizer_of_the_base(folder):
    for name, new in (("base", "<reserved>"), ("code", "<reserved>"), ("math", "<one>")):
        rename_token(folder, "w60", new, name)


@case("has tokens beyond the 64 rows of the merged model: <new> (id 64)", "vocabulary: union")
def a_tokenizer_with_more_tokens_than_rows(folder):
    add_token(folder, "<new>", 64)
    return recipe(folder, output={"tokenizer": "math"})


@case("the chat template writes <new>, which the merged model has no row", "vocabulary: union")
def a_template_with_a_lost_token(folder):
    add_token(folder, "<new>", 64)
    (folder / "math" / "chat_template.jinja").write_text("<new>{{ messages[0].content }}")
    return recipe(folder, output={"tokenizer": "base", "chat_template": "math"})


@case("token <new> has no row in any model", "output.tokens")
def a_union_with_a_token_without_a_row(folder):
    add_token(folder, "<new>", 64)
    return union(folder)


@case("expert math stops at id 99 (eos_token_id), but the merged model has 64 rows")
def an_end_without_a_row(folder):
    path = folder / "math" / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": [2, 99]}))
    return recipe(folder, output={"tokenizer": "math"})


@case("the vocabularies cannot be united: the base has no tokenizer.json", "base_rows")
def a_union_without_the_tokenizer_of_the_base(folder):
    (folder / "base" / "tokenizer.json").unlink()
    return union(folder)


@case("expert math has no tokenizer files", "choose another output.tokenizer")
def a_tokenizer_that_is_not_there(folder):
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / "math" / name).unlink()
    return recipe(folder, output={"tokenizer": "math"})


@case("output.chat_template = 'maths'", "choose base, tokenizer or one of code, math")
def the_template_of_a_stranger(folder):
    return recipe(folder, output={"chat_template": "maths"})


@case("tokens needs vocabulary: union, but vocabulary is pad", "omit tokens")
def tokens_without_a_union(folder):
    return recipe(folder, output={"vocabulary": "pad", "tokens": {"<new>": {"source": "zero"}}})


@case("output.tokens.<new> = 'maths'", "choose base, zero or one of code, math")
def the_token_of_a_stranger(folder):
    return union(folder, tokens={"<new>": {"source": "maths"}})


@case("output.tokens: <new>: expert math has no token <old>", "choose another source")
def a_source_without_the_token(folder):
    return union(folder, tokens={"<new>": {"source": "math", "token": "<old>"}})


@case("output.tokens: <new>: the base has 64 rows, so none for id 99", "choose another source")
def a_source_beyond_the_rows(folder):
    return union(folder, tokens={"<new>": {"source": "base", "token_id": 99}})


@case("output.pad_to_multiple_of", "greater than or equal to 1")
def a_multiple_of_nothing(folder):
    return recipe(folder, output={"pad_to_multiple_of": 0})


@case("output.vocabulary = 'both'", "'base_rows', 'pad' or 'union'")
def an_unknown_policy(folder):
    return recipe(folder, output={"vocabulary": "both"})


# Statistics.


def gathered(folder, make, **changes):
    """Statistics of both experts, made from the tensors of the base."""
    base = load_file(weights(folder, "base"))
    for name in ("math", "code"):
        save_file(make(base, name), folder / f"{name}.statistics")
    return recipe(folder, statistics={n: f"{n}.statistics" for n in ("math", "code")}, **changes)


@case(
    "fisher needs model statistics of every expert, and there are none of code",
    "under `statistics`",
)
def fisher_without_statistics(folder):
    return recipe(folder, method={"kind": "fisher"})


@case("gone.safetensors does not exist; correct the path")
def statistics_that_are_not_there(folder):
    statistics = {"math": "gone.safetensors", "code": "gone.safetensors"}
    return recipe(folder, method={"kind": "fisher"}, statistics=statistics)


@case(
    f"{NORM} has shape (3,) in the model statistics of expert code, expected (64,)",
    "gather them again",
)
def statistics_of_another_shape(folder):
    def make(base, name):
        wrong = {NORM: torch.ones(3)} if name == "code" else {}
        return {key: tensor.float().square() for key, tensor in base.items()} | wrong

    return gathered(folder, make, method={"kind": "fisher"})


@case(f"the model statistics of expert math lack {NORM}", "gather them again")
def statistics_of_half_the_model(folder):
    def make(base, name):
        held = base.keys() - ({NORM} if name == "math" else set())
        return {key: base[key].float().square() for key in held}

    return gathered(folder, make, method={"kind": "fisher"})


@case(f"the Gram matrices of {UP} sum to a singular matrix", "set ridge")
def singular_gram_matrices(folder):
    method = {"kind": "regmean", "offdiagonal": 1}
    return gathered(folder, lambda base, name: {UP: torch.ones(64, 64)}, method=method)


@case(f"{UP} has shape (96, 96) in the model statistics of expert code, expected (64, 64)")
def gram_matrices_of_another_layer(folder):
    return gathered(folder, lambda base, name: {UP: torch.eye(96)}, method={"kind": "regmean"})


@case(f"the model statistics of expert code lack {UP}", "gather them again")
def gram_matrices_of_one_expert(folder):
    def make(base, name):
        return {UP if name == "math" else UP.replace("0", "1"): torch.eye(64)}

    return gathered(folder, make, method={"kind": "regmean"})


# Places.


@case("out exists and is not a directory", "choose another output path")
def an_output_that_is_a_file(folder):
    (folder / "out").write_text("mine")


@case("file is not writable; choose another output path")
def an_output_below_a_file(folder):
    (folder / "file").write_text("mine")
    return [recipe(folder), folder / "file" / "out"]


@case("File name too long", "check the path")
def an_output_with_an_endless_name(folder):
    return [recipe(folder), folder / ("x" * 300)]


@case("is a model, but the lists of the merge file ask for 2 models")
def a_grid_in_place_of_a_model(folder):
    (folder / "out").mkdir()
    (folder / "out" / "manifest.json").write_text('{"files": {}, "made_from": {}}')
    return recipe(folder, sparsifier={"kind": "dare", "rate": [0.1, 0.2]})


@pytest.fixture(scope="session")
def sound(tmp_path_factory):
    return family(tmp_path_factory.mktemp("sound"))


def listing(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize("name", CASES)
def test_what_cannot_be_merged_is_refused_in_one_line(sound, run, tmp_path, name):
    prepare, says = CASES[name]
    folder = tmp_path / "models"
    shutil.copytree(sound, folder)
    asked = prepare(folder) or recipe(folder)
    words = [asked, folder / "out"] if isinstance(asked, Path) else asked
    before = listing(tmp_path)
    outcome = run("merge", *words)
    assert outcome.code == 2, outcome.err
    assert outcome.out == ""
    errors = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    # Only what is found while streaming comes after the plan.
    assert outcome.err.splitlines()[-1] == errors[0]
    for part in says:
        assert part in errors[0]
    assert listing(tmp_path) == before


def test_a_grid_that_fails_leaves_nothing_behind(sound, run, tmp_path):
    shutil.copytree(sound, tmp_path / "models")
    spoil(tmp_path / "models", float("nan"))
    method = {"kind": "task_arithmetic", "coefficient": [0.5, 1.0]}
    asked = recipe(tmp_path / "models", sparsifier={"kind": "none"}, method=method)
    before = listing(tmp_path)
    outcome = run("merge", asked, tmp_path / "new" / "grid")
    assert outcome.code == 2
    assert "expert math holds nan" in outcome.err
    assert listing(tmp_path) == before
