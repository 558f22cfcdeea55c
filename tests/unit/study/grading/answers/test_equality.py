"""What the comparison relies on in math-verify; run it when upgrading."""

import pytest
from math_verify import LatexExtractionConfig, parse, verify

from mergegrid.study.grading.answers import equality


class Stop(BaseException):
    """Not an Exception."""


class Answer(str):
    """A parsed answer that stops its comparison."""

    def strip(self):
        raise Stop


def test_math_verify_lets_the_limit_on_calls_through():
    # `equality` stops a comparison by an exception that is not an Exception.
    with pytest.raises(Stop):
        verify(["5"], [Answer("5")], timeout_seconds=None)


def test_parse_returns_nothing_for_what_it_cannot_read_and_needs_no_signals():
    settings = {"fallback_mode": "no_fallback", "parsing_timeout": None}
    assert parse("$%$", [LatexExtractionConfig()], **settings) == []
    assert parse(r"$\frac{1}{2}$", [LatexExtractionConfig()], **settings)[0] * 2 == 1


def test_a_comparison_beyond_the_limit_is_unequal(monkeypatch):
    assert equality.equal("(x+1)^2", "x^2+2x+1")
    monkeypatch.setattr(equality, "MOST_CALLS", 100)
    assert not equality.equal("(x+1)^2", "x^2+2x+1")
