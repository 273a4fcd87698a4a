"""Work on rows that leaves them on the devices that they are split over."""

from collections.abc import Sequence

import torch
from torch import Tensor


def join_rows(batches: Sequence[Tensor], shards: int) -> Tensor:
    """Batches [B_i, ...], each split by rows into `shards` parts -> one batch [sum B_i, ...], split the same way.

    Part by part: the rows of the first part of each batch, then those of the second; B_i are multiples of `shards`.
    """
    parts = [batch.reshape(shards, -1, *batch.shape[1:]) for batch in batches]
    return torch.cat(parts, dim=1).flatten(0, 1)


def part_rows(joined: Tensor, rows: Sequence[int], shards: int) -> list[Tensor]:
    """The batches of `join_rows` again; `rows` are B_i."""
    parts = joined.reshape(shards, -1, *joined.shape[1:])
    return [part.flatten(0, 1) for part in parts.split([count // shards for count in rows], dim=1)]


def pick_tokens(x: Tensor, positions: Tensor) -> Tensor:
    """Tokens [B, K, C] of x [B, L, C] at `positions` [B, K] of each row.

    A product with a matrix of zeros and ones, which is exact: XLA's gather would first bring all rows together.
    """
    chosen = positions[:, :, None] == torch.arange(x.shape[1], device=x.device)
    return torch.bmm(chosen.to(x.dtype), x)
