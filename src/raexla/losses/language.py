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
    return _summed(logits[:, :-1], labels[:, 1:])


def _summed(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [B, K, V], each for its target [B, K]."""
    kept = targets != IGNORE
    losses = F.cross_entropy(
        logits.float().reshape(-1, logits.shape[-1]), targets.clamp_min(0).reshape(-1).long(), reduction="none"
    )
    return (losses * kept.reshape(-1)).sum(), kept.sum().float()


def learned_only(hidden: Tensor, labels: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The hidden states that predict a learned token, and these tokens: all that logits are needed for.

    A product with a matrix of zeros and ones, which is exact, and which devices share by rows without talking.

    Args:
        hidden: [B, L, h]. labels: as in `cross_entropy_sum`.
        most: K, learned tokens of a row at most (in `labels[:, 1:]`); more would be left out: who makes rows counts.

    Returns:
        hidden [B, K, h] and targets [B, K]: one predicts the other, `IGNORE` where a row has fewer.
    """
    targets = torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], IGNORE)], dim=1)
    kept = targets != IGNORE
    place = torch.where(kept, torch.cumsum(kept, 1, dtype=torch.int32) - 1, -1)
    picked = place[:, None, :] == torch.arange(most, device=labels.device, dtype=torch.int32)[None, :, None]
    found = torch.where(picked, targets[:, None, :], 0).sum(-1, dtype=labels.dtype)
    return torch.bmm(picked.to(hidden.dtype), hidden), torch.where(picked.any(-1), found, IGNORE)


def linear_cross_entropy_sum(
    hidden: Tensor, table: Tensor, labels: Tensor, chunks: int = 1, most: int | None = None
) -> tuple[Tensor, Tensor]:
    """`cross_entropy_sum(hidden @ table.T, labels)` without all logits in memory at once.

    The sequence is cut into `chunks` parts; of each one the logits are made, the loss and its gradients taken, and the
    logits dropped. Gradients are made along with the loss, so nothing is computed twice.

    Args:
        hidden: [B, L, h]. table: [V, h]. labels: as in `cross_entropy_sum`.
        chunks: parts; 1 is the plain way.
        most: learned tokens of a row at most; no logits are made but for so many, and parts are no larger than they
            are without it. None: for the whole sequence.

    Returns:
        (sum, count), both float32 scalars.
    """
    if most is not None and most < labels.shape[1]:
        chunks = chunks_of(chunks, labels.shape[1], most)
        hidden, targets = learned_only(hidden, labels, most)
    else:
        hidden, targets = hidden[:, :-1], labels[:, 1:]
    if chunks == 1:
        return _summed(F.linear(hidden, table), targets)
    found: Tensor = _Chunked.apply(hidden, table, targets, chunks)
    return found, (targets != IGNORE).sum().float()


def chunks_of(chunks: int, length: int, most: int) -> int:
    """The parts that `most` tokens of `length` take, each no longer than that sequence's in `chunks` parts."""
    return -(-chunks * most // length)


class _Chunked(torch.autograd.Function):
    """Sum of the losses of hidden states [B, K, h] for targets [B, K]; the gradients stand ready when it is done."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, table: Tensor, targets: Tensor, chunks: int) -> Tensor:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        with torch.autocast(device, enabled=False):
            own, weight = hidden.to(dtype), table.to(dtype)
            total = torch.zeros((), device=hidden.device)
            to_hidden, to_table = [], torch.zeros(table.shape, device=table.device)
            for part, target in zip(own.tensor_split(chunks, 1), targets.tensor_split(chunks, 1), strict=True):
                logits = F.linear(part, weight).float()
                kept = (target != IGNORE).float().unsqueeze(-1)
                wanted = target.clamp_min(0).long().unsqueeze(-1)
                log_p = F.log_softmax(logits, dim=-1)
                hits = torch.arange(table.shape[0], device=logits.device) == wanted
                total = total - torch.where(hits, log_p * kept, 0.0).sum()
                slope = ((log_p.exp() - hits.float()) * kept).to(dtype)
                to_hidden.append(torch.matmul(slope, weight))
                to_table = to_table + torch.einsum("blv,blh->vh", slope, part).float()
            ctx.save_for_backward(torch.cat([gradient.to(hidden.dtype) for gradient in to_hidden], dim=1), to_table)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        to_hidden, to_table = ctx.saved_tensors
        scale = gradients[0]
        return to_hidden * scale.to(to_hidden.dtype), to_table * scale, None, None
