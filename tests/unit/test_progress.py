"""Progress in log files: amount, rate and time left."""

import logging

import pytest

import mergegrid.progress
from mergegrid.progress import byte_progress


def test_the_rate_leaves_out_the_time_before_the_first_bytes(monkeypatch, caplog):
    clock = [0.0]
    monkeypatch.setattr(mergegrid.progress.time, "monotonic", lambda: clock[0])
    caplog.set_level(logging.INFO, "mergegrid.progress")
    with byte_progress("merge", 10**9) as advance:
        for now, count in ((30.0, 10**8), (35.0, 10**8), (40.0, 10**8)):
            clock[0] = now
            advance(count)
    assert caplog.messages == ["merge: 0.30 of 1.00 GB done, 20 MB/s, about 35 s left"]


@pytest.mark.parametrize("count", [0, 100])
def test_no_rate_is_reported_where_nothing_was_read(monkeypatch, caplog, count):
    clock = [0.0]
    monkeypatch.setattr(mergegrid.progress.time, "monotonic", lambda: clock[0])
    caplog.set_level(logging.INFO, "mergegrid.progress")
    with byte_progress("merge", 100) as advance:
        for now, read in ((10.0, count), (30.0, 0)):
            clock[0] = now
            advance(read)
    assert not caplog.messages
