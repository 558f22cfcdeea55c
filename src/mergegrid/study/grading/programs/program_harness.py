"""Run inside the sandbox: execute one program and report how it ended. Run as text, by `-c`.

Arguments are limits, such as `RLIMIT_AS=536870912`. Standard input is a token of 64 bytes, then
the program. Standard output is `started `, then the token alone if the program ran to its end, else
`failed ` and the error. The program can access neither stream.
"""

import os
import resource
import sys
from typing import Any

TOKEN_BYTES = 64
STARTED = b"started "
FAILED = b"failed "
DETAIL_BYTES = 300


def main() -> None:
    """Limit this process, run the program and report how it ended."""
    for limit in sys.argv[1:]:
        name, value = limit.split("=")
        # At the soft limit of processor time a process gets a signal that names the reason, at the
        # hard limit it is just killed; so the hard limit is one more.
        resource.setrlimit(getattr(resource, name), (int(value), int(value) + 1))
    del sys.argv[1:]
    channel = os.dup(1)
    sys.settrace = untraced
    sys.addaudithook(refuse)
    # Failures before this line are the sandbox's, later ones the program's.
    os.write(channel, STARTED)
    # While the program runs, the token and the function that writes it exist only as intermediate
    # values of this expression: no name, frame or garbage collector exposes them to the program.
    os.write(channel, os.read(0, TOKEN_BYTES) + run(source(), channel))
    os._exit(0)


def source() -> str:
    """Read the program from standard input, then close all standard streams to it."""
    with open(0, "rb", closefd=False) as file:
        text = file.read()
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)
    os.close(nothing)
    return text.decode("utf-8", "surrogatepass")


def run(text: str, channel: int) -> bytes:
    """Return b"" if the program succeeds; if it raises an exception, report that and exit."""
    program = type(sys)("__main__")
    sys.modules["__main__"] = program
    try:
        exec(compile(text, "program", "exec", dont_inherit=True), program.__dict__)
    except BaseException as error:  # noqa: BLE001  SystemExit is a failure, too.
        message = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
        os.write(channel, FAILED + message.encode("utf-8", "replace")[:DETAIL_BYTES])
        os._exit(1)
    else:
        return b""
    # Reached only if the program has replaced os._exit.
    raise SystemExit(1)


def untraced(function: Any, /) -> None:
    """Replace sys.settrace; None is allowed, because doctest calls it to disable tracing."""
    if function is not None:
        raise PermissionError("sys.settrace is refused to programs under test")


def refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """Audit hook: forbid tracing, which can skip test lines, and replacing this function's code."""
    if event == "sys.settrace":
        raise PermissionError("sys.settrace is refused to programs under test")
    new_code = event == "object.__setattr__" and arguments[1] == "__code__"
    # Compared by name, because the program can rebind any global.
    if new_code and arguments[0].__code__.co_name == "refuse":
        raise PermissionError("the harness is not open to programs under test")


if __name__ == "__main__":
    main()
