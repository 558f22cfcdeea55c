"""Whether the workflow runs on a GPU, and lets it go: B1 to B5 and G5."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import made
import pandas as pd
import psutil
import yaml
from project import Project
from small_models import family
from steps import Machine, Row, step

from mergegrid.recipes.recipe import Recipe
from mergegrid.study.encoders.evaluator import EncoderEvaluator, EvaluatedExpert
from mergegrid.study.encoders.store import ScoreStore
from mergegrid.study.encoders.sweep import sweep

HERE = Path(__file__).resolve().parent
TASKS = ("first", "second")
#: Without tables and figures, which no GPU is needed for.
SCORES = "results/tiny/scores.parquet"


def study(folder: Path) -> Path:
    """A tiny study of two encoders and two decoders in a copy of the workflow; its folder."""
    project = Project(folder / "project", "config/tiny.yaml")
    # Dropout draws other numbers on a GPU than on the CPU.
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    made.raw_encoder(folder / "encoder", made.roberta_config(base=False, **still))
    family(folder / "llamas")
    for seed, task in enumerate(TASKS):
        rows = made.texts(160, 16, 512, seed)
        table = pd.DataFrame({"text": rows, "label": [int("w1" in row) for row in rows]})
        table.head(120).to_csv(folder / f"{task}.csv", index=False)
        table.tail(40).to_csv(folder / f"{task}_test.csv", index=False)
    content = (HERE / "tiny.yaml").read_text().replace("MADE", str(folder))
    (project.folder / "config" / "tiny.yaml").write_text(content)
    return project.folder


def snakemake(folder: Path, *arguments: str) -> str:
    """Run the study to its end; what Snakemake printed."""
    done = subprocess.run(
        command(*arguments),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    sys.stdout.write(done.stdout)
    if done.returncode:
        raise RuntimeError(f"Snakemake ended with status {done.returncode}; see the log")
    return done.stdout


def command(*arguments: str) -> list[str]:
    """The command line of a chunk."""
    cores = str(min(os.cpu_count() or 1, 16))
    words = ["-m", "snakemake", "--cores", cores, "--configfile", "config/tiny.yaml"]
    return [sys.executable, *words, *arguments]


def kept(machine: Machine) -> Path:
    """The folder of the study, which several steps share; made and run if it is not there."""
    folder = machine.work / "study"
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        snakemake(study(folder), "--resources", "gpu=1", "--", SCORES)
        (folder / "done").touch()
    return folder / "project"


@step("B1", limit=600)
def whole_study(machine: Machine, folder: Path) -> Row:
    """A tiny study runs to its end, and each job of a GPU leases one and notes how it used it."""
    project = kept(machine)
    logs = [path.read_text() for path in (project / "logs").rglob("*.log")]
    leased = sum("leased GPUs: " in text for text in logs)
    usage = len(list((project / "logs").rglob("*.gpu.tsv")))
    return Row(
        f"ended; {leased} of {len(logs)} jobs leased a GPU, {usage} noted its use",
        f"ended; 10 or more leased a GPU, {machine.size('as many', 'none')} noted its use",
        leased >= 10 and usage == machine.size(leased, 0),
    )


@step("B2", limit=120)
def nothing_to_do(machine: Machine, folder: Path) -> Row:
    """The same command again does nothing."""
    printed = snakemake(kept(machine), "--resources", "gpu=1", "--", SCORES)
    found = "Nothing to be done" in printed
    return Row("nothing" if found else "some jobs ran", "nothing", found)


@step("B3", limit=600)
def same_as_on_the_cpu(machine: Machine, folder: Path) -> Row:
    """The same study without a GPU gives the same greedy answers, and scores as good as equal."""
    project = kept(machine)
    other = study(folder)
    snakemake(other, "--", SCORES)
    answers = [_answers(each) for each in (project, other)]
    equal = sum(answers[0].get(key) == text for key, text in answers[1].items())
    tables = [pd.read_parquet(each / SCORES) for each in (project, other)]
    key = ["experts", "recipe", "head", "task", "metric", "split"]
    both = tables[0].merge(tables[1], on=key, suffixes=("", "_cpu"), validate="1:1")
    apart = ((both["value"] - both["value_cpu"]).abs() * both["n"]).max()
    return Row(
        f"{equal} of {len(answers[1])} answers equal; {len(both)} scores, "
        f"at most {apart:.2f} examples apart",
        f"{len(answers[1])} of {len(answers[1])}; {len(tables[1])} scores, at most "
        f"{machine.size(1, 0)} apart; on a GPU a near tie may part one answer",
        0 < len(answers[1]) <= equal + machine.size(1, 0)
        and len(both) == len(tables[0]) == len(tables[1])
        and apart <= machine.size(1.01, 0),
    )


def _answers(project: Path) -> dict[tuple[str, str, int], str]:
    """Every answer by its file, its question and its sample."""
    found = {}
    for path in (project / "results/tiny").glob("*/answers/**/*.parquet"):
        for row in pd.read_parquet(path).itertuples():
            found[str(path.relative_to(project)), str(row.id), row.sample] = row.output
    return found


@step("B4", limit=120)
def two_runs(machine: Machine, folder: Path) -> Row:
    """Of two runs at once, the second gets the GPU when the first one's process has let it go."""
    (folder / "processes").mkdir()
    running = []
    for name in ("one", "two"):
        copy = shutil.copytree(HERE / "two_runs", folder / name)
        words = ["-m", "snakemake", "--cores", "1", "--resources", "gpu=1"]
        modules = [HERE.parents[1] / "workflow" / "scripts", HERE.parent / "helpers"]
        path = os.pathsep.join([*map(str, modules), os.environ["PYTHONPATH"]])
        environment = {**os.environ, "PYTHONPATH": path}
        environment["CUDA_VISIBLE_DEVICES"] = environment["CUDA_VISIBLE_DEVICES"].split(",")[0]
        running.append(subprocess.Popen([sys.executable, *words], cwd=copy, env=environment))
    if codes := [code for code in [process.wait() for process in running] if code]:
        raise RuntimeError(f"Snakemake ended with status {codes[0]}; see the log")
    records = [json.loads((folder / name / "held.json").read_text()) for name in ("one", "two")]
    waited = sum("waiting" in path.read_text() for path in folder.glob("*/hold.log"))
    alive = sum(bool(record["others"]) for record in records)
    memory = max(record["memory_mb"] for record in records)
    used = f", {memory:.0f} MB in use" if machine.real else ""
    return Row(
        f"{waited} waited; when it got the lease, the first one's process was "
        f"{'alive' if alive else 'gone'}{used}",
        f"1 waited; gone{', less than 4000 MB in use' if machine.real else ''}",
        waited == 1 and not alive and memory < 4000,
    )


