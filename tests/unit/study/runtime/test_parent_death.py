"""Commands that end with the process that starts them."""

import os
import signal
import subprocess
import sys

from processes import gone, wait_until

from mergegrid.study.runtime.parent_death import dies_with_parent

START = (
    "import subprocess\n"
    "from mergegrid.study.runtime.parent_death import dies_with_parent\n"
    "subprocess.run(dies_with_parent(['sh', '-c', 'echo $$; exec sleep 60']))\n"
)


def test_a_command_ends_with_the_process_that_was_killed():
    with subprocess.Popen([sys.executable, "-c", START], stdout=subprocess.PIPE) as parent:
        command = int(parent.stdout.readline())
        assert not gone(command)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert wait_until(lambda: gone(command), 5)


def test_a_command_whose_parent_has_ended_does_not_start(tmp_path):
    # Its parent is another process than the one on the command line, as for an orphan.
    command = dies_with_parent(["touch", str(tmp_path / "started")])
    start = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:]).returncode)"
    done = subprocess.run([sys.executable, "-c", start, *command], capture_output=True, text=True)
    assert done.returncode == 1
    assert "parent process has already ended" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_command_keeps_its_arguments_environment_and_exit_status(tmp_path):
    program = "import os, sys; print(sys.argv[1:], os.environ['NOTE']); sys.exit(7)"
    done = subprocess.run(
        dies_with_parent([sys.executable, "-c", program, "--a b", ""]),
        env={**os.environ, "NOTE": "x", "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (7, "['--a b', ''] x\n")
