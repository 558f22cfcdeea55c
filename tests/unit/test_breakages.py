"""What the breakages break is still there: a moved line would leave its tests untried."""

import breakages


def test_every_line_that_is_broken_is_found_once():
    problems = [breakages.missing(one, breakages.ROOT) for one in breakages.BREAKAGES]
    assert [problem for problem in problems if problem] == []


def test_a_line_that_is_gone_is_told():
    gone = breakages.Breakage("gone", "methods/ties.py", "no such line", "", ())
    assert "gone" in breakages.missing(gone, breakages.ROOT)
