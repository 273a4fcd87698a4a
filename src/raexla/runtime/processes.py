"""Agreement between host processes, over gloo.

Under SPMD each process sees the whole mesh, so torch_xla's own rendezvous is a no-op (pytorch/xla#9479); stop
requests and checkpoints need the processes to agree, and this is where they do.
"""

import os

import torch
import torch.distributed as dist


class Processes:
    """The processes of one job as torchrun or the TPU launcher describes them in the environment."""

    def __init__(self, index: int | None = None, count: int | None = None) -> None:
        self.index = int(os.environ.get("RANK", "0")) if index is None else index
        self.count = int(os.environ.get("WORLD_SIZE", "1")) if count is None else count
        if self.count > 1 and not dist.is_initialized():
            dist.init_process_group("gloo", rank=self.index, world_size=self.count)

    def any(self, flag: bool) -> bool:
        """True everywhere if `flag` is true anywhere."""
        if self.count == 1:
            return flag
        value = torch.tensor(int(flag))
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return bool(value.item())

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The element-wise sum over all processes (outside the graph of gradients)."""
        if self.count == 1:
            return tensor
        total = tensor.detach().cpu()
        dist.all_reduce(total)
        return total.to(tensor.device)

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.count > 1:
            dist.barrier()
