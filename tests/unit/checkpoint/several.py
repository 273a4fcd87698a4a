"""What the processes of `test_several.py` do; run as a program, so that what they need is imported once.

`python several.py FOLDER` forks jobs of 1, 2 and 4 processes and prints a line of JSON for each process of each job.
"""

import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[3]))

from raexla.checkpoint import CheckpointRecipe, SaveFailed, open_saver
from raexla.checkpoint import pieces as cutting
from raexla.files import Store
from raexla.recipe import ProcessLost, UserError
from raexla.runtime.eager import EagerRuntime
from tests.unit.checkpoint.worlds import eager, zeros

COUNTS = (1, 2, 4)
KEEP = CheckpointRecipe(keep=9)


def state_of(seed: int) -> dict[str, torch.Tensor]:
    """400 kB in tensors of different sizes; the same for a seed everywhere."""
    generator = torch.Generator().manual_seed(seed)
    out = {f"model/{n}": torch.randn(50, 10 + 20 * n, generator=generator) for n in range(9)}
    return out | {"optim/step": torch.tensor(float(seed)), "model/half": torch.randn(9, 9).bfloat16() * 0 + seed}


def save(runtime: EagerRuntime, folder: Path) -> dict[str, Any]:
    """Two checkpoints, and what this process has written of them."""
    saver = open_saver(folder / f"by-{runtime.process_count}", runtime, KEEP)
    for step in (1, 2):
        saver.save(step, state_of(step), {"processes": runtime.process_count})
    saver.wait()
    found = saver.latest()
    assert found is not None
    return {"step": found.step, "bytes": saver.saves.bytes, "error": str(saver.close())}


def restore(runtime: EagerRuntime, folder: Path) -> dict[str, Any]:
    """What each number of processes has saved."""
    same = []
    for count in COUNTS:
        found = open_saver(folder / f"by-{count}", runtime, KEEP).latest()
        assert found is not None
        fresh = zeros(state_of(0))
        found.restore(fresh, runtime)
        same.append(all(torch.equal(fresh[name], value) for name, value in state_of(2).items()))
    return {"same": same}


def full(runtime: EagerRuntime, folder: Path) -> dict[str, Any]:
    """The disk of the second process is full: nobody has a checkpoint, everybody is told, the run can go on."""
    saver = open_saver(folder / "by-2", runtime, KEEP)
    write, said = Store.write, []

    def fails(self: Store, name: str, source: Any) -> None:
        raise OSError(28, "No space left on device")

    for broken in (True, False):
        if broken and runtime.process_index == 1:
            Store.write = fails  # type: ignore[method-assign]
        saver.save(3, state_of(3), {})
        try:
            saver.wait()
        except SaveFailed as error:
            said.append(str(error))
        Store.write = write  # type: ignore[method-assign]
    found = saver.latest()
    assert found is not None
    return {"said": said, "step": found.step}


def killed(runtime: EagerRuntime, folder: Path) -> dict[str, Any]:
    """The second process is killed while it writes: the first ends with an error, what was there is whole."""
    saver = open_saver(folder / "by-2", runtime, KEEP)
    if runtime.process_index == 1:
        Store.write = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign,assignment]
    saver.save(4, state_of(4), {})
    try:
        saver.wait()
    except ProcessLost as lost:
        return {"lost": str(lost)}
    return {}


def damaged(runtime: EagerRuntime, folder: Path) -> dict[str, Any]:
    """The newest is damaged: every process is told by the one that looks."""
    saver = open_saver(folder / "by-2", runtime, KEEP)
    try:
        saver.latest()
    except UserError as error:
        return {"said": str(error)}
    return {}


ACTIONS: dict[str, Callable[[EagerRuntime, Path], dict[str, Any]]] = {
    "save": save, "restore": restore, "full": full, "killed": killed, "damaged": damaged,
}  # fmt: skip


def job(name: str, count: int, folder: Path) -> None:
    """Fork `count` processes and wait for them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ.update(WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    pids = []
    for rank in range(count):
        pids.append(os.fork())
        if not pids[-1]:
            os.environ["RANK"] = str(rank)
            result = ACTIONS[name](eager(), folder)
            line = json.dumps({"job": f"{name}-{count}", "rank": rank, **result}) + "\n"
            os.write(1, line.encode())
            os._exit(0)
    for pid in pids:
        os.waitpid(pid, 0)


def main(folder: Path) -> None:
    """All jobs, one after the other."""
    cutting.cut.__defaults__ = (4000,)
    for count in COUNTS:
        job("save", count, folder)
    for count in COUNTS:
        job("restore", count, folder)
    job("full", 2, folder)
    job("killed", 2, folder)
    os.truncate(folder / "by-2" / "step-00000003" / "manifest.json", 100)
    job("damaged", 2, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
