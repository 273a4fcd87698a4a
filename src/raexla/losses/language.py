"""Next-token cross-entropy as a sum and a count, for a mean over all processes and accumulated parts."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORE = -100


def cross_entropy_sum(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy and the number of tokens that count.

    Args:
        logits: [B, L, V]; position i predicts the token of position i + 1.
        labels: int [B, L], the token ids at their own positions, `IGNORE` (-100) where nothing is to be learned. The
            shift by one happens here: labels[:, 0] is never a target, the last logits predict nothing.

    Returns:
        (sum, count), both float32 scalars; the mean over the global batch is sum of sums / sum of counts (facts A7).
    """
    logits, targets = logits[:, :-1].float(), labels[:, 1:]
    kept = targets != IGNORE
    losses = F.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), targets.clamp_min(0).reshape(-1).long(), reduction="none"
    )
    return (losses * kept.reshape(-1)).sum(), kept.sum().float()


def linear_cross_entropy_sum(hidden: Tensor, table: Tensor, labels: Tensor, chunks: int = 1) -> tuple[Tensor, Tensor]:
    """`cross_entropy_sum(hidden @ table.T, labels)` without all logits in memory at once.

    The sequence is cut into `chunks` parts; of each one the logits are made, the loss and its gradients taken, and the
    logits dropped. Gradients are made along with the loss, so nothing is computed twice.

    Args:
        hidden: [B, L, h]. table: [V, h]. labels: as in `cross_entropy_sum`.
        chunks: parts; 1 is the plain way.

    Returns:
        (sum, count), both float32 scalars.
    """
    if chunks == 1:
        return cross_entropy_sum(F.linear(hidden, table), labels)
    found: Tensor = _Chunked.apply(hidden, table, labels, chunks)
    return found, (labels[:, 1:] != IGNORE).sum().float()


class _Chunked(torch.autograd.Function):
    """Sum of the losses; the gradients stand ready when it is done."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, table: Tensor, labels: Tensor, chunks: int) -> Tensor:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        with torch.autocast(device, enabled=False):
            own, weight, targets = hidden[:, :-1].to(dtype), table.to(dtype), labels[:, 1:]
            total = torch.zeros((), device=hidden.device)
            to_hidden, to_table = [], torch.zeros(table.shape, device=table.device)
            for part, target in zip(own.tensor_split(chunks, 1), targets.tensor_split(chunks, 1), strict=True):
                logits = F.linear(part, weight).float()
                kept = (target != IGNORE).float().unsqueeze(-1)
                wanted = target.clamp_min(0).long().unsqueeze(-1)
                log_p = F.log_softmax(logits, dim=-1)
                total = total - (log_p.gather(-1, wanted) * kept).sum()
                hits = torch.arange(table.shape[0], device=logits.device) == wanted
                slope = ((log_p.exp() - hits.float()) * kept).to(dtype)
                to_hidden.append(torch.matmul(slope, weight))
                to_table = to_table + torch.einsum("blv,blh->vh", slope, part).float()
            last = torch.zeros_like(hidden[:, :1])
            ctx.save_for_backward(torch.cat([*(g.to(hidden.dtype) for g in to_hidden), last], dim=1), to_table)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        to_hidden, to_table = ctx.saved_tensors
        scale = gradients[0]
        return to_hidden * scale.to(to_hidden.dtype), to_table * scale, None, None
