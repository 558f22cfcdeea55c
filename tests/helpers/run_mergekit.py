"""Run merges with mergekit itself, by the Python of its environment.

Reads JSON lines {"config": ..., "out": ...} and answers each with {"error": message or null}.
"""

import json
import os
import sys


def main():
    # mergekit prints to standard output, too.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    for line in sys.stdin:
        job = json.loads(line)
        error = None
        try:
            config = MergeConfiguration.model_validate(job["config"])
            run_merge(config, job["out"], MergeOptions(random_seed=1, quiet=True))
        except Exception as failure:  # noqa: BLE001 - every failure is an answer
            error = f"{type(failure).__name__}: {failure}"
        answers.write(json.dumps({"error": error}) + "\n")


if __name__ == "__main__":
    main()
