"""What runs inside the sandbox: one program to its end, then the verdict. Run as text, by `-c`.

Its arguments are limits, `RLIMIT_AS=536870912`; its standard input is a token of 64 bytes and then
the program. It answers on its standard output with `started `, and then with the token alone when
the program ran to its end, else with `failed ` and the error. The program sees neither stream.
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
    """Limit this process, run the program, and write the verdict."""
    for limit in sys.argv[1:]:
        name, value = limit.split("=")
        # One more as the hard limit: a process that reaches that of processor time is killed
        # without a word, one that reaches the soft limit first gets the signal that says why.
        resource.setrlimit(getattr(resource, name), (int(value), int(value) + 1))
    del sys.argv[1:]
    channel = os.dup(1)
    sys.settrace = untraced
    sys.addaudithook(refuse)
    # From here on it is the program that fails; whoever does not read this saw the sandbox fail.
    os.write(channel, STARTED)
    # The token waits in the middle of this expression, where no name, frame or collector shows
    # it, and so does the function that writes it, which the program therefore cannot replace.
    os.write(channel, os.read(0, TOKEN_BYTES) + run(source(), channel))
    os._exit(0)


def source() -> str:
    """The program, taken from the standard input, which is then empty."""
    with open(0, "rb", closefd=False) as file:
        text = file.read()
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)
    os.close(nothing)
    return text.decode("utf-8", "surrogatepass")


def run(text: str, channel: int) -> bytes:
    """Nothing when the program ends; what it raises is told here, and nothing follows."""
    program = type(sys)("__main__")
    sys.modules["__main__"] = program
    try:
        exec(compile(text, "program", "exec", dont_inherit=True), program.__dict__)
    except BaseException as error:  # noqa: BLE001  SystemExit in the middle is a failure, too.
        message = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
        os.write(channel, FAILED + message.encode("utf-8", "replace")[:DETAIL_BYTES])
        os._exit(1)
    else:
        return b""
    # Only reached when the program has replaced os._exit.
    raise SystemExit(1)


def untraced(function: Any, /) -> None:
    """Stand in for sys.settrace, which doctest calls to put back that nothing is traced."""
    if function is not None:
        raise PermissionError("sys.settrace is refused to programs under test")


def refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """Forbid tracing, which may skip the lines that test, and new code for this function."""
    if event == "sys.settrace":
        raise PermissionError("sys.settrace is refused to programs under test")
    new_code = event == "object.__setattr__" and arguments[1] == "__code__"
    # By its name, because the program can put anything in the place of a global.
    if new_code and arguments[0].__code__.co_name == "refuse":
        raise PermissionError("the harness is not open to programs under test")


if __name__ == "__main__":
    main()
