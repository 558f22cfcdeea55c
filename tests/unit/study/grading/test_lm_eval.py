import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from processes import gone, wait_until

from mergegrid.errors import ConfigError, DataError, MergegridError, SourceError
from mergegrid.methods.average import Average
from mergegrid.recipes.recipe import Recipe
from mergegrid.sparsifiers.dare import Dare
from mergegrid.study.grading.lm_eval import (
    lm_eval_command,
    lm_eval_inputs_digest,
    lm_eval_rows,
    read_result,
    run_lm_eval,
)
from mergegrid.study.schema.generation import Generation
from mergegrid.study.schema.lm_eval import Harness, OnGpus, custom_tasks
from mergegrid.study.scoring.scores import score_frame
from mergegrid.yaml_files import check_content

#: Written by lm-eval 0.4.13 for a small Llama; what is not read is left out.
WRITTEN = {
    "results": {
        "opinions": {
            "name": "opinions",
            "alias": " - opinions",
            "sample_len": 3,
            "acc,none": 1.0,
            "acc_stderr,none": 0.0,
            "acc_norm,none": 0.3333333333333333,
            "acc_norm_stderr,none": 0.33333333333333337,
        },
        "words": {
            "name": "words",
            "alias": " - words",
            "sample_len": 2,
            "exact_match,none": 0.0,
            "exact_match_stderr,none": 0.0,
        },
        "both": {
            "alias": "both",
            "name": "both",
            "sample_len": 5,
            "acc,none": 1.0,
            "acc_stderr,none": 0.0,
            "sample_count": {"acc,none": 3},
        },
    },
    "versions": {"both": "3.0", "opinions": 1.0, "words": 2.0},
    "n-samples": {
        "opinions": {"original": 3, "effective": 3},
        "words": {"original": 2, "effective": 2},
    },
    "task_hashes": {"opinions": "8722c141", "words": "e46216a6"},
    "lm_eval_version": "0.4.13",
    "config": {"model": "hf", "model_dtype": "torch.float32", "device": "cpu", "limit": None},
}
RECIPE = Recipe(
    family="llama",
    experts=("math", "code"),
    training_seed=0,
    sparsifier=Dare(rate=0.9, seed=1),
    method=Average(),
)


def read(folder, content=WRITTEN, **settings):
    path = folder / "results.json"
    path.write_text(json.dumps(content))
    return read_result(path, Harness(tasks=["both"], **settings), "cpu")


def stand_in(folder, log, code=1):
    """A Python whose lm-eval says something and ends: the real one takes many seconds for it."""
    (folder / "log.txt").write_text(log)
    program = folder / "python"
    program.write_text(
        f'#!/bin/sh\n[ "$1" = -c ] && echo 0.4.13 && exit\ncat "{folder}/log.txt"\nexit {code}\n'
    )
    program.chmod(0o755)
    return str(program)


def test_tasks_with_equal_settings_share_a_run():
    """Shots and limits of a task replace those of all."""
    settings = Harness(
        tasks=["a", "b", "c", "d"],
        few_shot=2,
        per_task={"b": {"few_shot": 0}, "c": {"limit": 5}, "d": {"few_shot": 0}},
    )
    runs = [(run.tasks, run.few_shot, run.limit) for run in settings.runs()]
    assert runs == [(["a"], 2, None), (["b", "d"], 0, None), (["c"], 2, 5)]
    plain = Harness(tasks=["a", "b"], few_shot=2)
    assert plain.runs() == [plain]
    assert "per_task" not in plain.model_dump()
    with pytest.raises(ValueError, match=r"per_task has 'e', which is not in tasks \(a, b\)"):
        Harness(tasks=["a", "b"], per_task={"e": {}})


WRITES = """#!{python}
import json, sys
from pathlib import Path
if sys.argv[1] == "-c":
    print("0.4.13")
    raise SystemExit
value = dict(zip(sys.argv, sys.argv[1:]))
tasks = value["--tasks"].split(",")
shots = int(value.get("--num_fewshot", -1))
content = {{
    "results": {{name: {{"acc,none": shots / 10, "sample_len": 4}} for name in tasks}},
    "versions": dict.fromkeys([*tasks, *(["b"] if "group" in tasks else [])], 1),
    "n-samples": {{}},
    "task_hashes": {{name: f"{{name}}{{shots}}" for name in tasks}},
    "lm_eval_version": "0.4.13", "config": {{"model_dtype": "torch.float32"}},
}}
path = Path(value["--output_path"])
path.with_name("results_now.json").write_text(json.dumps(content))
"""


