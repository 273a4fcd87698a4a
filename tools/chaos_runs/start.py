"""Starts `raexla train` as processes of their own, one or several of a job, as torchrun describes them to a program."""

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

QUIET = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}


@dataclass
class Process:
    """One process that was started."""

    pid: int
    began: float
    code: int | None = None
    """Exit code; -9 for one that SIGKILL ended."""
    seconds: float = 0.0
    """From its start to its end."""

    def poll(self) -> int | None:
        """Its exit code once it has ended."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code, self.seconds = os.waitstatus_to_exitcode(status), time.monotonic() - self.began
        return self.code

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


class Job:
    """The processes of one start of a run; all output goes to `log`."""

    def __init__(self, arguments: Sequence[str], processes: int, fork: bool, log: Path) -> None:
        self.began, self.log = time.monotonic(), log
        port = str(_free_port())
        self.processes = []
        for rank in range(processes):
            variables = dict(QUIET)
            if processes > 1:
                variables |= {"RANK": str(rank), "WORLD_SIZE": str(processes)}
                variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            start = _fork if fork else _execute
            self.processes.append(Process(start(arguments, variables, log), time.monotonic()))

    def ended(self) -> bool:
        """Whether all of them have."""
        return all([process.poll() is not None for process in self.processes])

    def wait(self, seconds: float) -> bool:
        """Wait for all to end; False if they don't in this time."""
        deadline = time.monotonic() + seconds
        while not self.ended():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        return True

    def kill(self) -> None:
        """End what is left of them."""
        for process in self.processes:
            process.send(signal.SIGKILL)
        self.wait(30)

    @property
    def codes(self) -> list[int | None]:
        """Exit codes so far."""
        return [process.code for process in self.processes]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _execute(arguments: Sequence[str], variables: dict[str, str], log: Path) -> int:
    command = [sys.executable, "-m", "raexla", *arguments]
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    actions = [(os.POSIX_SPAWN_OPEN, number, str(log), flags, 0o644) for number in (1, 2)]
    return os.posix_spawn(sys.executable, command, {**os.environ, **variables}, file_actions=actions)


def _fork(arguments: Sequence[str], variables: dict[str, str], log: Path) -> int:
    def run() -> int:
        from raexla import cli

        return cli.main(list(arguments))

    return forked(run, variables, log)


def forked(work: Callable[[], int], variables: dict[str, str], log: Path) -> int:
    """A copy of this program that does `work` and ends with its result as exit code; its process id.

    What was imported before need not be imported again. This program must have no threads.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.environ.update(variables)
        out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.dup2(out, 1)
        os.dup2(out, 2)
        code = work()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
