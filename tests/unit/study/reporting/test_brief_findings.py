"""The end of a run says what findings.md answers, without the evidence."""

from pathlib import Path

from mergegrid.study.reporting import findings_text
from mergegrid.study.reporting.brief_findings import ANSWERS, brief_findings

TEXT = """# Findings: A study

Differences are in points.

## minilm

### Which recipe is best?

- On spam + trec, **average** leads with 76.6 points, 0.00 above ties (95 % interval -2.0 to 2.0; paired t test, p = 1.00; table `findings`), but cannot be told apart from `dare`.

### How many deltas can be dropped?

- Magnitude (scope=global): at 0.9 it is open whether the experts lose (at 0.9 +1.9 points, interval -10.0 to 13.8; table `findings`).

### What to do next

- More examples.

## What it cost

- Little.
"""  # noqa: E501


def test_answers_are_shown_without_intervals_and_tests(tmp_path):
    path = tmp_path / "findings.md"
    path.write_text(TEXT)
    assert brief_findings(path) == [
        "minilm:",
        "  - On spam + trec, average leads with 76.6 points, 0.00 above ties, but cannot be told "
        "apart from",
        "    dare.",
        "  - Magnitude (scope=global): at 0.9 it is open whether the experts lose.",
    ]
    assert brief_findings(tmp_path / "missing.md") == []


def test_many_answers_are_counted(tmp_path):
    path = tmp_path / "findings.md"
    path.write_text("## m\n\n### Do sparsifiers help?\n\n" + "- No.\n" * 20)
    assert brief_findings(path) == ["m:", *["  - No."] * 12, f"8 more in {path}"]


def test_the_headings_are_those_of_the_findings():
    source = Path(findings_text.__file__).read_text()
    assert all(f'"{heading}"' in source for heading in ANSWERS)
