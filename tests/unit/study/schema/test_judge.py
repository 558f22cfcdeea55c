import pytest
from pydantic import ValidationError

from mergegrid.errors import ConfigError
from mergegrid.study.schema.judge import Judge
from mergegrid.yaml_files import check_content

GAMED = {"source": "path:df_gamed.csv"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"max_tokens": 50}, "max_tokens 50 cuts function calls off; take 200 or more"),
        ({"structured_choice": True}, "structured_choice does not fit style function"),
        ({"length_controlled": True}, "length_controlled and length_files go together"),
        ({"length_files": GAMED}, "length_controlled and length_files go together"),
        ({"api_key_env": "sk-123"}, "api_key_env = 'sk-123': String should match pattern"),
        ({"base_url": "127.0.0.1:8000"}, "base_url = '127.0.0.1:8000': String should match"),
        ({"timeout": 0}, "timeout = 0: Input should be greater than 0"),
        ({"judge": "gpt"}, "judge is not a known key"),
    ],
)
def test_a_judge_that_cannot_work_is_refused(content, said):
    with pytest.raises(ConfigError) as refused:
        check_content(Judge, {"model": "any", **content}, "config.yaml")
    assert said in str(refused.value)


def test_a_judge_needs_a_model():
    with pytest.raises(ValidationError, match="model"):
        Judge()


@pytest.mark.parametrize(("style", "tokens"), [("choice", 1), ("function", 200), ("ranking", 100)])
def test_answers_are_cut_where_their_style_ends(style, tokens):
    assert Judge(model="any", style=style).answer_tokens == tokens
    assert Judge(model="any", style=style, max_tokens=2000).answer_tokens == 2000


def test_the_judge_is_at_openai_unless_an_address_is_given():
    assert Judge(model="any").url == "https://api.openai.com/v1"
    assert Judge(model="any", base_url="http://127.0.0.1:8000/v1").url.startswith("http://127")
