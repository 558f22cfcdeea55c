from mergegrid.study.encoders.store import ScoreStore
from mergegrid.study.runtime.journal import Journal
from mergegrid.study.scoring.scores import Measurement

ONE, TWO = Measurement(0.5, 0.1, 10), Measurement(0.25, 0.2, 20)


def test_a_measurement_is_found_again_by_its_inputs(tmp_path):
    store = ScoreStore(tmp_path / "store.jsonl")
    store.add({"rate": 0.5, "seed": 1}, ONE)
    reopened = ScoreStore(tmp_path / "store.jsonl")
    assert reopened.get({"seed": 1, "rate": 0.5}) == ONE
    assert reopened.get({"seed": 2, "rate": 0.5}) is None


def test_a_line_cut_by_a_crash_is_dropped_and_the_rest_kept(tmp_path):
    path = tmp_path / "store.jsonl"
    store = ScoreStore(path)
    store.add({"seed": 1}, ONE)
    whole = path.stat().st_size
    store.add({"seed": 2}, TWO)
    for size in range(whole, path.stat().st_size):
        path.write_bytes(path.read_bytes()[:size])
        store = ScoreStore(path)
        assert store.get({"seed": 1}) == ONE
        assert store.get({"seed": 2}) is None
        store.add({"seed": 2}, TWO)
        assert ScoreStore(path).get({"seed": 2}) == TWO


def test_predictions_come_back_as_they_were(tmp_path):
    store = ScoreStore(tmp_path / "store.jsonl")
    classes = Measurement(0.5, 0.1, 3, (0, 2, 1))
    numbers = Measurement(0.5, 0.1, 2, (0.10000000149011612, -3.0))
    store.add("classes", classes)
    store.add("numbers", numbers)
    reopened = ScoreStore(tmp_path / "store.jsonl")
    assert reopened.get("classes").predictions == (0, 2, 1)
    assert reopened.get("numbers") == numbers


def test_a_score_stored_without_predictions_is_measured_again(tmp_path):
    path = tmp_path / "store.jsonl"
    Journal(path).add({"seed": 1}, {"value": 0.5, "stderr": 0.1, "n": 10})
    store = ScoreStore(path)
    assert store.get({"seed": 1}) is None
    store.add({"seed": 1}, ONE)
    assert ScoreStore(path).get({"seed": 1}) == ONE
