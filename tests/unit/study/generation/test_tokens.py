import json

import pytest
import small_models
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from mergegrid.errors import CheckpointError, ConfigError
from mergegrid.study.generation.backend import Completion
from mergegrid.study.generation.tokens import PromptTokenizer
from mergegrid.study.schema.generation import Sampling

BOS, EOS = 1, 2


@pytest.fixture
def folder(tmp_path):
    """`folder("<s> $A", bos_token="<s>")`: a folder with a config and such a tokenizer."""

    def make(layout="<s> $A", template=None, config=(), **special):
        tokenizer = small_models.tokenizer()
        for name, token in special.items():
            setattr(tokenizer, name, token)
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=layout, special_tokens=[("<s>", BOS), ("</s>", EOS)]
        )
        tokenizer.chat_template = template
        tokenizer.save_pretrained(tmp_path)
        content = {"bos_token_id": BOS, "eos_token_id": EOS, "max_position_embeddings": 64}
        (tmp_path / "config.json").write_text(json.dumps(content | dict(config)))
        return tmp_path

    return make


def test_a_raw_prompt_begins_with_the_start_token(folder):
    assert PromptTokenizer(folder()).encode("the film")[0] == BOS
    assert PromptTokenizer(folder("$A")).encode("the film")[0] != BOS


def test_a_tokenizer_with_another_start_token_is_refused(folder):
    with pytest.raises(CheckpointError, match=r"with </s> \(2\), but its config expects <s> \(1\)"):
        PromptTokenizer(folder("</s> $A", bos_token="</s>"))


def test_generation_config_may_define_the_start_token(folder):
    path = folder("</s> $A", bos_token="</s>", config={"bos_token_id": None})
    PromptTokenizer(path)
    (path / "generation_config.json").write_text(json.dumps({"bos_token_id": BOS}))
    with pytest.raises(CheckpointError, match="use the tokenizer of the base"):
        PromptTokenizer(path)


def test_a_tokenizer_that_appends_an_end_token_is_refused(folder):
    with pytest.raises(CheckpointError, match=r"adds </s> \(2\) after every text"):
        PromptTokenizer(folder("<s> $A </s>"))


def test_a_chat_has_one_start_token_if_template_and_tokenizer_add_it(folder):
    template = (
        "{{ bos_token }} one {{ messages[0].content }} {% if add_generation_prompt %}two{% endif %}"
    )
    ids = PromptTokenizer(folder(template=template)).chat("the film")
    tokenizer = AutoTokenizer.from_pretrained(folder(template=template))
    assert ids[0] == BOS
    assert BOS not in ids[1:]
    assert tokenizer.decode(list(ids)) == "<s> one the film two"


def test_a_template_with_another_start_token_is_refused(folder):
    prompts = PromptTokenizer(
        folder("$A", "{{ bos_token }} {{ messages[0].content }}", bos_token="</s>")
    )
    with pytest.raises(CheckpointError, match="use the tokenizer of the base"):
        prompts.chat("the film")


def test_chat_without_a_template_is_refused(folder):
    with pytest.raises(CheckpointError, match="no chat template"):
        PromptTokenizer(folder()).chat("the film")


def test_the_limit_is_the_configured_one_or_that_of_the_model(folder):
    prompts = PromptTokenizer(folder())
    assert (prompts.max_length(None), prompts.max_length(32)) == (64, 32)
    with pytest.raises(ConfigError, match=r"is 65, but .* supports 64"):
        prompts.max_length(65)
    scaled = {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}
    assert PromptTokenizer(folder(config=scaled)).max_length(None) == 128


def test_answers_are_cut_at_their_end_and_before_the_first_stop_text(folder):
    prompts = PromptTokenizer(folder())
    ids = prompts.tokenizer("good film is bad", add_special_tokens=False).input_ids
    plain, stops = Sampling(), Sampling(stop=["bad", "is"])

    def completion(ids, sampling):
        return prompts.completion((BOS,), ids, sampling)

    assert completion(ids, plain) == Completion("good film is bad", "length", 4)
    assert completion([*ids, EOS, *ids], plain) == Completion("good film is bad", "stop", 5)
    assert completion([EOS], plain) == Completion("", "stop", 1)
    assert completion(ids, stops) == Completion("good film ", "stop", 3)
    assert completion([*ids[:2], EOS, *ids], stops) == Completion("good film", "stop", 3)


def test_end_tokens_of_every_config_end_an_answer(folder):
    path = folder(config={"eos_token_id": [7, 8]})
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": 9}))
    assert PromptTokenizer(path).end_tokens == {EOS, 7, 8, 9}


def test_the_leading_space_of_an_answer_is_kept(folder):
    prompts = PromptTokenizer(folder("$A"))
    ids = prompts.tokenizer("good film").input_ids
    assert prompts.text(prompts.encode("the"), ids) == " good film"
