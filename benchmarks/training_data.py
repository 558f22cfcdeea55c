"""Memory and time of tokenized training data: lists, arrays, and `datasets` (memory-mapped).

    for kind in lists arrays datasets; do python benchmarks/training_data.py $kind; done

One kind per process, since peak memory is that of the process.
"""

import random
import resource
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator

EXAMPLES, QUESTION, ANSWER, VOCABULARY = 20_000, 100, 200, 150_000


def rows() -> Iterator[dict[str, list[int]]]:
    """Token ids and labels of examples, as a tokenizer returns them."""
    numbers = random.Random(0)
    for _ in range(EXAMPLES):
        ids = [numbers.randrange(VOCABULARY) for _ in range(QUESTION + ANSWER)]
        yield {"input_ids": ids, "labels": [-100] * QUESTION + ids[QUESTION:]}


def lists() -> Callable[[int], object]:
    """Lists of Python integers."""
    return list(rows()).__getitem__


def arrays() -> Callable[[int], object]:
    """One array of ids, and the end of each example."""
    ids, ends = array("i"), array("q")
    for row in rows():
        ids.extend(row["input_ids"])
        ends.append(len(ids))

    def get(row: int) -> object:
        part = ids[ends[row - 1] if row else 0 : ends[row]].tolist()
        return {"input_ids": part, "labels": [-100] * QUESTION + part[QUESTION:]}

    return get


def memory_mapped() -> Callable[[int], object]:
    """An Arrow file written and mapped by `datasets`."""
    import datasets

    datasets.disable_progress_bars()
    numbers = datasets.List(datasets.Value("int32"))
    features = datasets.Features({"input_ids": numbers, "labels": numbers})
    cache = tempfile.mkdtemp()
    return datasets.Dataset.from_generator(rows, features=features, cache_dir=cache).__getitem__


def peak() -> float:
    """Peak memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    kind = sys.argv[1]
    if kind == "datasets":
        import datasets  # noqa: F401  Its import is not what is measured.
    before, started = peak(), time.process_time()
    get = {"lists": lists, "arrays": arrays, "datasets": memory_mapped}[kind]()
    built, started = time.process_time() - started, time.process_time()
    for row in range(EXAMPLES):
        get(row)
    read = time.process_time() - started
    print(f"{kind}: +{peak() - before:.0f} MB, built in {built:.1f} s, read in {read:.2f} s")  # noqa: T201
