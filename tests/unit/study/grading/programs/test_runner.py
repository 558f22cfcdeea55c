import logging
import time

import pytest

from mergegrid.study.grading.programs.runner import run_all


def test_outcomes_come_in_the_order_of_the_programs(sandbox):
    programs = [
        f"import time; time.sleep({0.3 if number % 4 == 0 else 0}); raise ValueError({number})"
        for number in range(12)
    ]
    outcomes = run_all(programs, sandbox, 4, "numbers")
    assert [outcome.detail for outcome in outcomes] == [f"ValueError: {n}" for n in range(12)]


def test_programs_run_side_by_side(sandbox):
    start = time.monotonic()
    run_all(["import time; time.sleep(1)"] * 6, sandbox, 6, "sleepers")
    assert time.monotonic() - start < 4


def test_progress_is_told(sandbox, caplog):
    with caplog.at_level(logging.INFO):
        run_all(["x = 1"] * 3, sandbox, 2, "three programs")
    assert "three programs: 3 of 3 done" in caplog.text


def test_no_programs_no_outcomes(sandbox):
    assert run_all([], sandbox, 2, "none") == []


def test_an_interrupt_stops_what_waits(tight, all_gone):
    class Interrupting:
        limits = tight.limits
        started = 0

        def run(self, program):
            self.started += 1
            if self.started == 3:
                raise KeyboardInterrupt
            return tight.run(program)

    interrupting = Interrupting()
    with pytest.raises(KeyboardInterrupt):
        run_all(["x = 1"] * 200, interrupting, 2, "many")
    assert interrupting.started < 200
    assert all_gone()
