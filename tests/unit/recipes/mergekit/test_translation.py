"""What a mergekit file becomes: models, names, sparsifier, method, output and notes."""

from textwrap import dedent

import pytest
import yaml

from mergegrid.recipes.merge_file import read_merge_file
from mergegrid.recipes.mergekit.importing import import_file, is_mergekit


def imported(folder, text, **options):
    path = folder / "config.yml"
    path.write_text(dedent(text))
    assert is_mergekit(path)
    return import_file(path, **options)


def test_the_text_is_a_merge_file_that_reads_back(tmp_path):
    result = imported(
        tmp_path,
        """
        models:
          - model: models/base
          - {model: models/math, parameters: {weight: 0.5, density: 0.53}}
          - {model: org/code@v2, parameters: {weight: 0.5, density: 0.4}}
        merge_method: dare_linear
        base_model: models/base
        parameters: {lambda: 0.9, int8_mask: true}
        dtype: float32
        out_dtype: bfloat16
        """,
    )
    (tmp_path / "merge.yaml").write_text(result.text())
    assert read_merge_file(tmp_path / "merge.yaml") == result.merge_file
    assert yaml.safe_load(result.text()) == {
        "base": "models/base",
        "experts": {"math": "models/math", "code": "org/code@v2"},
        "sparsifier": {
            "kind": "dare",
            "rate": 0.0,
            "rates": {"math": 0.47, "code": 0.6},
            "seed": 0,
        },
        "method": {
            "kind": "task_arithmetic",
            "coefficient": 0.9,
            "coefficients": {"math": 0.5, "code": 0.5},
        },
        "output": {"dtype": "bfloat16", "tokenizer": "base"},
    }


