"""What is read from the log files of jobs."""

from mergegrid.study.live.earlier_runs import mean_seconds
from mergegrid.study.live.job_logs import error_of, last_lines, last_message, seconds_left

STAMP = "2026-01-01 10:00:00,123"


def test_the_last_message_has_no_date(tmp_path):
    log = tmp_path / "job.log"
    log.write_text(
        f"{STAMP} INFO first\n{STAMP} INFO sweep of trec: 3 of 9 done, about 12 s left\n"
    )
    message = last_message(log)
    assert message == "sweep of trec: 3 of 9 done, about 12 s left"
    assert seconds_left(message) == 12
    assert seconds_left("epoch 1 of 2") is None
    assert last_message(tmp_path / "missing.log") == ""


def test_only_the_end_of_a_long_log_is_read(tmp_path):
    log = tmp_path / "job.log"
    log.write_text("".join(f"line {number}\n" for number in range(100_000)))
    assert last_lines(log, 3) == ["line 99997", "line 99998", "line 99999"]


def test_what_went_wrong_is_the_last_error_or_the_end_of_its_traceback():
    assert error_of([f"{STAMP} INFO a", f"{STAMP} ERROR no space left", "x"]) == "no space left"
    traceback = [f"{STAMP} ERROR unexpected error", "Traceback", "ValueError: 3 rows, not 4"]
    assert error_of(traceback) == "ValueError: 3 rows, not 4"
    assert error_of([]) == ""


def test_times_of_earlier_runs_are_means_by_rule_and_broken_files_are_left_out(tmp_path):
    for name, text in {
        "sweep/m/a.tsv": "s\th:m:s\n10.5\t0:00:10\n",
        "sweep/m/b.tsv": "s\th:m:s\n20.5\t0:00:20\n",
        "expert/m/a.tsv": "s\th:",
        "merge/a.tsv": "",
    }.items():
        path = tmp_path / "benchmarks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert mean_seconds(tmp_path) == {"sweep": 15.5}
    assert mean_seconds(tmp_path / "none") == {}
