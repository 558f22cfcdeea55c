"""Programs that mean harm: none passes, and none leaves a trace."""

import inspect
import os
import socket
import threading
import time
from pathlib import Path
from textwrap import dedent

import pytest

from mergegrid.study.grading.programs import program_harness as harness
from mergegrid.study.grading.programs.sandbox import Limits, Sandbox, open_sandbox

FAILED, CRASHED, TIMEOUT = {"failed"}, {"crashed"}, {"timeout"}
SECRET = "correct-horse-battery-staple"

#: Name, the statuses it may end with, and a program that ends well if it gets what it wants.
HARM = [
    ("fork bomb", FAILED, "import os\nwhile True: os.fork()"),
    ("fork that keeps quiet", FAILED, "import os\nif not os.fork(): os._exit(0)"),
    ("shell", FAILED, "import os\nassert os.system('true') == 0"),
    ("subprocess", FAILED, "import subprocess\nsubprocess.run(['/bin/true'], check=True)"),
    (
        "spawn",
        FAILED,
        "import os\nos.waitpid(os.posix_spawn('/bin/true', ['true'], {{}}), 0)",
    ),
    ("exec", CRASHED, "import os\nos.execv('/bin/sh', ['sh', '-c', 'echo passed'])"),
    (
        "flood of threads",
        FAILED | TIMEOUT | CRASHED,
        """
        import threading, time
        while True: threading.Thread(target=time.sleep, args=(60,)).start()
        """,
    ),
    (
        "flood of small threads",
        FAILED | TIMEOUT | CRASHED,
        """
        import threading, time
        threading.stack_size(32768)
        while True: threading.Thread(target=time.sleep, args=(60,)).start()
        """,
    ),
    ("memory at once", FAILED, "hoard = bytearray(1 << 32)"),
    (
        "memory by and by",
        FAILED | CRASHED | TIMEOUT,
        "hoard = []\nwhile True: hoard.append(bytearray(1 << 20))",
    ),
    (
        "memory that no limit counts",
        FAILED,
        "import os\nos.write(os.memfd_create('x'), bytes(1 << 20))",
    ),
    ("endless loop", TIMEOUT, "while True: pass"),
    (
        "endless loop deaf to its limit",
        TIMEOUT | CRASHED,
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
    ),
    (
        "sleep deaf to signals",
        TIMEOUT,
        """
        import signal, time
        for number in set(signal.Signals) - {{signal.SIGKILL, signal.SIGSTOP}}:
            signal.signal(number, signal.SIG_IGN)
        time.sleep(60)
        """,
    ),
    (
        "a thread that outlives",
        CRASHED,
        "import _thread, os\n_thread.start_new_thread(os._exit, (0,))\nimport time; time.sleep(9)",
    ),
    ("write a file of ours", FAILED, "open('{folder}/marker', 'w').write('x')"),
    ("delete a file of ours", FAILED, "import os\nos.remove('{folder}/precious')"),
    (
        "delete all programs",
        FAILED,
        """
        import os, shutil
        shutil.rmtree('/usr/bin', ignore_errors=True)
        assert not os.path.exists('/usr/bin')
        """,
    ),
    ("write to /usr", FAILED, "open('/usr/marker', 'w')"),
    ("write to the root", FAILED, "open('/marker', 'w')"),
    ("write to /dev", FAILED, "open('/dev/marker', 'w')"),
    ("write to the Python", FAILED, "import os\nopen(os.__file__, 'a')"),
    ("read a file of ours", FAILED, "open('{folder}/precious').read()"),
    ("read the passwords", FAILED, "open('/etc/passwd').read()"),
    (
        "fill /tmp",
        FAILED,
        "for n in range(100): open(f'/tmp/{{n}}', 'wb').write(bytes(15 << 20))",
    ),
    ("big file", FAILED, "open('/tmp/big', 'wb').write(bytes(20 << 20))"),
    (
        "reach a server of ours",
        FAILED,
        "import socket\nsocket.create_connection(('127.0.0.1', {port}), 1).sendall(b'x')",
    ),
    (
        "reach the network",
        FAILED,
        "import socket\nsocket.create_connection(('192.0.2.1', 80), 1)",
    ),
    ("serve", FAILED, "import socket\nsocket.create_server(('127.0.0.1', 0))"),
    ("ask for a name", FAILED, "import socket\nsocket.getaddrinfo('example.org', 80)"),
    ("raw socket", FAILED, "import socket\nsocket.socket(socket.AF_PACKET, socket.SOCK_RAW)"),
    ("virtual machine's host", FAILED, "import socket\nsocket.socket(40, socket.SOCK_STREAM)"),
    (
        "secrets of the environment",
        FAILED,
        "import os\nassert '{secret}' in str(os.environ)",
    ),
    ("environment of process 1", FAILED, "open('/proc/1/environ').read()"),
    ("its own memory", FAILED, "open('/proc/self/mem', 'rb')"),
    ("our process", FAILED, "import os\nos.kill({pid}, 0)"),
    (
        "kill all",
        FAILED,
        "import os\nos.kill(-1, 9)\nraise SystemExit",
    ),
    (
        "kill the group",
        FAILED | CRASHED,
        "import os\nos.kill(0, 9)\nraise SystemExit",
    ),
    (
        "kill the parent and its like",
        FAILED | CRASHED,
        """
        import os
        for pid in (os.getppid(), 1):
            os.kill(pid, 9)
        raise SystemExit
        """,
    ),
    ("become root", FAILED, "import os\nos.setuid(0)"),
    (
        "a user namespace inside",
        FAILED,
        "import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0",
    ),
    ("trace", FAILED, "import ctypes\nassert ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0"),
    (
        "mount",
        FAILED,
        "import ctypes\nassert ctypes.CDLL(None).mount(b'x', b'/tmp', b'tmpfs', 0, 0) == 0",
    ),
    (
        "endless recursion",
        FAILED | CRASHED | TIMEOUT,
        "import sys\nsys.setrecursionlimit(1 << 30)\ndef f(n): return f(n + 1)\nf(0)",
    ),
    ("flood of output", TIMEOUT, "while True: print('passed' * 100000)"),
    (
        "flood of every open file",
        CRASHED | TIMEOUT | FAILED,
        """
        import os
        while True:
            for number in range(64):
                try: os.write(number, bytes(1 << 20))
                except OSError: pass
        """,
    ),
    (
        "raise its limits",
        FAILED,
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    ),
]

