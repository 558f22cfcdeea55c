"""The options of `mergegrid init`: experts and benchmarks as they are written there."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mergegrid.errors import ConfigError, DataError
from mergegrid.recipes.merge_file import check_expert_name
from mergegrid.study.new_study.ready_benchmarks import READY, columns_text, kind_of_columns
from mergegrid.study.schema.benchmarks import Benchmark, BenchmarkKind
from mergegrid.study.schema.tasks import Table

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class ChosenBenchmark:
    """A benchmark of a new study."""

    name: str
    kind: BenchmarkKind
    questions: int
    experts: tuple[str, ...]
    """The experts whose ability it measures."""
    path: Path | None = None
    """File of own questions; None for a ready benchmark."""
    guessed: bool = False
    """Whether the experts were chosen by their names, or for want of a better choice."""


def expert_options(texts: Sequence[str]) -> dict[str, str]:
    """Models of the experts by name, from texts such as `math=org/model`.

    Raises:
        ConfigError: a text is not of this form, or a name is invalid or given twice.
    """
    experts: dict[str, str] = {}
    for text in texts:
        name, _, model = text.partition("=")
        if not name or not model:
            raise ConfigError(f"--expert {text}: write NAME=MODEL, as in math=org/model")
        try:
            check_expert_name(name)
        except ValueError as error:
            raise ConfigError(f"--expert {text}: {error}") from error
        if name.lower() in map(str.lower, experts):
            raise ConfigError(f"--expert {text}: {name} is given twice; name every expert once")
        experts[name] = model
    if not experts:
        raise ConfigError("no experts; give at least one, as in --expert math=org/model")
    return experts


def benchmark_options(texts: Sequence[str], experts: Sequence[str]) -> list[ChosenBenchmark]:
    """Benchmarks from texts such as `gsm8k`, `math:gsm8k` or `mine=questions.jsonl`.

    Without an expert in front, a ready benchmark goes to the experts whose names tell of the
    ability; where none does, and for own questions, to all.

    Raises:
        ConfigError: a benchmark or expert is unknown, or an expert has no benchmark.
        DataError: a file of questions does not fit its kind.
    """
    chosen: dict[str, ChosenBenchmark] = {}
    for text in texts:
        head, _, path = text.partition("=")
        expert, _, name = head.rpartition(":")
        if expert and expert not in experts:
            raise ConfigError(
                f"--benchmark {text}: there is no expert {expert}; use one of {', '.join(experts)}"
            )
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"--benchmark {text}: write NAME, EXPERT:NAME or NAME=FILE.jsonl, with a name of "
                "letters, digits, '.', '_' and '-'"
            )
        if name in chosen:
            raise ConfigError(f"--benchmark {text}: {name} is given twice; name it once")
        chosen[name] = _benchmark(text, name, path, expert, experts)
    if not chosen:
        raise ConfigError(
            f"no benchmarks; give at least one, as in --benchmark {next(iter(READY))}"
        )
    _check_every_expert(experts, chosen)
    return list(chosen.values())


def _benchmark(
    text: str, name: str, path: str, expert: str, experts: Sequence[str]
) -> ChosenBenchmark:
    if path:
        kind, questions = _questions_of_file(text, name, Path(path).expanduser())
        owners = (expert,) if expert else tuple(experts)
        place = Path(path).expanduser().resolve()
        return ChosenBenchmark(name, kind, questions, owners, place, guessed=not expert)
    if name not in READY:
        raise ConfigError(
            f"--benchmark {text}: unknown benchmark {name}; use one of {', '.join(READY)}, or "
            f"{name}=FILE.jsonl for questions of your own"
        )
    ready = READY[name]
    owners = (expert,) if expert else _able(experts, ready.abilities)
    return ChosenBenchmark(
        name, ready.kind, ready.questions, owners or tuple(experts), guessed=not expert
    )


def _able(experts: Sequence[str], abilities: Sequence[str]) -> tuple[str, ...]:
    """The experts whose names tell of an ability."""
    return tuple(name for name in experts if any(word in name.lower() for word in abilities))


def _questions_of_file(text: str, name: str, path: Path) -> tuple[BenchmarkKind, int]:
    """Kind and number of questions in a file, which are read as the study will read them."""
    if not path.is_file():
        raise ConfigError(
            f"--benchmark {text}: {path.resolve()} does not exist; correct the path, which is "
            "relative to the working directory"
        )
    # They import pandas.
    from mergegrid.study.tasks.questions import prepare_questions
    from mergegrid.study.tasks.table_files import read_table

    table = Table(source=f"path:{path.resolve()}")
    kind: BenchmarkKind | None = READY[name].kind if name in READY else None
    if kind is None:
        records = read_table(table, path)
        if records.empty:
            raise DataError(f"--benchmark {text}: {path} has no questions; add some")
        columns = set(map(str, records.columns))
        kind = kind_of_columns(columns)
        if kind is None:
            raise DataError(
                f"--benchmark {text}: the columns {', '.join(sorted(columns))} of {path} are not "
                f"those of a benchmark; rename them. Kinds and columns: {columns_text()}"
            )
    if kind == "alpaca_eval":
        raise ConfigError(
            f"--benchmark {text}: a judge compares these answers, so write this benchmark into "
            "the study by hand; config/README.md describes its keys"
        )
    questions = prepare_questions(Benchmark(kind=kind, records=table), path)
    return kind, len(questions)


def _check_every_expert(experts: Sequence[str], chosen: Mapping[str, ChosenBenchmark]) -> None:
    for expert in experts:
        if not any(expert in benchmark.experts for benchmark in chosen.values()):
            raise ConfigError(
                f"expert {expert} has no benchmark: {', '.join(chosen)} went to others, by their "
                f"names; add --benchmark {expert}:NAME, with one of {', '.join(READY)} or "
                "NAME=FILE.jsonl"
            )
