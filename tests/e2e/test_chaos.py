"""`tools/chaos.py`: runs that are killed are the runs that nothing disturbed; its short form, and the long ones."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "chaos.py"


def _chaos(*arguments: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, str(TOOL), *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _in_saves(said: str) -> int:
    found = re.search(r"(\d+) while a checkpoint was being written", said)
    assert found, said
    return int(found[1])


def test_killed_three_times():
    said = _chaos("--kills", "3", "--steps", "12", "--seed", "1")
    assert "SIGKILL x 3 on eager" in said
    assert "the same, none missing, none twice" in said
    assert "the artifact: equal" in said


def test_one_of_two_processes_is_killed_and_the_run_goes_on_with_one_two_or_four():
    said = _chaos("--kills", "2", "--steps", "9", "--seed", "2", "--processes", "random")
    assert "SIGKILL x 2 on eager" in said
    assert "the same, none missing, none twice" in said


def test_options_that_do_not_fit_are_refused():
    for options, message in (
        (["--devices", "random"], "one device a process"),
        (["--runtime", "xla", "--processes", "2"], "cannot form one XLA job"),
    ):
        done = subprocess.run([sys.executable, str(TOOL), *options], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert message in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        pytest.param([], id="eager"),
        pytest.param(["--signal", "TERM"], id="eager, SIGTERM"),
        pytest.param(["--runtime", "xla"], id="xla"),
        pytest.param(["--runtime", "xla", "--devices", "random"], id="xla, 1, 2 or 4 devices"),
        pytest.param(["--runtime", "xla", "--devices", "random", "--signal", "TERM"], id="xla, SIGTERM"),
        pytest.param(["--processes", "2"], id="two processes"),
        pytest.param(["--processes", "random"], id="1, 2 or 4 processes"),
        pytest.param(["--processes", "4", "--signal", "TERM", "--kills", "10"], id="four processes, SIGTERM"),
    ],
)
def test_killed_twenty_five_times(options):
    said = _chaos("--kills", "25", *options)
    assert "SIGTERM" in options or "TERM" in options or _in_saves(said) >= 3