MODELS = "models: [{model: a}, {model: b}]\nbase_model: base\n"
WEIGHTED = "parameters: {weight: 0.5}\n"
#: Methods and parameters of mergekit, and the sparsifier and method that they become.
PARTS = {
    "linear": (f"{MODELS}merge_method: linear\n{WEIGHTED}", {"kind": "none"}, {"kind": "average"}),
    "task_arithmetic, normalized": (
        f"{MODELS}merge_method: task_arithmetic\nparameters: {{weight: 0.5, normalize: true}}\n",
        {"kind": "none"},
        {
            "kind": "task_arithmetic",
            "coefficient": 1.0,
            "coefficients": {"a": 0.5, "b": 0.5},
            "normalize": True,
        },
    ),
    "dare_linear without rescaling": (
        f"{MODELS}merge_method: dare_linear\n"
        "parameters: {weight: 1, density: 0.25, rescale: false}\n",
        {"kind": "drop_only", "rate": 0.75, "seed": 0},
        {"kind": "task_arithmetic", "coefficient": 1.0},
    ),
    "breadcrumbs whose gamma exceeds what is dropped": (
        f"{MODELS}merge_method: breadcrumbs\nparameters: {{weight: 1, density: 0.9, gamma: 0.2}}\n",
        {
            "kind": "breadcrumbs",
            "rate": 0.1,
            "largest": 0.1,
            "scope": "per_tensor",
            "arithmetic": "mergekit",
        },
        {"kind": "task_arithmetic", "coefficient": 1.0},
    ),
    "della_linear": (
        f"{MODELS}merge_method: della_linear\nparameters: {{weight: 1, density: 0.4}}\n",
        {"kind": "della", "rate": 0.6, "window": 0.15, "seed": 0},
        {"kind": "task_arithmetic", "coefficient": 1.0},
    ),
    "della_linear with windows by model": (
        "models:\n  - {model: a, parameters: {epsilon: 0.1}}\n"
        "  - {model: b, parameters: {epsilon: 0.2}}\nbase_model: base\n"
        "merge_method: della_linear\nparameters: {weight: 1, density: 0.4}\n",
        {
            "kind": "della",
            "rate": 0.6,
            "window": 0.0,
            "windows": {"a": 0.1, "b": 0.2},
            "seed": 0,
        },
        {"kind": "task_arithmetic", "coefficient": 1.0},
    ),
    "linear without normalization": (
        f"{MODELS}merge_method: linear\nparameters: {{weight: 0.5, normalize: false}}\n",
        {"kind": "none"},
        {
            "kind": "average",
            "weights": {"a": 0.5, "b": 0.5, "base-2": 0.5},
            "normalize": False,
        },
    ),
    "slerp by layer and module": (
        "models: [{model: a}, {model: b}]\nbase_model: a\nmerge_method: slerp\n"
        "parameters: {t: [{filter: 'v[0]', value: [0.1, 1]}, {value: 0.25}]}\n",
        {"kind": "none"},
        {
            "kind": "slerp",
            "t": {
                "rules": [{"tensors": "*v[[]0]*", "value": {"gradient": [0.1, 1.0]}}],
                "default": 0.25,
            },
            "arithmetic": "mergekit",
        },
    ),
    "sce": (
        f"{MODELS}merge_method: sce\nparameters: {{select_topk: 0.1}}\n",
        {"kind": "none"},
        {"kind": "sce", "select": 0.1, "arithmetic": "mergekit"},
    ),
    "nuslerp": (
        "models:\n  - {model: a, parameters: {weight: 3}}\n"
        "  - {model: b, parameters: {weight: 1}}\nmerge_method: nuslerp\n",
        {"kind": "none"},
        {"kind": "slerp", "weights": {"a": 3.0, "b": 1.0}},
    ),
    "slerp from the base": (
        "models: [{model: a}, {model: b}]\nbase_model: b\nmerge_method: slerp\n"
        "parameters: {t: 0.3}\n",
        {"kind": "none"},
        {"kind": "slerp", "t": 0.3, "arithmetic": "mergekit"},
    ),
    "ties": (
        "models:\n  - {model: a, parameters: {weight: 0.5, density: 0.2}}\n"
        "  - {model: b, parameters: {weight: 0.3, density: 0.2}}\nbase_model: base\n"
        "merge_method: ties\n",
        {"kind": "magnitude", "rate": 0.8, "scope": "per_tensor", "arithmetic": "mergekit"},
        {
            "kind": "ties",
            "weights": {"a": 0.5, "b": 0.3},
            "coefficient": 1.0,
            "trim": 0.0,
            "scope": "per_tensor",
            "arithmetic": "mergekit",
        },
    ),
    "dare_ties": (
        f"{MODELS}merge_method: dare_ties\nparameters: {{weight: 0.5, density: 0.1}}\n",
        {"kind": "dare", "rate": 0.9, "seed": 0},
        {
            "kind": "ties",
            "weights": {"a": 0.5, "b": 0.5},
            "normalize": False,
            "coefficient": 1.0,
            "trim": 0.0,
            "scope": "per_tensor",
            "arithmetic": "mergekit",
        },
    ),
    "numbers that YAML reads as text": (
        f"{MODELS}merge_method: task_arithmetic\nparameters: {{weight: 1e-1}}\n",
        {"kind": "none"},
        {
            "kind": "task_arithmetic",
            "coefficient": 1.0,
            "coefficients": {"a": 0.1, "b": 0.1},
        },
    ),
}


@pytest.mark.parametrize(("text", "sparsifier", "method"), PARTS.values(), ids=PARTS)
def test_a_method_becomes_a_sparsifier_and_a_method(tmp_path, text, sparsifier, method):
    content = yaml.safe_load(imported(tmp_path, text).text())
    assert content["sparsifier"] == sparsifier
    assert content["method"] == method


def test_an_inner_scope_counts_before_an_outer_one(tmp_path):
    result = imported(
        tmp_path,
        """
        merge_method: task_arithmetic
        base_model: base
        parameters: {weight: 0.1}
        modules:
          default:
            parameters: {weight: 0.2}
            slices:
              - parameters: {weight: 0.3}
                sources:
                  - {model: base, layer_range: [0, 4]}
                  - {model: a, layer_range: [0, 4], parameters: {weight: 0.4}}
                  - {model: b, layer_range: [0, 4]}
        """,
    )
    assert yaml.safe_load(result.text())["method"]["coefficients"] == {"a": 0.4, "b": 0.3}


