"""The rules of the workflow, with the wildcards of their log files."""

import re
from pathlib import Path

import pytest

WORKFLOW = Path(__file__).parents[4] / "workflow"


@pytest.fixture
def rules_of_workflow():
    rules = {}
    for path in (WORKFLOW / "Snakefile", *sorted((WORKFLOW / "rules").glob("*.smk"))):
        for part in re.split(r"^rule ", path.read_text(), flags=re.MULTILINE)[1:]:
            name, _, body = part.partition(":")
            log = re.search(r'log:\s+"([^"]+)"', body)
            rules[name] = re.findall(r"{(\w+)}", log[1]) if log else []
    return rules
