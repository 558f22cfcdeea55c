"""Golden files: `<stage>.json` holds the numbers of one stage under one version of it.

{"version": 1, "numbers": {"average": {"dare": "5f0c31d2a4b7e690"}, ...}}
"""

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from mergegrid.stages import STAGES, stage_versions

FOLDER = Path(__file__).parent
Mode = Literal["", "raised", "force"]
"""Whether nothing is written, what is new and files of raised versions, or all that differ."""
EXACT, ARITHMETIC, TORCH = 0.0, 1e-9, 1e-4
"""Relative tolerances: the order of torch's sums depends on what the processor can do."""


@dataclass(frozen=True)
class Numbers:
    """What one stage makes of small inputs."""

    compute: Callable[[Path], Any]
    """Takes an empty folder; gives numbers, texts, lists, dictionaries or frames."""
    tolerance: float = EXACT
    """Relative tolerance of floats; in a list of numbers it is relative to the largest."""


def plain(value: Any) -> Any:
    """The value as JSON would give it back; NaN becomes a text."""
    if isinstance(value, pd.DataFrame):
        value = {name: value[name].tolist() for name in value.columns}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return str(value)
    return value


def check(stage: str, numbers: Any, tolerance: float, mode: Mode, folder: Path = FOLDER) -> None:
    """Compare the numbers of a stage with its golden file, or write the file where `mode` says so.

    Raises:
        AssertionError: they differ, or the file is missing or of another version.
    """
    path, numbers = folder / f"{stage}.json", plain(numbers)
    (version,) = stage_versions(stage).values()
    recorded = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if recorded is None or recorded["version"] != version:
        raised = recorded is None or recorded["version"] < version
        if mode == "force" or (mode == "raised" and raised):
            _write(path, version, numbers)
            return
        raise AssertionError(_other_version(stage, recorded, version))
    found = list(differences(recorded["numbers"], numbers, tolerance))
    if found and mode == "force":
        _write(path, version, numbers)
    elif found and mode == "raised" and all(place.endswith(" is new") for place in found):
        _write(path, version, _with_new(recorded["numbers"], numbers))
    elif found:
        raise AssertionError(_changed(stage, version, found))


def differences(was: Any, now: Any, tolerance: float, place: str = "") -> Iterator[str]:
    """Where two values differ, as in `mean[3] was 0.25, is 0.26`."""
    if isinstance(was, dict) and isinstance(now, dict):
        for key in [*was, *(key for key in now if key not in was)]:
            inner = f"{place}.{key}" if place else key
            if key not in was or key not in now:
                yield f"{inner} {'is new' if key in now else 'is missing'}"
            else:
                yield from differences(was[key], now[key], tolerance, inner)
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        numbers = [each for each in was if isinstance(each, int | float)]
        scale = max(map(abs, numbers)) if len(numbers) == len(was) > 0 else 0.0
        for index, pair in enumerate(zip(was, now, strict=True)):
            inner = f"{place}[{index}]"
            if not _close(*pair, tolerance, scale):
                yield from differences(*pair, tolerance, inner)
    elif isinstance(was, list) and isinstance(now, list):
        yield f"{place} had {len(was)} entries, has {len(now)}"
    elif not _close(was, now, tolerance, 0.0):
        yield f"{place} was {was!r}, is {now!r}"


def _with_new(was: Any, now: Any) -> Any:
    """What was recorded, to the last digit, and what is new, in the order of the new."""
    if isinstance(was, dict) and isinstance(now, dict):
        return {key: _with_new(was[key], now[key]) if key in was else now[key] for key in now}
    return was


def _close(was: Any, now: Any, tolerance: float, scale: float) -> bool:
    if isinstance(was, float) and isinstance(now, float):
        return math.isclose(was, now, rel_tol=tolerance, abs_tol=tolerance * scale)
    return type(was) is type(now) and bool(was == now)


def _write(path: Path, version: int, numbers: Any) -> None:
    content = {"version": version, "numbers": numbers}
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    # A list of numbers is one line.
    text = re.sub(r"\[\n[-+.,\de\s]*\]", lambda found: " ".join(found[0].split()), text)
    path.write_text(text + "\n", encoding="utf-8")


def _other_version(stage: str, recorded: dict[str, Any] | None, version: int) -> str:
    if recorded is None:
        return f"stage {stage} has no golden numbers; run: pytest tests/golden --write-golden"
    return (
        f"golden numbers of stage {stage} are of version {recorded['version']}, the code says "
        f"{version}; run: pytest tests/golden --write-golden"
    )


def _changed(stage: str, version: int, found: list[str]) -> str:
    others = f" ({len(found) - 1} more differ)" if len(found) > 1 else ""
    return (
        f"the numbers of stage {stage} changed under version {version}: {found[0]}{others}. If "
        f"that is meant, raise STAGE_VERSIONS['{stage}'] in src/mergegrid/{STAGES[stage].module} "
        f"to {version + 1} and run: pytest tests/golden --write-golden"
    )
