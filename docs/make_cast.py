"""Record a run of the smoke study on a terminal, as the animation docs/figures/run.svg.

    python docs/make_cast.py

Runs `mergegrid run smoke` in an empty folder, keeps what it writes with its time (asciicast v2) and
draws it with svg-term-cli, a program of npm (`SVG_TERM=path/to/svg-term` for an installed one). The
run takes about two minutes of processor time; the animation shows it in `SECONDS`.
"""

import fcntl
import json
import os
import pty
import select
import shlex
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

DOCS = Path(__file__).resolve().parent
COMMAND = ("mergegrid", "run", "smoke", "--cores", "2")
COLUMNS, LINES = 110, 32
#: Length of the animation, how long it rests on the last screen, and the number of screens.
SECONDS, REST, SCREENS = 24.0, 6.0, 48
SVG_TERM = "npx --yes svg-term-cli@2.1.1"

Event = tuple[float, str]


def record(command: tuple[str, ...], folder: Path) -> list[Event]:
    """Run a command on a terminal of its own; what it wrote, and after how many seconds.

    Raises:
        SystemExit: the command failed.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color"}
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        start_new_session=True,
    )
    os.close(theirs)
    start = time.monotonic()
    events = []
    pending = b""
    while select.select([ours], [], [], None)[0]:
        try:
            pending += os.read(ours, 1 << 16)
        except OSError:  # The other end is closed.
            break
        text = pending.decode(errors="ignore")
        if text.encode() == pending:  # No character is cut.
            events.append((time.monotonic() - start, text))
            pending = b""
    os.close(ours)
    if process.wait():
        sys.exit(f"{shlex.join(command)} failed:\n{''.join(text for _, text in events)[-2000:]}")
    return events


def cast(command: tuple[str, ...], events: list[Event]) -> str:
    """Return an asciicast of a few screens at equal distances, after the prompt and the command.

    Args:
        events: texts by seconds since the start, in order.
    """
    screens: dict[int, str] = {0: f"$ {shlex.join(command)}\r\n"}
    whole = events[-1][0] or 1.0
    for second, text in events:
        number = 1 + int(second / whole * (SCREENS - 1))
        screens[number] = screens.get(number, "") + text
    # Of a clone, or of an installation: no folder of this machine is shown.
    screens = {n: text.replace(str(DOCS.parent), "~/mergegrid") for n, text in screens.items()}
    step = SECONDS / SCREENS
    lines = [{"version": 2, "width": COLUMNS, "height": LINES}]
    lines += [[round(number * step, 3), "o", text] for number, text in sorted(screens.items())]
    lines.append([SECONDS + REST, "o", ""])
    return "".join(f"{json.dumps(line)}\n" for line in lines)


def main() -> None:
    """Record and draw."""
    with tempfile.TemporaryDirectory() as folder:
        events = record(COMMAND, Path(folder))
    program = shlex.split(os.environ.get("SVG_TERM", SVG_TERM))
    drawing = DOCS / "figures" / "run.svg"
    subprocess.run(
        [*program, "--out", str(drawing), "--no-cursor", "--window"],
        input=cast(COMMAND, events),
        text=True,
        check=True,
    )
    sys.stdout.write(f"{events[-1][0]:.0f} s recorded; {drawing.stat().st_size / 1e3:.0f} kB\n")


if __name__ == "__main__":
    main()