LAYERS = {
    "passed, of two models": (
        """
        merge_method: passthrough
        slices:
          - sources: [{model: a, layer_range: [0, 3]}]
          - sources: [{model: b, layer_range: [1, 4]}]
        """,
        [{"a": [0, 3]}, {"b": [1, 4]}],
    ),
    "passed twice, of one model": (
        """
        merge_method: passthrough
        slices:
          - sources: [{model: a, layer_range: [0, 3]}]
          - sources: [{model: a, layer_range: [1, 4]}]
        """,
        [{"a": [0, 3]}, {"a": [1, 4]}],
    ),
    "merged, some": (
        """
        merge_method: task_arithmetic
        base_model: base
        parameters: {weight: 1}
        slices:
          - sources: [{model: base, layer_range: [0, 2]}, {model: a, layer_range: [1, 3]}]
          - sources: [{model: base, layer_range: [2, 4]}]
        """,
        [{"base": [0, 2], "a": [1, 3]}, {"base": [2, 4]}],
    ),
    "merged, without a base": (
        """
        merge_method: linear
        parameters: {weight: 1}
        slices:
          - sources: [{model: a, layer_range: [1, 4]}, {model: b, layer_range: [0, 3]}]
        """,
        [{"a": [1, 4], "b": [0, 3], "base": [1, 4]}],
    ),
    "all of models that are not here": (
        """
        merge_method: linear
        parameters: {weight: 1}
        slices:
          - sources: [{model: a, layer_range: [0, 4]}, {model: b, layer_range: [0, 4]}]
        """,
        [{"a": [0, 4], "b": [0, 4], "base": [0, 4]}],
    ),
}


@pytest.mark.parametrize(("text", "layers"), LAYERS.values(), ids=LAYERS)
def test_slices_become_layers_of_the_output(tmp_path, text, layers):
    assert yaml.safe_load(imported(tmp_path, text).text())["output"]["layers"] == layers


