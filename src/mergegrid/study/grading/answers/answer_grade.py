"""The grade of one answer."""

from dataclasses import dataclass


@dataclass(frozen=True)
class AnswerGrade:
    """An answer under two rules; None means that a rule found no answer."""

    extracted: str | None
    """The answer that the robust rule read."""
    correct: bool
    """Whether it equals the reference."""
    paper_extracted: str | None
    """The answer that the paper's rule read."""
    paper_correct: bool
    """Whether that equals the reference under the paper's rule."""
