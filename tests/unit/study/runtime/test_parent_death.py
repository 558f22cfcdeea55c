"""Commands that end with the process that starts them."""

import os
import signal
import subprocess
import sys

from processes import gone, wait_until

from mergegrid.study.runtime.parent_death import bound

START = (
    "import subprocess\n"
    "from mergegrid.study.runtime.parent_death import bound\n"
    "subprocess.run(bound(['sh', '-c', 'echo $$; exec sleep 60']))\n"
)


def test_a_command_ends_with_the_process_that_was_killed():
    with subprocess.Popen([sys.executable, "-c", START], stdout=subprocess.PIPE) as parent:
        command = int(parent.stdout.readline())
        assert not gone(command)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert wait_until(lambda: gone(command), 5)


def test_a_command_whose_process_is_gone_already_does_not_start(tmp_path):
    # The process that the words name is not the one that starts them, as for an orphan.
    words = bound(["touch", str(tmp_path / "started")])
    start = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:]).returncode)"
    done = subprocess.run([sys.executable, "-c", start, *words], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "the process that started this one is gone\n")
    assert not list(tmp_path.iterdir())


def test_a_command_keeps_its_words_its_environment_and_its_end(tmp_path):
    program = "import os, sys; print(sys.argv[1:], os.environ['SAID']); sys.exit(7)"
    done = subprocess.run(
        bound([sys.executable, "-c", program, "--a b", ""]),
        env={**os.environ, "SAID": "x", "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (7, "['--a b', ''] x\n")
