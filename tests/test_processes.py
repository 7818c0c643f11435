"""Commands that end with what they started."""

import subprocess
import sys


FORK = """
import os, signal
from iepile_builder.processes import start_children

start_children()
assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
child = os.fork()
if child == 0:
    os._exit(signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_fork_ends_by_sigterm_at_once() -> None:
    # A handler of Python's would not run while a worker of a pool waits: the pool would wait for it forever.
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"
