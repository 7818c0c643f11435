"""
Measure the CPU seconds that `--help` of every command takes:

    python benchmarks/help.py
"""

import subprocess
import sys
from resource import RUSAGE_CHILDREN, getrusage

from rich.console import Console
from rich.table import Table

from iepile_builder.commands.cli import COMMANDS


def measure(command: str) -> float:
    before = getrusage(RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "iepile_builder", command, "--help"], check=True, stdout=subprocess.DEVNULL)
    after = getrusage(RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    table = Table("command", "CPU seconds of --help")
    for command in COMMANDS:
        table.add_row(command, f"{measure(command):.2f}")
    Console().print(table)