FORGE = """
import gc, os, re, sys, types
REAL, LEAVE = os.write, os._exit

def say(text):
    for number in range(3, 64):
        try: REAL(number, text)
        except OSError: pass

def forge(*things):
    for found in re.findall("[0-9a-f]{64}", " ".join(map(repr, things))):
        if len(set(found)) > 8:
            say(found.encode())
            LEAVE(0)
"""

#: Name, the statuses it may end with, and a program that asserts something false somewhere.
LIES = [
    ("sys.exit", FAILED, "sys.exit(0)\nassert False"),
    ("os._exit", CRASHED, "os._exit(0)\nassert False"),
    ("SystemExit", FAILED, "raise SystemExit(0)\nassert False"),
    ("KeyboardInterrupt", FAILED, "raise KeyboardInterrupt\nassert False"),
    ("kill itself", CRASHED, "os.kill(os.getpid(), 9)\nassert False"),
    ("abort", CRASHED, "os.abort()\nassert False"),
    ("print", FAILED, "print('passed', flush=True)\nassert False"),
    ("guesses", CRASHED, "say(b'passed')\nsay(b'0' * 64)\nassert False"),
    ("at exit", FAILED, "import atexit\natexit.register(say, b'passed')\nassert False"),
    (
        "at exit, and no way out",
        FAILED | CRASHED,
        "import atexit\natexit.register(say, b'')\nos._exit = lambda code: None\nassert False",
    ),
    ("close all", CRASHED, "os.closerange(0, 64)\nassert False"),
    ("close all, then exit", CRASHED, "os.closerange(0, 64)\nos._exit(0)"),
    (
        "the frames",
        FAILED | CRASHED,
        """
        # FINDS
        frame, things = sys._getframe(), []
        while frame:
            things += [frame.f_locals, frame.f_globals, frame.f_code.co_consts]
            things += gc.get_referents(frame)
            frame = frame.f_back
        forge(*things)
        assert False
        """,
    ),
    (
        "the frames of all threads, from a thread",
        FAILED | CRASHED,
        """
        # FINDS
        import threading
        def look():
            for frame in list(sys._current_frames().values()):
                while frame:
                    forge(frame.f_locals, gc.get_referents(frame))
                    frame = frame.f_back
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        assert False
        """,
    ),
    (
        "the garbage collector",
        FAILED | CRASHED | TIMEOUT,
        """
        # FINDS
        objects = gc.get_objects()
        forge(*(each for each in gc.get_referents(*objects) if type(each) in (bytes, str)))
        assert False
        """,
    ),
    (
        "the frames, once it has failed",
        FAILED | CRASHED,
        """
        # FINDS
        class Lie(Exception):
            def __str__(self):
                frame = sys._getframe()
                while frame:
                    forge(frame.f_locals, gc.get_referents(frame))
                    frame = frame.f_back
                return ""
        raise Lie
        """,
    ),
    (
        "an error that cannot be told",
        CRASHED,
        """
        class Lie(Exception):
            def __str__(self): raise self
        raise Lie
        """,
    ),
    ("arguments", FAILED, "forge(sys.argv, sys.orig_argv[-6:], os.environ)\nassert False"),
    ("command line", FAILED, "forge(open('/proc/self/cmdline').read())"),
    ("standard input", FAILED | CRASHED, "forge(sys.stdin.read(), os.read(0, 999))\nassert False"),
    (
        "every open file, from its start",
        FAILED | CRASHED,
        """
        for number in range(64):
            try: forge(os.pread(number, 9999, 0))
            except OSError: pass
        assert False
        """,
    ),
    (
        "modules",
        FAILED | CRASHED,
        "forge(*(vars(module) for module in list(sys.modules.values())))\nassert False",
    ),
    (
        "replaced builtins",
        CRASHED,
        """
        import builtins
        builtins.AssertionError = builtins.BaseException = builtins.SystemExit = ValueError
        builtins.exec = builtins.compile = builtins.getattr = lambda *rest: b""
        assert False
        """,
    ),
    (
        "replaced output",
        FAILED | CRASHED,
        """
        sys.stdout = sys.stderr = sys.stdin = None
        os.write = lambda number, data: REAL(number, b"")
        assert False
        """,
    ),
    (
        "replaced os, so that a failure falls through",
        CRASHED,
        """
        os.write = os._exit = lambda *rest: None
        assert False
        """,
    ),
    (
        "replaced main program",
        FAILED,
        """
        import __main__
        __main__.run = __main__.main = __main__.source = lambda *rest: b""
        assert False
        """,
    ),
    (
        "replaced harness, through its frame",
        FAILED | CRASHED,
        """
        names = sys._getframe(1).f_globals
        for name in ("run", "source", "refuse", "FAILED"):
            names[name] = lambda *rest: b""
        names["os"] = names["sys"] = types.SimpleNamespace(write=REAL, _exit=lambda code: None)
        assert False
        """,
    ),
    (
        "a trace function that jumps over the test",
        FAILED,
        """
        def jump(frame, event, argument):
            if event == "line" and frame.f_lineno == frame.f_code.co_firstlineno + 2:
                frame.f_lineno += 1
            return jump
        def test():
            value = 1
            assert value == 2
            return value
        sys.settrace(jump)
        test()
        """,
    ),
    (
        "a trace function, once nothing forbids it",
        FAILED,
        """
        sys._getframe(1).f_globals["refuse"].__code__ = (lambda event, arguments: None).__code__
        sys.settrace(lambda *rest: None)
        """,
    ),
    (
        "a trace function on the harness",
        FAILED,
        """
        def forget(frame, event, argument):
            forge(frame.f_locals)
            return forget
        sys._getframe(1).f_trace = sys._getframe(2).f_trace = forget
        sys.settrace(forget)
        """,
    ),
    (
        "a profile function on the harness",
        FAILED | CRASHED,
        """
        def look(frame, event, argument):
            forge(frame.f_locals, argument)
        sys.setprofile(look)
        assert False
        """,
    ),
    (
        "own pipe in the place of the channel",
        FAILED | CRASHED,
        """
        reading, writing = os.pipe()
        for number in range(3, 10):
            if number not in (reading, writing): os.dup2(writing, number)
        assert False
        """,
    ),
    (
        "hooks",
        FAILED,
        """
        sys.excepthook = sys.unraisablehook = lambda *rest: os._exit(0)
        assert False
        """,
    ),
    (
        "a signal when it is over",
        FAILED | CRASHED,
        """
        import signal
        def late(*rest): forge(sys._getframe(1).f_locals)
        signal.signal(signal.SIGALRM, late)
        signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
        assert False
        """,
    ),
]