def test_a_task_with_its_shots_has_a_run_and_files_of_its_own(tmp_path):
    program = tmp_path / "python"
    program.write_text(WRITES.format(python=sys.executable))
    program.chmod(0o755)
    settings = Harness(
        tasks=["a", "b", "c"], python=str(program), few_shot=5, per_task={"b": {"few_shot": 1}}
    )
    result = run_lm_eval(tmp_path, settings, tmp_path / "out", "cpu")
    values = {score.task: score.measurement.value for score in result.scores}
    assert values == {"a": 0.5, "c": 0.5, "b": 0.1}
    assert result.questions == {"a": "a5", "c": "c5", "b": "b1"}
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["lm_eval-2.log", "lm_eval.log", "results-2.json", "results.json"]
    same = settings.model_copy(update={"per_task": {}})
    digests = {lm_eval_inputs_digest(result, one, "model") for one in (settings, same)}
    assert len(digests) == 2
    both = {"tasks": ["group", "b"], "per_task": settings.per_task}
    with pytest.raises(ConfigError, match="b is scored with several settings, alone and as a par"):
        run_lm_eval(tmp_path, settings.model_copy(update=both), tmp_path / "out", "cpu")


def test_every_metric_of_every_task_and_group_is_a_score(tmp_path):
    result = read(tmp_path)
    scores = [
        (score.task, score.metric, score.measurement.value, score.measurement.stderr)
        for score in result.scores
    ]
    assert scores == [
        ("both", "acc,none", 1.0, 0.0),
        ("opinions", "acc,none", 1.0, 0.0),
        ("opinions", "acc_norm,none", 0.3333333333333333, 0.33333333333333337),
        ("words", "exact_match,none", 0.0, 0.0),
    ]
    assert result.tasks == {"both": "3.0", "opinions": "1.0", "words": "2.0"}


def test_a_group_counts_the_questions_that_have_the_metric(tmp_path):
    counts = {score.task: score.measurement.n for score in read(tmp_path).scores}
    assert counts == {"both": 3, "opinions": 3, "words": 2}


def test_the_engine_names_what_decides_the_numbers(tmp_path):
    result = read(tmp_path, dtype="auto")
    assert result.engine == "lm-eval hf float32 cpu"
    without = WRITTEN | {"config": {"model": "vllm"}}
    assert read(tmp_path, without, model="vllm", dtype="bfloat16").engine.endswith(
        "vllm bfloat16 cpu"
    )


def test_a_metric_without_a_standard_error_or_a_number_is_told_apart(tmp_path, caplog):
    values = {"alias": "a", "sample_len": 7, "bleu,none": 2, "bleu_stderr,none": "N/A"}
    content = WRITTEN | {"results": {"a": values | {"words,none": ["x"]}}, "n-samples": {}}
    (score,) = read(tmp_path, content).scores
    assert (score.measurement.value, score.measurement.n) == (2.0, 7)
    assert math.isnan(score.measurement.stderr)
    assert "words,none of a is left out, because it is ['x'] and not a number" in caplog.text


def test_results_without_scores_are_refused(tmp_path):
    with pytest.raises(DataError, match="has no scores of both; choose tasks"):
        read(tmp_path, WRITTEN | {"results": {"both": {"alias": "both", "sample_len": 0}}})