@step("B5", limit=240)
def killed_job(machine: Machine, folder: Path) -> Row:
    """A fine-tuning killed with -9 leaves its GPU at once, and goes on after its last epoch."""
    project = study(folder)
    path = project / "config/tiny.yaml"
    content = yaml.safe_load(path.read_text())
    content["encoders"]["families"]["roberta"]["finetune"]["epochs"] = 40
    path.write_text(yaml.safe_dump(content))
    target = "results/tiny/roberta/experts/first/seed~0"
    arguments = ["--resources", "gpu=1", "--", f"{target}"]
    running = subprocess.Popen(command(*arguments), cwd=project)
    state = project / f"{target}.state"
    while running.poll() is None and not list(state.glob("checkpoint-*/digests.json")):
        time.sleep(0.02)
    jobs = [
        each
        for each in psutil.Process(running.pid).children(recursive=True)
        if ".snakemake/scripts" in " ".join(each.cmdline()[1:2])
    ]
    for each in jobs:
        each.send_signal(signal.SIGKILL)
    code = running.wait()
    snakemake(project, *arguments)
    (log,) = (project / "logs/tiny").rglob("*expert*/**/*.log")
    text = log.read_text()
    resumed = re.search(r"resuming from checkpoint-\d+", text)
    waited = "waiting" in text
    return Row(
        f"{len(jobs)} killed, status {code}; {resumed[0] if resumed else 'began anew'}; "
        f"{'waited' if waited else 'did not wait'} for its GPU",
        "1 killed, status 1; resuming from a checkpoint; did not wait",
        len(jobs) == code == 1 and bool(resumed) and not waited,
    )


@step("G5", limit=300)
def sweeps_at_once(machine: Machine, folder: Path) -> Row:
    """Several sweeps share one GPU, with equal scores: how much faster than one after another."""
    made.encoders(folder, made.roberta_config(base=machine.real), ("praise",))
    vocabulary = machine.size(50265, 512)
    examples = made.examples({"test": machine.size(1000, 40)}, machine.size(96, 16), vocabulary)
    count = machine.size(4, 2)
    start, scores = time.perf_counter(), []
    for number in range(count):
        scores += _sweeps(machine, folder, examples, [f"alone{number}"])
    alone = time.perf_counter() - start
    start = time.perf_counter()
    scores += _sweeps(machine, folder, examples, [f"together{number}" for number in range(count)])
    together = time.perf_counter() - start
    equal = all(each == scores[0] for each in scores)
    return Row(
        f"{'equal' if equal else 'other'} scores; {count} one after another {alone:.1f} s, "
        f"at once {together:.1f} s: {alone / together:.1f} times as fast",
        "equal scores; 2 times as fast or more (estimate) speaks for jobs_per_gpu",
        equal and bool(scores[0]),
    )


def _sweeps(
    machine: Machine, folder: Path, examples: pd.DataFrame, names: list[str]
) -> list[list[float]]:
    """Scores of sweeps that run at once, each in a process of its own."""
    context = multiprocessing.get_context("fork")
    running = [
        context.Process(target=_sweep, args=(machine, folder, examples, name)) for name in names
    ]
    for process in running:
        process.start()
    for process in running:
        process.join()
    return [json.loads((folder / f"{name}.json").read_text()) for name in names]


def _sweep(machine: Machine, folder: Path, examples: pd.DataFrame, name: str) -> None:
    rates = machine.size([0.1 * step for step in range(10)], [0.5])
    recipes = [
        Recipe(family="roberta", experts=("praise",), sparsifier={"kind": "dare", "rate": rate})
        for rate in rates
    ]
    expert = EvaluatedExpert(folder / "praise", made.TARGET, examples)
    store = ScoreStore(folder / f"{name}.jsonl")
    evaluator = EncoderEvaluator(folder / "base", {"praise": expert}, store, machine.device)
    scores, _ = sweep(made.TARGET, recipes, evaluator)
    (folder / f"{name}.json").write_text(json.dumps(scores["value"].tolist()))