def test_a_slice_of_all_layers_is_the_whole_model(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text('{"num_hidden_layers": 4}')
    text, _ = LAYERS["all of models that are not here"]
    assert "layers" not in yaml.safe_load(imported(tmp_path, text).text())["output"]


def test_experts_have_names_that_differ(tmp_path):
    text = "models: [{model: x/m}, {model: y/m}, {model: y/base}, {model: ../.hidden_1}]\n"
    result = imported(tmp_path, f"{text}merge_method: linear\n{WEIGHTED}")
    assert list(result.merge_file.experts) == ["m", "m-2", "base-2", "hidden_1"]


def test_without_a_base_the_first_model_gives_config_and_tokenizer(tmp_path):
    result = imported(
        tmp_path, f"models: [{{model: a}}, {{model: b}}]\nmerge_method: linear\n{WEIGHTED}"
    )
    assert result.merge_file.base == "a"
    assert result.merge_file.experts == {"a": "a", "b": "b"}
    assert any(
        "config and tokenizer are those of the first model, a" in note for note in result.notes
    )


@pytest.mark.parametrize("base", ["base_model: org/m@v1", ""], ids=["named", "not named"])
def test_adapters_of_the_base_are_experts(tmp_path, base):
    text = "models: [{model: org/m@v1+x/lora}, {model: {model: org/m@v1, lora: y/dora}}]\n"
    method = "task_arithmetic" if base else "linear"
    result = imported(tmp_path, f"{text}merge_method: {method}\n{WEIGHTED}{base}\n")
    assert result.merge_file.base == "org/m@v1"
    assert result.merge_file.experts == {"lora": "x/lora", "dora": "y/dora"}
    assert any("deltas of adapters are exact" in note for note in result.notes)


def test_a_base_that_linear_lacks_among_the_models_is_averaged_too(tmp_path):
    # mergekit adds it to `models`, with the weight of all.
    result = imported(tmp_path, f"{MODELS}merge_method: linear\n{WEIGHTED}")
    assert result.merge_file.experts == {"a": "a", "b": "b", "base-2": "base"}


OUTPUTS = {
    "nothing": ("", {"tokenizer": "base"}),
    "the base by its name": ("tokenizer_source: base\n", {"tokenizer": "base"}),
    "an expert": ("tokenizer: {source: b}\n", {"tokenizer": "b"}),
    "a union": (
        "tokenizer:\n"
        "  tokens:\n"
        "    <|im_start|>: {source: {kind: model_token, model: b, token_id: 7}}\n"
        "    <pad>: {source: {kind: zero}}\n"
        "    <|im_end|>: {source: base, force: true}\n"
        "  pad_to_multiple_of: 64\n",
        {
            "tokenizer": "base",
            "vocabulary": "union",
            "tokens": {
                "<|im_start|>": {"source": "b", "token_id": 7},
                "<pad>": {"source": "zero"},
                "<|im_end|>": {"source": "base", "force": True},
            },
            "pad_to_multiple_of": 64,
        },
    ),
    "a template": (
        'chat_template: "{{ messages[0].content }}"\n',
        {"tokenizer": "base", "chat_template": "{{ messages[0].content }}"},
    ),
}


@pytest.mark.parametrize(("text", "output"), OUTPUTS.values(), ids=OUTPUTS)
def test_tokenizer_and_template_become_output(tmp_path, text, output):
    result = imported(tmp_path, f"{MODELS}merge_method: model_stock\n{text}")
    assert yaml.safe_load(result.text())["output"] == output


NOTES = {
    "rounded weights": (
        "merge_method: task_arithmetic\nparameters: {weight: 0.3}\ndtype: bfloat16\n",
        "mergekit also rounds weights: 0.3 to 0.30078125",
    ),
    "no density": (
        "merge_method: dare_linear\nparameters: {weight: 1}\n",
        "density is not set, which is 1: dare_linear drops nothing",
    ),
    "masks": (
        "merge_method: dare_linear\nparameters: {weight: 1, density: 0.5}\n",
        "masks are drawn by mergegrid's generator with seed 0",
    ),
    "the L1 norm": (
        "merge_method: dare_linear\nparameters: {weight: 1, density: 0.5}\n",
        "mergekit scales each tensor to the L1 norm before dropping",
    ),
    "no dtype": (
        "merge_method: task_arithmetic\nparameters: {weight: 1}\n",
        "dtype is not set: mergekit computes in the dtype of the models",
    ),
}


@pytest.mark.parametrize(("text", "note"), NOTES.values(), ids=NOTES)
def test_what_mergekit_does_otherwise_is_a_line(tmp_path, text, note):
    notes = imported(tmp_path, MODELS + text).notes
    assert any(note in line for line in notes), notes


def test_the_models_of_the_head_that_mergekit_forgets_are_a_line(tmp_path):
    text = """
        merge_method: task_arithmetic
        base_model: base
        parameters: {weight: 1}
        slices:
          - sources: [{model: base, layer_range: [0, 2]}]
          - sources: [{model: base, layer_range: [0, 2]}, {model: a, layer_range: [1, 3]}]
    """
    notes = imported(tmp_path, text).notes
    assert any("final norm and head are merged of all models" in note for note in notes)


def test_unused_parameters_are_noted_if_they_may_be_ignored(tmp_path):
    result = imported(
        tmp_path, f"{MODELS}merge_method: model_stock\n{WEIGHTED}", ignore_unused=True
    )
    assert any("parameters.weight is not used by model_stock" in note for note in result.notes)


def test_a_model_below_the_current_folder_is_found_as_in_mergekit(tmp_path, monkeypatch):
    (tmp_path / "here" / "a").mkdir(parents=True)
    (tmp_path / "there" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    result = imported(tmp_path / "there", f"{MODELS}merge_method: linear\n{WEIGHTED}")
    experts = {"a": str(tmp_path / "here" / "a"), "b": "b", "base-2": "base"}
    assert result.merge_file.experts == experts
