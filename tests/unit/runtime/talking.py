"""What the processes of `test_processes.py` do; run as a program, so that what they need is imported once.

`python talking.py FILE NAME=TIMEOUT ...` forks, for each name, two processes of a job and appends to FILE, a line of
JSON each, what they said and how they ended. (gloo writes to the standard output as it likes.)
"""

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import torch

from raexla.recipe import ProcessLost
from raexla.runtime.processes import Processes


def talk(me: Processes) -> None:
    """Everything once."""
    said = {
        "any": [me.any(False), me.any(me.index == 1)],
        "sum": me.sum(torch.full((2,), float(me.index + 1))).tolist(),
        "exchange": me.exchange({"i": me.index, "text": "é" * (1 + 50 * me.index)}),
    }
    kept = torch.ones(1)
    me.sum(kept)
    said["kept"] = kept.tolist()
    # a thread talks on connections of its own, before or after the main thread
    other, heard = me.another(), []
    thread = threading.Thread(target=lambda: [heard.append(other.exchange(n)) for n in range(20)])
    if me.index == 0:
        thread.start()
    rounds = [me.exchange(-n) for n in range(20)]
    if me.index == 1:
        thread.start()
    thread.join()
    said["threads"] = heard == [[n, n] for n in range(20)] and rounds == [[-n, -n] for n in range(20)]
    me.barrier()
    _say(said)


def killed(me: Processes) -> None:
    """The second is killed; the first goes on as long as it can."""
    _alone(me, signal.SIGKILL)


def stopped(me: Processes) -> None:
    """The second hangs."""
    _alone(me, signal.SIGSTOP)


def _say(value: Any) -> None:
    with open(sys.argv[1], "ab", buffering=0) as file:
        file.write((json.dumps(value) + "\n").encode())  # at once: a line of one process is not cut by the other's


def _alone(me: Processes, number: signal.Signals) -> None:
    me.barrier()
    if me.index == 1:
        os.kill(os.getpid(), number)
    while True:
        me.any(False)


def main(name: str, timeout: float) -> None:
    """Fork the two, wait for the first, end the second."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ.update(WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    actions: dict[str, Callable[[Processes], None]] = {"talk": talk, "killed": killed, "stopped": stopped}
    began, pids, codes = time.monotonic(), [], []
    for rank in range(2):
        pids.append(os.fork())
        if not pids[-1]:
            os.environ["RANK"] = str(rank)
            code = 1
            try:
                actions[name](Processes(timeout_seconds=timeout))
                code = 0
            except ProcessLost as lost:
                _say(str(lost))
                code = lost.exit_code
            finally:
                os._exit(code)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1]))
    if name != "talk":
        os.kill(pids[1], signal.SIGKILL)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(pids[1], 0)[1]))
    _say({"codes": codes, "seconds": time.monotonic() - began})


if __name__ == "__main__":
    for argument in sys.argv[2:]:
        what, _, seconds = argument.partition("=")
        main(what, float(seconds))