def test_rows_are_scores_of_the_recipe_that_no_table_compares(tmp_path):
    frame = score_frame(
        lm_eval_rows(read(tmp_path), RECIPE, "math", {"torch": ("2.13.0",)}, "digest")
    )
    assert len(frame) == 4
    assert not frame["primary"].any()
    constant = {
        "study": "merges",
        "head": "math",
        "split": "test",
        "recipe_digest": RECIPE.digest,
        "engine": "lm-eval hf float32 cpu",
        "libraries": '{"lm-eval":["0.4.13"],"torch":["2.13.0"]}',
        "inputs_digest": "digest",
    }
    for column, value in constant.items():
        assert set(frame[column]) == {value}
    frame.to_parquet(tmp_path / "scores.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "scores.parquet"), frame)


def test_vllm_of_lm_eval_is_not_given_a_part_of_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-cccc-0")
    settings = Harness(tasks=["arc_easy"], model="vllm")
    with pytest.raises(ConfigError, match="does not support MIG partitions"):
        run_lm_eval(tmp_path, settings, tmp_path / "out", "cuda")


def test_one_expert_alone_is_part_of_the_sweep(tmp_path):
    alone = RECIPE.model_copy(update={"experts": ("math",)})
    assert {row["study"] for row in lm_eval_rows(read(tmp_path), alone, "", {}, "digest")} == {
        "sweep"
    }


def test_lm_eval_is_asked_nothing_that_is_not_set():
    settings = Harness(tasks=["arc_easy", "mmlu"], python="/opt/lm_eval/bin/python")
    assert lm_eval_command(Path("/m/rate~0.9,seed=1"), settings, Path("/o/r.json"), "cuda") == [
        "/opt/lm_eval/bin/python",
        "-m",
        "lm_eval",
        "--model",
        "hf",
        "--model_args",
        '{"pretrained": "/m/rate~0.9,seed=1", "dtype": "auto"}',
        "--tasks",
        "arc_easy,mmlu",
        "--batch_size",
        "8",
        "--output_path",
        "/o/r.json",
        "--log_samples",
        "--device",
        "cuda",
    ]


def test_lm_eval_is_asked_all_that_is_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = Harness(
        tasks=["mine"], few_shot=0, limit=10, seed=0, include_path="own", model="vllm", chat=True
    )
    words = lm_eval_command(Path("model"), settings, Path("out.json"), "cuda")
    assert words[:3] == ["python", "-m", "lm_eval"]
    assert json.loads(words[6])["pretrained"] == f"{tmp_path}/model"
    assert words[words.index("--log_samples") + 1 :] == [
        *("--num_fewshot", "0", "--limit", "10", "--seed", "0"),
        *("--include_path", f"{tmp_path}/own", "--apply_chat_template"),
    ]


def test_on_gpus_the_model_lies_as_the_family_has_it(tmp_path):
    generation = Generation(gpus=2, memory_fraction=0.8, max_model_len=2048)

    def arguments(model, device, on_gpus):
        settings = Harness(tasks=["arc_easy"], model=model)
        words = lm_eval_command(Path("/m"), settings, Path("/r.json"), device, on_gpus)
        batch = words[words.index("--batch_size") + 1]
        return {**json.loads(words[words.index("--model_args") + 1]), "batch_size": batch}

    plain = {"pretrained": "/m", "dtype": "auto"}
    split = OnGpus.of(generation, "vllm")
    assert arguments("vllm", "cuda", split) == {
        **plain,
        "tensor_parallel_size": 2,
        "gpu_memory_utilization": 0.8,
        "max_model_len": 2048,
        # vLLM gets all questions at once and schedules them itself.
        "batch_size": "auto",
    }
    assert arguments("vllm", "cpu", split) == {**plain, "batch_size": "auto"}
    # What vLLM alone reads is no part of a request to transformers.
    layers = OnGpus.of(generation, "hf")
    assert layers == OnGpus(gpus=2)
    assert arguments("hf", "cuda", layers) == {**plain, "parallelize": True, "batch_size": "8"}
    assert arguments("hf", "cuda", OnGpus()) == {**plain, "batch_size": "8"}
    # Longer questions are cut, so it is part of what scores depend on.
    settings, result = Harness(tasks=["arc_easy"], model="vllm"), read(tmp_path)
    plain, cut = (
        lm_eval_inputs_digest(result, settings, "model", each) for each in (OnGpus(), split)
    )
    assert plain == lm_eval_inputs_digest(result, settings, "model")
    assert cut != plain
    with_batches = Harness(tasks=["arc_easy"], batch_size="auto")
    assert lm_eval_command(Path("/m"), with_batches, Path("/r"), "cpu").count("auto") == 1


@pytest.mark.parametrize(
    ("log", "error", "says"),
    [
        (
            "ValueError: Tasks not found: arc_hard",
            ConfigError,
            "harness.tasks: lm-eval 0.4.13 has no task arc_hard; see `",
        ),
        (
            "ConnectionError: Couldn't reach 'allenai/ai2_arc' on the Hub (OfflineModeIsEnabled)",
            SourceError,
            "allenai/ai2_arc for arc_easy is on the hub, which cannot be reached; run once with",
        ),
        (
            "FileNotFoundError: Couldn't find a module script at /x/code_eval/code_eval.py. "
            "Module 'code_eval' doesn't exist on the Hugging Face Hub either.",
            ConfigError,
            "arc_easy would run programs written by models without a sandbox; use a benchmark",
        ),
        (
            "ValueError: Attempted to run task: humaneval which is marked as unsafe. Set "
            "confirm_run_unsafe_code=True to run this task.",
            ConfigError,
            "harness.tasks: humaneval would run programs written by models",
        ),
        (
            "ModuleNotFoundError: No module named 'vllm'",
            ConfigError,
            "lacks a package for arc_easy on hf (ModuleNotFoundError: No module named 'vllm'); ",
        ),
        (
            "torch.OutOfMemoryError: CUDA out of memory.\nRunning: 50%|##  | 1/2 [00:01<00:01]",
            MergegridError,
            "is 'torch.OutOfMemoryError: CUDA out of memory.'. Fix it and rerun",
        ),
        ("", MergegridError, "exited with code 1; the last line of its log "),
    ],
)
def test_what_went_wrong_is_one_line_that_says_what_to_do(tmp_path, log, error, says):
    settings = Harness(tasks=["arc_easy"], python=stand_in(tmp_path, f"Traceback:\n  x\n{log}\n"))
    if not log:
        settings = Harness(tasks=["arc_easy"], python=stand_in(tmp_path, ""))
    with pytest.raises(error) as raised:
        run_lm_eval(tmp_path, settings, tmp_path / "out", "cpu")
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)
    assert type(raised.value) is error