@pytest.fixture(scope="module")
def log():
    """A server on the loopback of this machine: its port, and whom it has heard from."""
    heard = []
    server = socket.create_server(("127.0.0.1", 0))

    def listen():
        while True:
            try:
                connection, address = server.accept()
            except OSError:
                return
            heard.append(address)
            connection.close()

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    yield server.getsockname()[1], heard
    # To close it does not wake who waits.
    server.shutdown(socket.SHUT_RDWR)
    listener.join()
    server.close()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "precious").write_text("precious")
    return tmp_path


@pytest.fixture
def program(request, folder, log, monkeypatch):
    monkeypatch.setenv("SECRET", SECRET)
    values = {"folder": folder, "port": log[0], "secret": SECRET, "pid": os.getpid()}
    return lambda text: dedent(text).format(**values)


@pytest.mark.parametrize(
    ("statuses", "text"), [each[1:] for each in HARM], ids=[h[0] for h in HARM]
)
def test_no_harm_is_done(statuses, text, tight, program, folder, log, all_gone):
    start = time.monotonic()
    outcome = tight.run(program(text))
    assert time.monotonic() - start < 10
    assert outcome.status in statuses, outcome
    assert [path.name for path in folder.iterdir()] == ["precious"]
    assert not [path for path in ("/marker", "/usr/marker", "/dev/marker") if Path(path).exists()]
    assert log[1] == []
    assert all_gone()


