"""How far a run is and how long it still takes, against counts and times made by hand."""

import pytest

from mergegrid.study.live.phases import job_title, phase_of
from mergegrid.study.live.run_state import Job, RunState, TimeLeft, clock_text, duration


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def run(state, clock, number, rule, seconds):
    state.start(number, Job(rule, f"{rule} {number}", started=clock.now))
    clock.now += seconds
    state.finish(number)


def test_jobs_are_counted_by_phase(clock):
    state = RunState({"fetch": 2, "prepare": 1, "sweep": 2, "table": 3}, clock=clock)
    run(state, clock, 1, "fetch", 1)
    state.start(2, Job("prepare", "examples", started=clock.now))
    state.start(3, Job("sweep", "trec", started=clock.now))
    state.fail(3)
    counts = {p.name: (p.done, p.running, p.failed, p.total) for p in state.phases()}
    assert counts == {
        "fetch and prepare": (1, 1, 0, 3),
        "sweep drop rates": (0, 0, 1, 2),
        "tables and figures": (0, 0, 0, 3),
    }
    assert (state.done, state.total, len(state.failed), len(state.running)) == (1, 8, 1, 1)


def test_a_failed_job_that_is_tried_again_counts_as_running(clock):
    state = RunState({"sweep": 1}, clock=clock)
    for _ in range(2):
        state.start(1, Job("sweep", "trec"))
        state.fail(1)
    state.start(1, Job("sweep", "trec"))
    assert not state.failed
    state.finish(1)
    assert state.done == 1


def test_time_left_takes_the_mean_of_finished_jobs(clock):
    state = RunState({"sweep": 4}, clock=clock)
    run(state, clock, 1, "sweep", 10)
    run(state, clock, 2, "sweep", 20)
    assert state.time_left() == TimeLeft(30.0)
    state.start(3, Job("sweep", "three", started=clock.now))
    clock.now += 5
    # Ten seconds for the job that runs, fifteen for the last one; one at a time so far.
    assert state.time_left() == TimeLeft(25.0)


def test_jobs_side_by_side_share_the_time_but_the_longest_bounds_it(clock):
    state = RunState({"expert": 2, "sweep": 2}, {"expert": 40.0, "sweep": 10.0}, clock)
    for number in (1, 2):
        state.start(number, Job("expert", f"{number}", started=clock.now))
    assert state.time_left() == TimeLeft(50.0)
    state = RunState({"expert": 1, "sweep": 1}, {"expert": 40.0, "sweep": 10.0}, clock)
    state.start(1, Job("expert", "1", started=clock.now))
    state.start(2, Job("sweep", "2", started=clock.now))
    assert state.time_left() == TimeLeft(40.0)


def test_what_has_never_been_timed_is_named_and_not_invented(clock):
    state = RunState({"fetch": 1, "sweep": 2, "table": 1}, clock=clock)
    left = state.time_left()
    assert str(left) == "time left not known yet"
    assert left.missing == "not timed yet: fetch and prepare, sweep drop rates, tables and figures"
    run(state, clock, 1, "fetch", 3)
    state.start(2, Job("sweep", "trec", started=clock.now))
    assert state.time_left().unknown == ("sweep drop rates", "tables and figures")
    # The job itself says how long it takes; the other one will take as long.
    clock.now += 10
    left = state.time_left({"trec": 20.0})
    assert left == TimeLeft(50.0, ("tables and figures",))
    assert (str(left), left.missing) == ("about 50 s left, then tables and figures", "")


def test_rules_of_one_set_of_experts_each_are_one_rule(clock):
    planned = {"generate_smollm2_math_0": 1, "generate_smollm2_code_0": 1}
    state = RunState(planned, clock=clock)
    run(state, clock, 1, "generate_smollm2_math_0", 30)
    assert state.time_left() == TimeLeft(30.0)
    assert phase_of("generate_smollm2_code_0") == "generate answers"


@pytest.mark.parametrize(
    ("rule", "wildcards", "log", "title"),
    [
        ("expert", {"family": "m", "expert": "trec", "seed": "0"}, "", "expert trec of m, seed 0"),
        ("fetch", {"name": "task~trec~train"}, "", "fetch task trec train"),
        (
            "generate_smollm2_code+math_0",
            {},
            "logs/generate/smollm2/code+math/seed~0.log",
            "answers of code+math, smollm2, seed 0",
        ),
        ("all", {}, "", "all results"),
        ("rule_of_another_workflow", {"a": "b"}, "", "rule_of_another_workflow b"),
        ("expert", {"other": "x"}, "", "expert x"),
    ],
)
def test_a_job_is_called_by_what_it_is_about(rule, wildcards, log, title):
    assert job_title(rule, wildcards, log) == title


def test_times_are_as_precise_as_they_are_known():
    times = {3: "3 s", 12: "10 s", 98: "100 s", 130: "2 min", 5800: "97 min", 12000: "3 h 20 min"}
    assert {seconds: duration(seconds) for seconds in times} == times
    assert duration(7200) == "2 h"
    assert [clock_text(each) for each in (7, 760, 10935)] == ["0:07", "12:40", "3:02:15"]


def test_every_rule_of_the_workflow_has_a_phase_and_a_title(rules_of_workflow):
    assert rules_of_workflow
    for rule, wildcards in rules_of_workflow.items():
        assert phase_of(rule) != "other jobs", rule
        filled = dict.fromkeys(wildcards, "x")
        assert not job_title(rule, {**filled, "more": "y"}).endswith("y"), rule