def test_an_end_without_results_is_no_success_and_leaves_no_older_ones(tmp_path):
    older = tmp_path / "out" / "results.json"
    older.parent.mkdir()
    older.write_text("{}")
    settings = Harness(tasks=["arc_easy"], python=stand_in(tmp_path, "Could not save", code=0))
    with pytest.raises(MergegridError, match=r"exited with code 0; .* is 'Could not save'"):
        run_lm_eval(tmp_path, settings, older.parent, "cpu")
    assert not older.exists()


def writing(folder):
    """A Python whose lm-eval writes its results, and beside them where that is."""
    (folder / "written.json").write_text(json.dumps(WRITTEN))
    program = folder / "python"
    program.write_text(
        '#!/bin/sh\n[ "$1" = -c ] && echo 0.4.13 && exit\n'
        'while [ "$1" != --output_path ]; do shift; done\n'
        f'echo "$2" >> "{folder}/places"\n'
        f'cp "{folder}/written.json" "$(dirname "$2")/results_2026.json"\n'
    )
    program.chmod(0o755)
    return str(program)


def test_each_attempt_has_a_place_of_its_own_and_leaves_its_results_and_log(tmp_path):
    settings = Harness(tasks=["both"], python=writing(tmp_path))
    out = tmp_path / "out"
    # What a killed attempt has left.
    (out / "run-killed").mkdir(parents=True)
    (out / "run-killed" / "results_2025.json").write_text("{}")
    for _ in range(2):
        assert len(run_lm_eval(tmp_path, settings, out, "cpu").scores) == 4
        assert sorted(path.name for path in out.iterdir()) == ["lm_eval.log", "results.json"]
    first, second = map(Path, (tmp_path / "places").read_text().splitlines())
    assert first.parent != second.parent
    assert first.parent.parent == second.parent.parent == out


