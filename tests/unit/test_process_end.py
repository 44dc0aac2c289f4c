"""How the process of a command ends."""

import subprocess
import sys

import pytest

BUSY_ARROW = """
import io, sys, threading
import pyarrow, pyarrow.parquet
from jobs.main import main

table = io.BytesIO()
pyarrow.parquet.write_table(pyarrow.table({f"column{index}": list(range(50)) for index in range(20)}), table)

def read_for_ever():
    while True:
        pyarrow.parquet.read_table(io.BytesIO(table.getvalue()))

for _ in range(2):
    threading.Thread(target=read_for_ever, daemon=True).start()
main()
"""


@pytest.mark.lengthy
@pytest.mark.parametrize(
    ("argument", "code", "said"), [("--version", 0, "ramfleet "), ("--no-such-option", 2, "No such option")]
)
def test_threads_of_arrow_do_not_abort_an_ending_command(argument: str, code: int, said: str) -> None:
    """They ask for the interpreter while it is taken down: the exit code stays the command's, and all is printed."""
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", BUSY_ARROW, argument], capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, said in done.stdout + done.stderr) == (code, True), done.stderr


def test_what_was_printed_last_is_not_lost() -> None:
    """Of text that nobody flushed, into a pipe: all of it comes out before the process ends."""
    program = "import sys, jobs.main\njobs.main.app = lambda: sys.stdout.write('the last line')\njobs.main.main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "the last line"


def test_an_error_that_nobody_foresaw_is_exit_1_with_its_traceback() -> None:
    """Nothing of it is hidden by the process's end."""
    program = "import jobs.main\njobs.main.app = lambda: 1 / 0\njobs.main.main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