@pytest.mark.parametrize(
    ("statuses", "text"), [each[1:] for each in LIES], ids=[h[0] for h in LIES]
)
def test_no_lie_is_believed(statuses, text, tight):
    outcome = tight.run(FORGE + dedent(text))
    assert outcome.status in statuses, outcome


@pytest.mark.parametrize("name", ["write a file of ours", "reach a server of ours", "our process"])
def test_without_a_sandbox_the_same_programs_do_their_harm(name, program, folder, log):
    text = next(text for each, _, text in HARM if each == name)
    outcome = Sandbox((), limits=Limits()).run(program(text))
    assert outcome.status == "passed", outcome
    if name == "write a file of ours":
        assert (folder / "marker").exists()
    if name == "reach a server of ours":
        time.sleep(0.1)
        assert log[1]
        log[1].clear()


@pytest.mark.parametrize("name", [each[0] for each in LIES if "FINDS" in each[2]])
def test_a_token_that_is_kept_in_the_open_would_be_found(name, tight, monkeypatch):
    """The same lies against a harness that keeps the token in a list, by a name."""
    text = next(text for each, _, text in LIES if each == name)
    careless = inspect.getsource(harness).replace(
        "os.write(channel, os.read(0, TOKEN_BYTES) + run(source(), channel))",
        "token = [os.read(0, TOKEN_BYTES)]; os.write(channel, token[0] + run(source(), channel))",
    )
    assert "token = [" in careless
    monkeypatch.setattr("mergegrid.study.grading.programs.sandbox.HARNESS_SOURCE", careless)
    assert open_sandbox(limits=tight.limits).run(FORGE + dedent(text)).status == "passed"