def test_lm_eval_ends_with_a_killed_job(tmp_path):
    program, number = tmp_path / "python", tmp_path / "number"
    program.write_text(
        f'#!/bin/sh\n[ "$1" = -c ] && echo 0.4.13 && exit\necho $$ > "{number}"\nexec sleep 60\n'
    )
    program.chmod(0o755)
    job = (
        "from pathlib import Path\n"
        "from mergegrid.study.schema.lm_eval import Harness\n"
        "from mergegrid.study.grading.lm_eval import run_lm_eval\n"
        f"settings = Harness(tasks=['both'], python={str(program)!r})\n"
        f"run_lm_eval(Path('model'), settings, Path({str(tmp_path)!r}, 'out'), 'cpu')\n"
    )
    with subprocess.Popen([sys.executable, "-c", job]) as process:
        assert wait_until(lambda: number.exists() and number.read_text())
        assert not gone(int(number.read_text()))
        process.kill()
    assert wait_until(lambda: gone(int(number.read_text())), 5)


@pytest.mark.parametrize(
    ("python", "says"),
    [
        ("/nowhere/python", "'/nowhere/python' cannot be started (No such file or directory); "),
        (
            os.devnull,
            "cannot be started (Permission denied); set it to the Python of an environment",
        ),
        (sys.executable, "its environment has no lm-eval; run `"),
    ],
)
def test_an_environment_without_lm_eval_is_refused(tmp_path, python, says):
    with pytest.raises(ConfigError) as refused:
        run_lm_eval(tmp_path, Harness(tasks=["arc_easy"], python=python), tmp_path / "out", "cpu")
    assert says in str(refused.value)


def test_the_digest_of_inputs_follows_what_was_asked_and_not_where(tmp_path, raise_version):
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "mine.yaml").write_text("task: mine")
    settings = Harness(tasks=["both"], include_path=str(tasks))
    result = read(tmp_path)
    usual = lm_eval_inputs_digest(result, settings, "model")

    elsewhere = settings.model_copy(update={"python": "/opt/lm_eval/bin/python"})
    assert lm_eval_inputs_digest(result, elsewhere, "model") == usual

    few_shot = settings.model_copy(update={"few_shot": 5})
    other = read(tmp_path, WRITTEN | {"task_hashes": {"opinions": "0", "words": "1"}})
    newer = read(tmp_path, WRITTEN | {"lm_eval_version": "0.4.14"})
    assert lm_eval_inputs_digest(newer, settings, "model") == usual
    changed = [
        lm_eval_inputs_digest(result, few_shot, "model"),
        lm_eval_inputs_digest(other, settings, "model"),
        lm_eval_inputs_digest(result, settings, "other"),
    ]
    (tasks / "mine.yaml").write_text("task: mine\ntest_split: test")
    changed.append(lm_eval_inputs_digest(result, settings, "model"))
    raise_version("harness")
    changed.append(lm_eval_inputs_digest(result, settings, "model"))
    assert len({usual, *changed}) == 6


def test_own_tasks_are_their_files_and_not_what_python_compiled(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "__pycache__").mkdir()
    for name in ("deep/mine.yaml", "utils.py", "__pycache__/utils.pyc", ".hidden"):
        (tmp_path / name).write_text(name)
    files = custom_tasks(Harness(tasks=["mine"], include_path=str(tmp_path)))
    assert list(files) == ["deep/mine.yaml", "utils.py"]
    assert custom_tasks(Harness(tasks=["arc_easy"])) == {}


def test_a_folder_of_own_tasks_has_to_be_there(tmp_path):
    settings = Harness(tasks=["mine"], include_path=f"{tmp_path}/nowhere", python="/no/python")
    with pytest.raises(ConfigError, match=r"harness\.include_path = .*: .* is not a folder"):
        run_lm_eval(tmp_path, settings, tmp_path / "out", "cpu")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"tasks": []}, "tasks = []: List should have at least 1 item"),
        ({"tasks": ["arc_easy", "arc_easy"]}, "arc_easy is listed more than once"),
        ({"tasks": ["arc_easy,mmlu"]}, "'arc_easy,mmlu': String should match pattern"),
        ({"tasks": ["--trust_remote_code"]}, "String should match pattern"),
        ({"limit": 0}, "limit = 0: Input should be greater than"),
        ({"model": "gguf"}, "model = 'gguf': Input should be 'hf' or 'vllm'"),
        ({"num_fewshot": 5}, "num_fewshot is not a known key"),
    ],
)
def test_settings_that_cannot_work_are_refused(content, says):
    with pytest.raises(ConfigError) as refused:
        check_content(Harness, {"tasks": ["arc_easy"], **content}, "config.yaml")
    assert says in str(refused.value)
