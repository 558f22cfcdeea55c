"""Golden numbers of every stage: they change only when the version of the stage is raised."""

import json

import pytest

from golden import data, grading, lm_eval_results, merging, models, reporting, training
from golden.recorded import FOLDER, check, differences
from mergegrid.stages import STAGES, stage_versions

NUMBERS = {
    **models.NUMBERS,
    **data.NUMBERS,
    **training.NUMBERS,
    **merging.NUMBERS,
    **grading.NUMBERS,
    **lm_eval_results.NUMBERS,
    **reporting.NUMBERS,
}


@pytest.fixture
def mode(pytestconfig):
    return pytestconfig.getoption("--write-golden")


@pytest.mark.parametrize("stage", STAGES)
def test_numbers_change_only_when_the_version_of_their_stage_is_raised(stage, mode, tmp_path):
    numbers = NUMBERS[stage]
    check(stage, numbers.compute(tmp_path), numbers.tolerance, mode)


def test_every_stage_has_golden_numbers():
    assert set(NUMBERS) == set(STAGES)
    assert {path.stem for path in FOLDER.glob("*.json")} == set(STAGES)


@pytest.fixture
def golden(tmp_path):
    """`golden(3)`: a folder in which stage `merge` has numbers of its version plus 3."""

    def write(ahead):
        version = stage_versions("merge")["merge"] + ahead
        content = {"version": version, "numbers": {"mean": [0.5, 0.25]}}
        (tmp_path / "merge.json").write_text(json.dumps(content))
        return tmp_path

    return write


def recorded(folder):
    return json.loads((folder / "merge.json").read_text())["numbers"]["mean"]


@pytest.mark.parametrize("mode", ["", "raised"])
def test_changed_numbers_fail_with_the_place_and_what_to_do(golden, mode):
    version = stage_versions("merge")["merge"]
    wanted = rf"version {version}: mean\[1\] was 0.25, is 0.26\. .*engine.py to {version + 1} and"
    with pytest.raises(AssertionError, match=wanted):
        check("merge", {"mean": [0.5, 0.26]}, 1e-9, mode, golden(0))


def test_equal_numbers_pass_and_force_does_not_touch_their_file(golden):
    folder = golden(0)
    before = (folder / "merge.json").stat().st_mtime_ns
    for mode in ("", "raised", "force"):
        check("merge", {"mean": [0.5, 0.25 + 1e-12]}, 1e-9, mode, folder)
    assert (folder / "merge.json").stat().st_mtime_ns == before


def test_new_numbers_are_added_and_others_stay_to_the_last_digit(golden):
    folder = golden(0)
    grown = {"least": 0.125, "mean": [0.5, 0.25 + 1e-12]}
    with pytest.raises(AssertionError, match="least is new"):
        check("merge", grown, 1e-9, "", folder)
    check("merge", grown, 1e-9, "raised", folder)
    content = json.loads((folder / "merge.json").read_text())
    assert content["numbers"] == {"least": 0.125, "mean": [0.5, 0.25]}
    with pytest.raises(AssertionError, match=r"mean\[1\] was 0\.25"):
        check("merge", {**grown, "mean": [0.5, 0.26], "more": 1}, 1e-9, "raised", folder)


@pytest.mark.parametrize(
    ("ahead", "mode", "written"),
    [(-1, "raised", True), (-1, "force", True), (1, "raised", False), (0, "force", True)],
)
def test_only_raised_versions_are_written_unless_forced(golden, ahead, mode, written):
    folder = golden(ahead)
    if written:
        check("merge", {"mean": [0.5, 0.26]}, 1e-9, mode, folder)
        assert recorded(folder) == [0.5, 0.26]
    else:
        with pytest.raises(AssertionError, match="are of version"):
            check("merge", {"mean": [0.5, 0.26]}, 1e-9, mode, folder)
        assert recorded(folder) == [0.5, 0.25]


def test_a_file_of_another_version_and_a_missing_one_say_how_to_write_them(golden, tmp_path):
    with pytest.raises(AssertionError, match=r"merge are of version .*--write-golden"):
        check("merge", {}, 0.0, "", golden(-1))
    (tmp_path / "merge.json").unlink()
    with pytest.raises(AssertionError, match=r"merge has no golden numbers.*--write-golden"):
        check("merge", {}, 0.0, "", tmp_path)


@pytest.mark.parametrize(
    ("was", "now", "place"),
    [
        ({"a": 1}, {"a": 2}, "a was 1, is 2"),
        ({"a": 1}, {"a": 1.0}, "a was 1, is 1.0"),
        ({"a": True}, {"a": 1}, "a was True, is 1"),
        ({"a": 1}, {}, "a is missing"),
        ({}, {"a": 1}, "a is new"),
        ({"a": ["x"]}, {"a": ["x", "y"]}, "a had 1 entries, has 2"),
        ({"a": {"b": [[1.0], [2.0]]}}, {"a": {"b": [[1.0], [2.1]]}}, "a.b[1][0] was 2.0, is 2.1"),
        ({"a": [1e-3, 1e3]}, {"a": [1e-3, 1e3 + 2]}, "a[1] was 1000.0, is 1002.0"),
        ({"a": 1e-9}, {"a": 2e-9}, "a was 1e-09, is 2e-09"),
    ],
)
def test_differences_are_named_by_their_place(was, now, place):
    assert list(differences(was, now, 1e-3)) == [place]


def test_numbers_of_a_list_are_compared_on_the_scale_of_the_largest():
    assert not list(differences([1e-9, 1.0], [2e-9, 1.0005], 1e-3))
