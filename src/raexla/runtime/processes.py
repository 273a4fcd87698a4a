"""Agreement between host processes, over gloo.

Under SPMD each process sees the whole mesh, so torch_xla's own rendezvous is a no-op (pytorch/xla#9479); stop
requests and checkpoints need the processes to agree, and this is where they do. The eager runtime sums gradients here.

A process that dies closes its connections, which the others notice at their next exchange; one whose machine vanishes
is missed after the timeout. Both end the others with `ProcessLost`: nobody waits for ever, nobody goes on alone.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from raexla.recipe import ProcessLost, UserError

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_LOST = ("onnection", "imed out", "imeout", "ocket", "peer", "roken pipe")
"""Parts of what gloo and its store say when the others are gone; anything else is a bug and keeps its traceback."""


class Processes:
    """The processes of one job as torchrun or the TPU launcher describes them in the environment.

    All methods but `index` and `count` are collective: every process calls them, in the same order.

    Args:
        index: of this process; RANK if left out.
        count: of processes; WORLD_SIZE if left out.
        timeout_seconds: how long to wait for the others, when meeting and at each exchange.

    Raises:
        UserError: the environment does not describe a job.
        ProcessLost: the others did not come.
    """

    def __init__(self, index: int | None = None, count: int | None = None, timeout_seconds: float = 600.0) -> None:
        self.index = _number("RANK", 0) if index is None else index
        self.count = _number("WORLD_SIZE", 1) if count is None else count
        self._timeout, self._group = timedelta(seconds=timeout_seconds), None
        if not 0 <= self.index < self.count:
            raise UserError(f"RANK is {self.index}, WORLD_SIZE is {self.count}: ranks go from 0 to WORLD_SIZE - 1")
        if self.count > 1 and not dist.is_initialized():
            missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
            if missing:
                raise UserError(
                    f"this is one of {self.count} processes, but {' and '.join(missing)} is not set: start all of them "
                    f"with torchrun, or set {', '.join(_VARIABLES)} for each"
                )
            where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            with self._peers(f"meeting the others at {where}"):
                dist.init_process_group("gloo", rank=self.index, world_size=self.count, timeout=self._timeout)

    def another(self) -> "Processes":
        """The same processes on connections of their own, for use in another thread beside this one."""
        other = Processes.__new__(Processes)
        other.index, other.count, other._timeout, other._group = self.index, self.count, self._timeout, None
        if self.count > 1:
            with self._peers("opening more connections"):
                other._group = dist.new_group(backend="gloo", timeout=self._timeout)
        return other

    def any(self, flag: bool) -> bool:
        """True everywhere if `flag` is true anywhere."""
        if self.count == 1:
            return flag
        value = torch.tensor(int(flag))
        with self._peers("agreeing"):
            dist.all_reduce(value, op=dist.ReduceOp.MAX, group=self._group)
        return bool(value.item())

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The element-wise sum over all processes (outside the graph of gradients)."""
        if self.count == 1:
            return tensor
        total = tensor.detach().to("cpu", copy=True)  # all_reduce overwrites
        with self._peers("adding up"):
            dist.all_reduce(total, group=self._group)
        return total.to(tensor.device)

    def exchange(self, value: Any) -> list[Any]:
        """The JSON value that each process gave, in the order of the processes."""
        if self.count == 1:
            return [value]
        own = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.count)]
        with self._peers("exchanging what each has to say"):
            dist.all_gather(sizes, torch.tensor([len(own)]), group=self._group)
            longest = max(int(size) for size in sizes)
            texts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.count)]
            padded = torch.cat([own, torch.zeros(longest - len(own), dtype=torch.uint8)])
            dist.all_gather(texts, padded, group=self._group)
        return [
            json.loads(text[: int(size)].numpy().tobytes().decode()) for text, size in zip(texts, sizes, strict=True)
        ]

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.count > 1:
            with self._peers("waiting for all"):
                dist.barrier(group=self._group)

    @contextmanager
    def _peers(self, doing: str) -> Iterator[None]:
        """Turn what gloo says of others that are gone into an error that says what to do."""
        try:
            yield
        except RuntimeError as error:
            said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            if not any(part in said for part in _LOST):
                raise
            raise ProcessLost(
                f"process {self.index} of {self.count} lost another one while {doing} ({_short(said)}); "
                f"look at how the others ended (they are waited for {self._timeout.total_seconds():g} s, "
                "runtime.peer_timeout_seconds). The same command on all of them resumes from the last checkpoint"
            ) from error


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    try:
        return int(text) if text else default
    except ValueError as error:
        raise UserError(f"the environment variable {name} is {text!r}: it must be a whole number") from error


def _short(said: str) -> str:
    """What gloo said, without the place in its source."""
    return said.rpartition("] ")[2].rstrip(". ") or said
